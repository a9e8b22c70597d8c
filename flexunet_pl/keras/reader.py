"""Read a .keras, .weights.h5 or .h5 file into FlexUNet's settings and state dict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras.config import ModelDescription, describe
from flexunet_pl.keras.files import open_keras_file
from flexunet_pl.keras.layers import WEIGHTS, blank_network, keras_layers
from flexunet_pl.keras.weights import StoredLayer, find_layers, read_weights, settings_from_shapes
from flexunet_pl.nn.flexunet import FlexUNet

SMALLEST_KERNEL = 3


@dataclass(frozen=True)
class KerasModel:
    """The content of a Keras file.

    Attributes:
        settings: FlexUNet's settings that the file holds, and ``image_size`` [height, width] if it is fixed. A file
            of weights only holds no dropout, dilation, activation, input_normalize or image_size.
        state_dict: FlexUNet's weights, float32, on the CPU.
        notes: What was assumed, a sentence each.
    """

    settings: dict[str, object]
    state_dict: dict[str, Tensor]
    notes: tuple[str, ...]


def read_keras(path: Path, given: Mapping[str, object] | None = None) -> KerasModel:
    """Read a Keras file of a FlexUNet; nothing in it is executed.

    Known are whole models and weights of tf-keras (.h5, .keras, .weights.h5) and Keras 3 (the same); the content
    decides, not the name.

    Args:
        path: The file.
        given: Settings known from elsewhere, by FlexUNet's names, and ``image_size`` [height, width]; None and other
            keys are passed over.

    Raises:
        UserError: If the file is damaged, holds another network, or contradicts ``given``. The message names the
            layer or setting, what was found and what is needed.
    """
    given = {} if given is None else given
    with open_keras_file(path) as keras_file:
        description = None if keras_file.config is None else describe(keras_file.config, given, path)
        stored = find_layers(keras_file, path)
        found = settings_from_shapes(stored, path) if description is None else _described(description, stored, path)
        _refuse_contradictions(found, given, path)
        plan = keras_layers(blank_network(_complete(found, {}), path))
        state_dict = read_weights(stored, plan, keras_file.hdf5, path)
    return KerasModel(found, state_dict, () if description is None else description.notes)


def load_keras(path: Path, given: Mapping[str, object] | None = None) -> tuple[FlexUNet, dict[str, object]]:
    """Read a Keras file into a FlexUNet on the CPU, in training mode as torch builds it.

    Args:
        path: The file, as for ``read_keras``.
        given: Settings known from elsewhere. A setting in neither the file nor ``given`` gets FlexUNet's default;
            ``read_keras(path).settings`` lists those in the file.

    Returns:
        The network and all its settings, with ``image_size`` [height, width] where known.

    Raises:
        UserError: As ``read_keras`` does.
    """
    given = {} if given is None else given
    model = read_keras(path, given)
    settings = _complete(model.settings, given)
    network = blank_network(settings, path)
    # With assign=True the blank network uses these tensors instead of copying them.
    network.load_state_dict(model.state_dict, assign=True)
    image_size = model.settings.get("image_size", given.get("image_size"))
    return network, {**settings, **({} if image_size is None else {"image_size": image_size})}


def _described(description: ModelDescription, stored: list[StoredLayer], path: Path) -> dict[str, object]:
    """Return the settings of a model, after checking that its weights are named after its layers."""
    names = [layer.name for layer in description.layers if layer.kind in WEIGHTS]
    for name, layer in zip(names, stored, strict=False):
        if layer.name not in (None, name):
            weights = f"{layer.place} holds weights of {layer.name!r}"
            raise UserError(f"{path}: {weights}, those of {name!r} are needed there")
    found: dict[str, object] = {**description.settings}
    if description.settings["num_layers"] == 1:
        # The rate is dropout * level: one level has none, whatever the dropout.
        del found["dropout"]
    if description.image_size is not None:
        found["image_size"] = list(description.image_size)
    return found


def _refuse_contradictions(found: Mapping[str, object], given: Mapping[str, object], path: Path) -> None:
    differences = [
        f"{name} is {value} in the file and {given[name]} as given"
        for name, value in found.items()
        if given.get(name) is not None and not _agree(name, value, given[name])
    ]
    if differences:
        raise UserError(f"{path}: {'; '.join(differences)}. Give what the file holds, or the file that fits")


def _agree(name: str, found: object, given: object) -> bool:
    if name == "image_size":
        return isinstance(given, list | tuple) and list(given) == found
    if name == "dropout":
        return isinstance(given, int | float) and isinstance(found, float) and math.isclose(given, found, abs_tol=1e-6)
    if name == "base_kernel" and isinstance(given, int):
        return max(SMALLEST_KERNEL, given) == found
    return given == found


def _complete(stored: Mapping[str, object], given: Mapping[str, object]) -> dict[str, Any]:
    """Return all settings: the file's, else the given ones, else FlexUNet's defaults."""
    with torch.device("meta"):
        defaults = FlexUNet(num_classes=1).arguments
    known = {**defaults, **{name: value for name, value in given.items() if value is not None}, **stored}
    return {name: known[name] for name in defaults}
