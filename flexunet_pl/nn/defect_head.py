"""Whether an image shows a defect at all: a head on the encoder's deepest features, and its loss."""

from torch import Tensor, nn
from torch.nn import functional

# Training begins with a probability of 0.5, at which the gate is open.
FIRST_LOGIT = 0.0
# How much of a cell's logit below 0 is taken from the logits of all defects there. What programs differ by in a cell
# stays small; a steeper gate gains little.
STEEPNESS = 8.0


class DefectHead(nn.Conv2d):
    """Map features (N, C, h, w) to cells (N, 1, h, w): the logit that there is a defect in that part of the image.

    The highest cell speaks for the image, so that neither its size nor the share of its area that is good matters.
    """

    def __init__(self, channels: int) -> None:
        """Build the head for features of ``channels`` channels."""
        super().__init__(channels, 1, kernel_size=1)
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.constant_(self.bias, FIRST_LOGIT)


class DefectGate(nn.Module):
    """Where no cell nearby shows a defect, make the background more probable.

    The head, which sees more of the surroundings, knows many isolated false positives on good surfaces. Where the
    highest of the 3x3 cells around a pixel has a logit below 0, ``STEEPNESS`` times that is taken from the logits of
    all defects. Probabilities and masks stay consistent.
    """

    def __init__(self, num_classes: int, cell: int) -> None:
        """Build the gate for logits of ``num_classes`` channels, and cells of ``cell`` pixels a side."""
        super().__init__()
        self.cell = cell
        # Two convolutions with fixed weights, because every format has them.
        self.doubt = nn.Conv2d(1, 1, kernel_size=1, bias=False).requires_grad_(False)
        self.spread = nn.Conv2d(1, num_classes, kernel_size=1, bias=False).requires_grad_(False)
        nn.init.constant_(self.doubt.weight, -1.0)
        nn.init.constant_(self.spread.weight, -STEEPNESS)
        if num_classes > 1:
            self.spread.weight.data[0] = 0  # background

    def forward(self, logits: Tensor, cells: Tensor) -> Tensor:
        """Map logits (N, K, H, W) and cells (N, 1, h, w) to logits (N, K, H, W)."""
        highest = functional.max_pool2d(cells, kernel_size=3, stride=1, padding=1)
        doubt = functional.relu(self.doubt(highest))
        taken: Tensor = self.spread(functional.interpolate(doubt, scale_factor=float(self.cell), mode="nearest"))
        return logits + taken


def logits_and_cells(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Map an image (N, C, H, W) to a network's logits (N, K, H, W) and cells, None if it has no such head."""
    both = getattr(network, "logits_and_cells", None)
    if both is None:
        return network(image), None
    found: tuple[Tensor, Tensor | None] = both(image)
    return found


def image_logit(cells: Tensor) -> Tensor:
    """Map cells (N, 1, h, w) to the logit that the image shows a defect, (N,)."""
    return cells.amax((1, 2, 3))


def defect_loss(cells: Tensor, mask: Tensor) -> Tensor:
    """Return the binary cross-entropy of the cells plus that of the images, a scalar.

    Args:
        cells: Logits (N, 1, h, w), any float type; computed in float32.
        mask: Class index uint8 (N, H, W), 255 = ignore. A cell, or an image, whose pixels are all ignored is left out.
    """
    counted = (mask != 255).unsqueeze(1)
    shows = functional.adaptive_max_pool2d((counted & (mask > 0).unsqueeze(1)).float(), cells.shape[-2:])
    known = functional.adaptive_max_pool2d(counted.float(), cells.shape[-2:])
    logits = cells.float()
    by_cell = functional.binary_cross_entropy_with_logits(logits, shows, weight=known, reduction="sum")
    seen = known.amax((1, 2, 3))
    by_image = functional.binary_cross_entropy_with_logits(
        image_logit(logits), shows.amax((1, 2, 3)), weight=seen, reduction="sum"
    )
    return by_cell / known.sum().clamp(min=1) + by_image / seen.sum().clamp(min=1)
