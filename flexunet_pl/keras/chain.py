"""Keras layers in the making, and the calls of torch operations that they are made from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flexunet_pl.keras.layers import WEIGHTS, KerasLayer, KerasWeight, keras_shape, numbered_name
from flexunet_pl.keras.shapes import Sides, output_sides


class NoCounterpart(Exception):  # noqa: N818  it becomes a UserError, which names the layer too
    """Keras has no such layer; the message says what is missing."""


class StateTensor(NamedTuple):
    """A weight of the traced network: its key in the state dict, and its shape."""

    key: str
    shape: tuple[int, ...]


@dataclass
class Chain:
    """Layers in the making, by provisional names.

    ``sides`` are height and width of each layer's output in the traced image.
    """

    layers: dict[str, KerasLayer] = field(default_factory=dict)
    sides: dict[str, Sides] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        kind: str,
        inputs: Sequence[KerasLayer],
        options: dict[str, object],
        channels: int,
        weights: Sequence[StateTensor | None] = (),
    ) -> KerasLayer:
        """Append a layer of class ``kind``; ``weights`` are in the order of ``WEIGHTS``, None where there is none."""
        name = numbered_name(kind, self.used[kind])
        self.used[kind] += 1
        stored = tuple(
            KerasWeight(keras_name, keras_shape(kind, tensor.shape), tensor.key)
            for keras_name, tensor in zip(WEIGHTS.get(kind, ()), weights, strict=True)
            if tensor is not None
        )
        layer = KerasLayer(kind, name, tuple(x.name for x in inputs), options, channels, stored)
        self.layers[name] = layer
        self.sides[name] = output_sides(layer, [self.sides[x.name] for x in inputs])
        return layer

    def input(self, channels: int, sides: tuple[int, int]) -> KerasLayer:
        """Begin with an image of ``sides``, height and width."""
        layer = KerasLayer("InputLayer", numbered_name("InputLayer", 0), (), {}, channels)
        self.layers[layer.name], self.sides[layer.name] = layer, sides
        return layer

    def pad(self, x: KerasLayer, height: Sequence[int], width: Sequence[int]) -> KerasLayer:
        """Append zeros above and below, left and right of ``x``, if there are any."""
        if not any((*height, *width)):
            return x
        if min(*height, *width) < 0:
            raise NoCounterpart("it crops")
        options: dict[str, object] = {"padding": [list(height), list(width)], "data_format": "channels_last"}
        return self.add("ZeroPadding2D", (x,), options, x.channels)


@dataclass(frozen=True)
class Call:
    """A call of a torch operation.

    Attributes:
        arguments: By torch's names; tensors are a KerasLayer, or a StateTensor if they are weights.
        sides: Height and width of the result in the traced image.
    """

    arguments: dict[str, Any]
    sides: Sides

    def __getitem__(self, name: str) -> Any:
        """Return the argument called ``name``."""
        return self.arguments[name]
