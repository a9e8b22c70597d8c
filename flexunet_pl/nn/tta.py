"""Test-time augmentation with the mirror image."""

import torch
from torch import Tensor, nn

from flexunet_pl.nn.defect_head import image_logit
from flexunet_pl.nn.stages import Outputs, outputs_of


class FlipTTA(nn.Module):
    """The mean logits of an image and its mirror image (left and right exchanged)."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap ``network``, which maps images (N, C, H, W) to logits (N, K, H, W); its weights are shared."""
        super().__init__()
        self.network = network

    @property
    def defect_head(self) -> nn.Module | None:
        """The head for whole images of the network, None if it has none."""
        return getattr(self.network, "defect_head", None)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W), 0..255, to logits (N, K, H, W): both views in one pass."""
        return _mean_of_views(self.network(_views(image)))

    def logits_and_cells(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map an image as ``forward`` does; also return one cell (N, 1, 1, 1), the mean of what both views say.

        The cells themselves have no mean: an image is padded at its right, so those of the mirror image lie elsewhere.
        """
        logits, cells, _ = self.outputs(image)
        return logits, cells

    def outputs(self, image: Tensor) -> Outputs:
        """Map an image as :meth:`logits_and_cells` does; the stages are those of the image as it is."""
        logits, cells, stages = outputs_of(self.network, _views(image))
        if cells is not None:
            cells = image_logit(cells).view(2, -1).mean(0).view(-1, 1, 1, 1)
        straight = [stage.unflatten(0, (2, -1))[0] for stage in stages]  # type: ignore[no-untyped-call]  # as below
        return Outputs(_mean_of_views(logits), cells, straight)


def _views(image: Tensor) -> Tensor:
    return torch.cat([image, image.flip(-1)])


def _mean_of_views(output: Tensor) -> Tensor:
    straight, mirrored = output.unflatten(0, (2, -1))  # type: ignore[no-untyped-call]  # torch has it so
    return torch.as_tensor((straight + mirrored.flip(-1)) / 2)
