"""Read FlexUNet's settings from a Keras configuration, and check that the model is that FlexUNet layer by layer."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras.contents import MAX_LAYERS
from flexunet_pl.keras.lambda_layers import Verdict, classify_lambda
from flexunet_pl.keras.layers import KerasLayer, blank_network, keras_layers, normalization_of

MAX_NAME = 200
# tf-keras says swish where Keras 3 says silu.
ACTIVATION_ALIASES = {"swish": "silu"}
# Keras' defaults for missing options.
DEFAULTS = {"groups": 1, "offset": 0.0, "dilation_rate": [1, 1], "axis": -1}


@dataclass(frozen=True)
class FoundLayer:
    """One layer of a configuration."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    options: dict[str, object]


@dataclass(frozen=True)
class ModelDescription:
    """The content of a configuration: FlexUNet's settings, the input's (height, width) unless variable, and notes."""

    settings: dict[str, Any]
    image_size: tuple[int, int] | None
    layers: list[FoundLayer]
    notes: tuple[str, ...]


def describe(config: object, given: Mapping[str, object], path: Path) -> ModelDescription:
    """Read the model configuration ``config``, the parsed JSON of tf-keras or Keras 3 in the file ``path``.

    Of the known settings ``given`` only ``input_normalize`` matters, for a Lambda layer whose code cannot be read.

    Raises:
        UserError: If the model is no FlexUNet; the message names the layer, what it has and what is needed.
    """
    layers = _found_layers(config, path)
    convolutions = [layer for layer in layers if layer.kind == "Conv2D"]
    if not convolutions or layers[0].kind != "InputLayer":
        raise UserError(f"{path} holds no FlexUNet: it begins with {layers[0].kind} and has {len(convolutions)} Conv2D")
    height, width, channels = _input_shape(layers[0], path)
    notes = []
    input_normalize = len(layers) > 1 and layers[1].kind in ("Rescaling", "Lambda")
    if input_normalize and layers[1].kind == "Lambda":
        notes.append(_note_on_lambda(layers[1], given, path))
    levels = 1 + sum(layer.kind == "Conv2DTranspose" for layer in layers)
    dropouts = [layer for layer in layers if layer.kind == "Dropout"]
    first, head = convolutions[0], convolutions[-1]
    settings = {
        "num_classes": _whole(head, "filters", path),
        "in_channels": channels,
        "base_filters": _whole(first, "filters", path),
        "base_kernel": _whole(first, "kernel_size", path),
        "num_layers": levels,
        # The rate is dropout * level: 0 at the top level, dropout itself at the second.
        "dropout": _rate(dropouts[1], path) if levels > 1 and len(dropouts) > 1 else 0.0,
        "dilation": _whole(first, "dilation_rate", path),
        "activation": str(_plain(first.options.get("activation"))),
        "normalization": normalization_of(layer.kind for layer in layers),
        "input_normalize": input_normalize,
    }
    needed = keras_layers(blank_network(settings, path))
    _compare(layers, needed, path)
    output = _entry(config, "output_layers")
    while isinstance(output, list) and output:
        output = output[0]
    if output != layers[-1].name:
        raise UserError(f"{path}: the output is taken from {output!r}, {layers[-1].name!r} is needed")
    image_size = None if height is None or width is None else (height, width)
    return ModelDescription(settings, image_size, layers, tuple(notes))


def _entry(config: object, key: str) -> object:
    """Return ``config["config"][key]``; KeyError and TypeError are turned into a message by open_keras_file."""
    if not isinstance(config, dict) or config.get("class_name") not in ("Functional", "Model"):
        kind = config.get("class_name") if isinstance(config, dict) else type(config).__name__
        raise TypeError(f"the model is of class {kind!r}, Functional is needed")
    value: object = config["config"][key]
    return value


