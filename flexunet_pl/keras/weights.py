"""Sort a Keras file's weights into FlexUNet's order, check every shape, then read them."""

import dataclasses
import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras.files import KerasFile
from flexunet_pl.keras.layers import (
    MAX_LEVELS,
    NORMALIZATIONS,
    PLAIN_NAMES,
    WEIGHTS,
    KerasLayer,
    all_finite,
    count_levels,
    keras_layers,
    normalization_of,
    numbered_name,
    to_torch,
)
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings

# The classes of FlexUNet's layers with weights.
KINDS = ("Conv2D", "Conv2DTranspose", *NORMALIZATIONS)
KIND_OF_PLAIN_NAME = {PLAIN_NAMES[kind]: kind for kind in KINDS}


@dataclass(frozen=True)
class StoredWeight:
    """Where one weight is in the file: shape in Keras' order of axes, numpy type, offset in bytes."""

    place: str
    shape: tuple[int, ...]
    type: np.dtype[np.floating]
    offset: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind the weight."""
        return self.offset + math.prod(self.shape) * self.type.itemsize


@dataclass(frozen=True)
class StoredLayer:
    """The weights of one layer.

    Attributes:
        group: The layer's group in the file.
        name: The layer's name in the model, if the file has it.
        weights: By Keras' names, or by numbers until ``kind`` is known.
        kind: Keras' class.
    """

    group: str
    name: str | None
    weights: dict[str, StoredWeight]
    kind: str = ""

    @property
    def place(self) -> str:
        """How messages call the layer."""
        return f"layer {self.group!r}"


def find_layers(file: KerasFile, path: Path) -> list[StoredLayer]:
    """Return the layers with weights in topological order.

    Raises:
        UserError: If the file holds other layers than a FlexUNet has, or holds them in another order.
    """
    layers = []
    for layer in file.layers:
        weights = {
            name: StoredWeight(f"layer {layer['name']!r}, {name}", tuple(w["shape"]), np.dtype(w["type"]), w["offset"])
            for name, w in layer["weights"].items()
        }
        layers.append(StoredLayer(layer["name"], layer["model_name"], weights))
    return _by_name(layers, path) if file.layout == "names" else _by_class(layers, path)


def settings_from_shapes(layers: list[StoredLayer], path: Path) -> dict[str, object]:
    """Return the settings that follow from the shapes: all but dropout, dilation, activation and input_normalize."""
    first, head = layers[0].weights["kernel"], layers[-1].weights["kernel"]
    for kernel in (first, head):
        if len(kernel.shape) != 4 or kernel.shape[0] != kernel.shape[1] or 0 in kernel.shape:
            raise UserError(f"{path}: {kernel.place} has the shape {kernel.shape}, FlexUNet needs (k, k, in, out)")
    kinds = [layer.kind for layer in layers]
    return {
        "num_classes": head.shape[3],
        "in_channels": first.shape[2],
        "base_filters": first.shape[3],
        "base_kernel": first.shape[0],
        "num_layers": kinds.count("Conv2DTranspose") + 1,
        "normalization": normalization_of(kinds),
    }


def read_weights(layers: list[StoredLayer], plan: list[KerasLayer], hdf5: Path, path: Path) -> dict[str, Tensor]:
    """Return FlexUNet's state dict, float32; UserError names the layer, what is stored and what is needed.

    No value is read before every shape fits ``plan`` and no two weights overlap in the file.
    """
    wanted = [layer for layer in plan if layer.weights]
    if [layer.kind for layer in layers] != [layer.kind for layer in wanted]:
        raise UserError(f"{path} holds {len(layers)} layers with weights, the model's configuration has {len(wanted)}")
    stored: dict[str, StoredWeight] = {}
    for layer, found in zip(wanted, layers, strict=True):
        for weight in layer.weights:
            stored[weight.state_key] = found.weights[weight.name]
            if (shape := found.weights[weight.name].shape) != weight.shape:
                raise UserError(f"{path}: {found.place}, {weight.name} has the shape {shape}, {weight.shape} is needed")
    in_file_order = sorted(stored.values(), key=lambda weight: weight.offset)
    for before, after in itertools.pairwise(in_file_order):
        if before.end > after.offset:
            raise UserError(f"{path}: {before.place} and {after.place} claim the same bytes; the file is damaged")
    if in_file_order[-1].end > hdf5.stat().st_size:
        raise UserError(f"{path}: {in_file_order[-1].place} is beyond the end of the file, which is truncated")
    state = {key: _read_weight(weight, hdf5, path) for key, weight in stored.items()}
    for key in [key for key in state if key.endswith(".running_var")]:
        # Keras does not store torch's count of batches, which is used only without a momentum.
        state[key.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return state


def _read_weight(weight: StoredWeight, hdf5: Path, path: Path) -> Tensor:
    values = np.fromfile(hdf5, weight.type, math.prod(weight.shape), offset=weight.offset)
    tensor = to_torch(values.astype(np.float32, copy=False).reshape(weight.shape))
    if not all_finite(tensor):
        raise UserError(f"{path}: {weight.place} holds NaN or infinite values; the file is damaged or diverged")
    return tensor


def _by_name(found: list[StoredLayer], path: Path) -> list[StoredLayer]:
    """Give the layers of a .h5, which come in topological order, their classes."""
    normalizations = [layer for layer in found if "gamma" in layer.weights]
    counts = Counter(
        "BatchNormalization" if "moving_mean" in layer.weights else "GroupNormalization" for layer in normalizations
    )
    layers = []
    for layer, kind in zip(found, _topological_kinds(len(found) - len(normalizations), counts, path), strict=True):
        if list(layer.weights) != list(WEIGHTS[kind]):
            held, needed = ", ".join(map(repr, layer.weights)), ", ".join(WEIGHTS[kind])
            raise UserError(f"{path}: {layer.place} holds {held}, FlexUNet has {kind} here with {needed}")
        layers.append(dataclasses.replace(layer, kind=kind))
    return layers


def _by_class(found: list[StoredLayer], path: Path) -> list[StoredLayer]:
    """Put the layers of a .weights.h5 or .keras, which are numbered per class, into topological order."""
    layer_of = {layer.group: layer for layer in found}
    counts: Counter[str] = Counter()
    for name in layer_of:
        kind = KIND_OF_PLAIN_NAME.get(re.sub(r"_\d+$", "", name))
        if kind is None:
            raise UserError(f"{path}: layer {name!r} holds weights and has no place in FlexUNet")
        counts[kind] += 1
    normalizations = Counter({kind: counts[kind] for kind in NORMALIZATIONS if counts[kind]})
    used: Counter[str] = Counter()
    layers = []
    for kind in _topological_kinds(counts["Conv2D"] + counts["Conv2DTranspose"], normalizations, path):
        name = numbered_name(kind, used[kind])
        used[kind] += 1
        if name not in layer_of:
            raise UserError(f"{path} lacks layer {name!r}")
        layer, needed = layer_of[name], len(WEIGHTS[kind])
        if len(layer.weights) != needed:
            raise UserError(f"{path}: {layer.place} holds {len(layer.weights)} weights, {needed} are needed")
        weights = {
            weight: dataclasses.replace(stored, place=f"{layer.place}, {weight}")
            for weight, stored in zip(WEIGHTS[kind], layer.weights.values(), strict=True)
        }
        layers.append(dataclasses.replace(layer, kind=kind, weights=weights))
    return layers


def _topological_kinds(kernels: int, normalizations: Counter[str], path: Path) -> list[str]:
    """Return the classes of a FlexUNet's layers with weights, in order, from their numbers."""
    levels = count_levels(kernels)
    count = normalizations.total()
    if levels is None or levels > MAX_LEVELS or len(normalizations) > 1 or count not in (0, 4 * levels - 2):
        listed = " and ".join(f"{number} {kind}" for kind, number in normalizations.items())
        raise UserError(
            f"{path} holds {kernels} layers with a kernel and {listed or 'no normalization'}; a FlexUNet of n levels "
            f"(n up to {MAX_LEVELS}) has 5n - 2 and either none or 4n - 2 of one kind"
        )
    settings = FlexUNetSettings(1, 3, levels, dropout=0.0, normalization=normalization_of(normalizations))
    with torch.device("meta"):
        network = FlexUNet(2, 1, settings)
    return [layer.kind for layer in keras_layers(network) if layer.weights]
