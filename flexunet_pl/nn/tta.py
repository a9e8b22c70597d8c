"""Test-time augmentation with the mirror image."""

import torch
from torch import Tensor, nn


class FlipTTA(nn.Module):
    """The mean logits of an image and its mirror image (left and right exchanged)."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap ``network``, which maps images (N, C, H, W) to logits (N, K, H, W); its weights are shared."""
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W), 0..255, to logits (N, K, H, W): both views in one pass."""
        straight, mirrored = self.network(torch.cat([image, image.flip(-1)])).unflatten(0, (2, -1))
        return torch.as_tensor((straight + mirrored.flip(-1)) / 2)