def _found_layers(config: object, path: Path) -> list[FoundLayer]:
    layers = _entry(config, "layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        count = len(layers) if isinstance(layers, list) else "no"
        raise UserError(f"{path}: the model's configuration lists {count} layers, 1 to {MAX_LAYERS} are read")
    return [
        FoundLayer(
            _identifier(layer["class_name"]),
            _identifier(layer["config"]["name"]),
            _inputs(layer["inbound_nodes"]),
            layer["config"],
        )
        for layer in layers
    ]


def _identifier(text: object) -> str:
    """Return ``text`` if it is a printable name of reasonable length."""
    if not isinstance(text, str) or not text.isprintable() or len(text) > MAX_NAME:
        raise ValueError(f"{reprlib.repr(text)} is no name")
    return text


def _inputs(nodes: list[object]) -> tuple[str, ...]:
    """Return the names of the layers that feed a layer, from the notation of tf-keras or Keras 3."""
    if len(nodes) > 1:
        raise ValueError(f"a layer is used {len(nodes)} times, once is needed")
    if not nodes:
        return ()
    node = nodes[0]
    if isinstance(node, dict):
        tensors = node["args"][0]
        tensors = tensors if isinstance(tensors, list) else [tensors]
        return tuple(_identifier(tensor["config"]["keras_history"][0]) for tensor in tensors)
    if not isinstance(node, list):
        raise TypeError(f"inbound_nodes holds {type(node).__name__}")
    return tuple(_identifier(tensor[0]) for tensor in node)


def _input_shape(layer: FoundLayer, path: Path) -> tuple[int | None, int | None, int]:
    shape = layer.options.get("batch_shape", layer.options.get("batch_input_shape"))
    sides_fit = isinstance(shape, list) and len(shape) == 4 and all(side is None or _is_whole(side) for side in shape)
    if not (isinstance(shape, list) and sides_fit and shape[3] is not None):
        needed = "[null, height, width, channels] is needed"
        raise UserError(f"{path}: layer {layer.name} has the shape {reprlib.repr(shape)}, {needed}")
    return shape[1], shape[2], shape[3]


def _note_on_lambda(layer: FoundLayer, given: Mapping[str, object], path: Path) -> str:
    """Return the note on a Lambda layer behind the input that counts as a division by 255."""
    verdict = classify_lambda(layer.options.get("function"))
    taken = f"layer {layer.name} was taken for"
    if verdict is Verdict.DIVIDES_BY_255:
        return f"{taken} the original's division by 255 from its code, which was not run"
    repair = "Save the model without it, or with a Rescaling layer"
    if verdict is Verdict.UNREADABLE:
        if given.get("input_normalize") is True:
            return f"{taken} a division by 255 because input_normalize=True was given; it was not run"
        repair = "If it is that division, give input_normalize=True"
    code = f"the code in the Lambda layer {layer.name} {verdict.value}"
    raise UserError(f"{path}: {code}, and only that division is known here. {repair}")


def _compare(found: list[FoundLayer], needed: list[KerasLayer], path: Path) -> None:
    """Raise UserError at the first layer of ``found`` that differs from ``needed`` in class, inputs or options."""
    name_of: dict[str, str] = {}
    for layer, wanted in zip(found, needed, strict=False):
        name_of[wanted.name] = layer.name
        kind = "Rescaling" if layer.kind == "Lambda" and wanted.kind == "Rescaling" else layer.kind
        inputs = tuple(name_of[name] for name in wanted.inputs)
        place = f"{path}: layer {layer.name}"
        if kind != wanted.kind:
            raise UserError(f"{place} is {layer.kind}, FlexUNet needs {wanted.kind} here")
        if layer.inputs != inputs:
            raise UserError(f"{place} takes {', '.join(layer.inputs)}, FlexUNet needs {', '.join(inputs)} here")
        for option, value in wanted.options.items() if layer.kind != "Lambda" else ():
            actual = layer.options.get(option, DEFAULTS.get(option))
            if not _fits(option, actual, value):
                has = f"({layer.kind}) has {option} {reprlib.repr(actual)}"
                raise UserError(f"{place} {has}, FlexUNet needs {value} here")
    if len(found) != len(needed):
        last = found[min(len(found), len(needed)) - 1].name
        counts = f"the model has {len(found)} layers, FlexUNet needs {len(needed)}"
        raise UserError(f"{path}: {counts}; they agree up to {last}")


def _plain(value: object) -> object:
    """Return the one value of [v, v], the name of a serialised function, silu for swish."""
    if isinstance(value, list) and value and all(side == value[0] for side in value):
        value = value[0]
    if isinstance(value, dict):
        value = value.get("config")
    return ACTIVATION_ALIASES.get(value, value) if isinstance(value, str) else value


def _fits(option: str, found: object, needed: object) -> bool:
    """Return whether two values of ``option`` mean the same; of four axes number 3 is the last, -1."""
    found, needed = _plain(found), _plain(needed)
    if option == "axis":
        return found in (3, -1) and needed in (3, -1)
    if isinstance(needed, float):
        return isinstance(found, int | float) and math.isclose(found, needed, rel_tol=1e-6, abs_tol=1e-9)
    return type(found) is type(needed) and found == needed


def _is_whole(value: object) -> bool:
    return type(value) is int and value >= 1


def _whole(layer: FoundLayer, option: str, path: Path) -> int:
    value = _plain(layer.options.get(option))
    if not (isinstance(value, int) and _is_whole(value)):
        has = f"layer {layer.name} has {option} {reprlib.repr(layer.options.get(option))}"
        raise UserError(f"{path}: {has}, FlexUNet needs one whole number of at least 1, the same both ways")
    return value


def _rate(layer: FoundLayer, path: Path) -> float:
    rate = layer.options.get("rate")
    if not isinstance(rate, int | float):
        raise UserError(f"{path}: layer {layer.name} has the rate {rate!r}, a number is needed")
    return float(rate)
