"""Depthwise convolutions that train at full speed on CPUs with bf16."""

import torch
from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution whose training step is in float32 on the CPU, also under autocast.

    oneDNN computes gradients of such layers in bf16 many times slower than in float32, most of all with strides or with
    5x5 kernels (docs/speed.md); what lies between them gains from bf16 as before.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Map (N, C, H, W) to the same, with the stride divided out."""
        if self.training and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())
        return super().forward(input)


def speed_up_depthwise(network: nn.Module) -> None:
    """Give the plain depthwise convolutions of a network this class; the names of weights stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = DepthwiseConv
