"""Whether an image shows a defect at all: a head on the encoder's deepest features, and its loss."""

from torch import Tensor, nn
from torch.nn import functional

# Most cells show nothing: training begins with a probability of 0.12.
FIRST_LOGIT = -2.0


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
