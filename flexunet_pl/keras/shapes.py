"""The shapes of the outputs of Keras layers, by Keras' own rules."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from flexunet_pl.keras.layers import KerasLayer

# Height and width of a model's input; None leaves both variable.
ImageSize: TypeAlias = tuple[int, int] | None
# Height and width of a layer's output; None where they are variable.
Sides: TypeAlias = tuple[int | None, ...]


def _convolved(options: Mapping[str, Any], axis: int, side: int) -> int:
    stride = options["strides"][axis]
    if options.get("padding", "valid") == "same":
        return int(-(-side // stride))
    return int((side - (options["kernel_size"][axis] - 1) * options["dilation_rate"][axis] - 1) // stride + 1)


def _pooled(options: Mapping[str, Any], axis: int, side: int) -> int:
    if options.get("padding", "valid") == "same":
        return int(-(-side // options["strides"][axis]))
    return int((side - options["pool_size"][axis]) // options["strides"][axis] + 1)


# One side of the output, from a layer's options, the axis (0 is the height) and the side of the input; layers of other
# classes leave the sides alone.
SIDES: dict[str, Callable[[Mapping[str, Any], int, int], int]] = {
    "Conv2D": _convolved,
    "DepthwiseConv2D": _convolved,
    "Conv2DTranspose": lambda options, axis, side: side * options["strides"][axis],
    "MaxPooling2D": _pooled,
    "AveragePooling2D": _pooled,
    "UpSampling2D": lambda options, axis, side: side * options["size"][axis],
    "ZeroPadding2D": lambda options, axis, side: side + sum(options["padding"][axis]),
}
# Layers that return one value a channel.
POOLED_SIDES: dict[str, Sides] = {"GlobalAveragePooling2D": (1, 1), "GlobalMaxPooling2D": ()}


def output_sides(layer: KerasLayer, inputs: list[Sides]) -> Sides:
    """Return height and width of the output of ``layer`` for ``inputs`` of these heights and widths."""
    if layer.kind in POOLED_SIDES:
        return POOLED_SIDES[layer.kind]
    # A side of 1 is broadcast to the other input's, as in Multiply.
    widest = max(inputs, key=lambda sides: [float("inf") if side is None else side for side in sides])
    if layer.kind not in SIDES:
        return widest
    rule = SIDES[layer.kind]
    return tuple(None if side is None else rule(layer.options, axis, side) for axis, side in enumerate(widest))


def output_shapes(layers: list[KerasLayer], image_size: ImageSize) -> dict[str, list[int | None]]:
    """Return the shape [None, height, width, channels] of each layer's output, by the layer's name.

    Args:
        layers: The layers of a model, each after its inputs; the first is the InputLayer.
        image_size: Height and width of the input; None leaves both, and all that depend on them, variable.
    """
    sides: dict[str, Sides] = {}
    for layer in layers:
        image = (None, None) if image_size is None else image_size
        sides[layer.name] = output_sides(layer, [sides[name] for name in layer.inputs]) if layer.inputs else image
    return {layer.name: [None, *sides[layer.name], layer.channels] for layer in layers}
