"""TensorFlow's SAME padding as a constant; timm computes it from the size of each image, which torch cannot export."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

# The layers of timm that pad so: those that do nothing else beyond a layer of torch, and those with a switch.
PLAIN_LAYERS: dict[str, type[nn.Module]] = {
    "Conv2dSame": nn.Conv2d,
    "MaxPool2dSame": nn.MaxPool2d,
    "AvgPool2dSame": nn.AvgPool2d,
}
SWITCHES = {"StdConv2dSame": "same_pad", "ScaledStdConv2dSame": "same_pad", "CondConv2d": "dynamic_padding"}
FILLS = {"MaxPool2dSame": float("-inf")}


def fix_same_padding(network: nn.Module) -> None:
    """Let timm's layers with SAME padding pad by a constant; the names of weights stay.

    The result is the same for images whose sides are multiples of the network's total stride, for then each layer gets
    multiples of its own stride.
    """
    for module in network.modules():
        name = type(module).__name__
        if name in PLAIN_LAYERS:
            module.__class__ = PLAIN_LAYERS[name]
        elif name in SWITCHES and getattr(module, SWITCHES[name]):
            setattr(module, SWITCHES[name], False)
        else:
            continue
        module.register_forward_pre_hook(partial(_pad_input, padding=_padding(module), fill=FILLS.get(name, 0.0)))


def _padding(layer: Any) -> list[int]:
    """Return left, right, top and bottom padding for sides that are multiples of the stride."""
    padding: list[int] = []
    dilations = getattr(layer, "dilation", (1, 1))
    for kernel, stride, dilation in zip(layer.kernel_size, layer.stride, dilations, strict=True):
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        padding = [total // 2, total - total // 2, *padding]  # functional.pad begins with the last dimension
    return padding


def _pad_input(_: nn.Module, inputs: tuple[Tensor, ...], padding: list[int], fill: float) -> tuple[Tensor, ...]:
    """Pad the first input of a layer, (N, C, H, W)."""
    return functional.pad(inputs[0], padding, value=fill), *inputs[1:]
