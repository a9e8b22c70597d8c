"""Find the weights in the three layouts of Keras' HDF5 files and read them, once every shape is known to fit."""

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from flexunet_pl.errors import UserError
from flexunet_pl.export.keras_files import MAX_LAYERS, child, read_texts
from flexunet_pl.export.keras_layers import (
    MAX_LEVELS,
    PLAIN_NAMES,
    WEIGHTS,
    KerasLayer,
    KerasWeight,
    blank_network,
    count_levels,
    keras_layers,
    numbered_name,
    to_torch,
)
from flexunet_pl.nn.flexunet import FlexUNetSettings

KIND_OF_PLAIN_NAME = {PLAIN_NAMES[kind]: kind for kind in WEIGHTS}


@dataclass(frozen=True)
class StoredLayer:
    """The weights of one layer in a file: Keras' class, the model's name for the layer if known, and the datasets."""

    kind: str
    name: str | None
    place: str
    datasets: dict[str, h5py.Dataset]


def find_layers(file: h5py.File, path: Path) -> list[StoredLayer]:
    """Return the layers with weights in ``file`` in topological order.

    Raises:
        UserError: If the file holds other layers than a FlexUNet has, or holds them in another order.
    """
    if "model_weights" in file:
        return _by_layer_names(_group(file, "model_weights", path), path)
    if "layer_names" in file.attrs:
        return _by_layer_names(file, path)
    if "layers" in file:
        return _by_class(_group(file, "layers", path), path)
    raise UserError(f"{path} holds neither model_weights, layer_names nor layers: these are no weights of Keras")


def settings_from_shapes(layers: list[StoredLayer], path: Path) -> dict[str, object]:
    """Return the settings that the shapes tell: all but dropout, dilation, activation and input_normalize."""
    first, head = layers[0], layers[-1]
    kernel, last = first.datasets["kernel"].shape, head.datasets["kernel"].shape
    for layer, shape in ((first, kernel), (head, last)):
        if shape is None or len(shape) != 4 or shape[0] != shape[1] or 0 in shape:
            raise UserError(f"{path}: {layer.place} has a kernel of shape {shape}, FlexUNet needs (k, k, in, out)")
    kinds = [layer.kind for layer in layers]
    return {
        "num_classes": int(last[3]),
        "in_channels": int(kernel[2]),
        "base_filters": int(kernel[3]),
        "base_kernel": int(kernel[0]),
        "num_layers": kinds.count("Conv2DTranspose") + 1,
        "normalization": "BatchNormalization" in kinds,
    }


def read_weights(layers: list[StoredLayer], plan: list[KerasLayer], byte_count: int, path: Path) -> dict[str, Tensor]:
    """Return FlexUNet's state dict, float32.

    No value is read before every shape fits ``plan`` and all of them together fit a file of ``byte_count`` bytes.

    Raises:
        UserError: Naming the layer, what is stored and what is needed.
    """
    wanted = [layer for layer in plan if layer.weights]
    if [layer.kind for layer in layers] != [layer.kind for layer in wanted]:
        raise UserError(f"{path} holds {len(layers)} layers with weights, the model's configuration has {len(wanted)}")
    pairs = [
        (weight, f"{stored.place}, {weight.name}", stored.datasets[weight.name])
        for layer, stored in zip(wanted, layers, strict=True)
        for weight in layer.weights
    ]
    for weight, place, dataset in pairs:
        _check_dataset(dataset, weight, place, path)
    total = sum(dataset.nbytes for _, _, dataset in pairs)
    if total > byte_count:
        raise UserError(f"{path}: its weights claim {total} bytes, the file has {byte_count}; it is damaged")
    state = {weight.state_key: _read_dataset(dataset, place, path) for weight, place, dataset in pairs}
    for key in [key for key in state if key.endswith(".running_var")]:
        # Keras does not store torch's count of batches, which matters only without a momentum.
        state[key.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return state


def _check_dataset(dataset: h5py.Dataset, weight: KerasWeight, place: str, path: Path) -> None:
    if dataset.shape != weight.shape:
        raise UserError(f"{path}: {place} has the shape {dataset.shape}, {weight.shape} is needed")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4):
        raise UserError(f"{path}: {place} holds {dataset.dtype}, float32 or float16 is needed")
    creation = dataset.id.get_create_plist()
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: the values of {place} lie in another file, which is not opened; save the model anew")
    if creation.get_nfilters() or dataset.id.get_storage_size() < dataset.nbytes:
        raise UserError(
            f"{path}: {place} is compressed or not stored in full ({dataset.id.get_storage_size()} of {dataset.nbytes} "
            "bytes); Keras stores weights uncompressed (h5repack -f NONE unpacks them)"
        )


def _read_dataset(dataset: h5py.Dataset, place: str, path: Path) -> Tensor:
    tensor = to_torch(np.asarray(dataset[()], dtype=np.float32))
    if not torch.isfinite(tensor).all():
        raise UserError(f"{path}: {place} holds values that are no finite numbers; the file is damaged or diverged")
    return tensor


def _by_layer_names(root: h5py.Group, path: Path) -> list[StoredLayer]:
    """Read the layout of .h5: the order stands in the attribute layer_names, and per layer in weight_names."""
    found: list[tuple[str, dict[str, h5py.Dataset]]] = []
    for name in read_texts(root, "layer_names", path):
        group = _group(root, name, path)
        datasets = {}
        for weight in read_texts(group, "weight_names", path):
            plain = weight.rsplit("/", 1)[-1].removesuffix(":0")
            datasets[plain] = _dataset(group, weight, path)
        if datasets:
            found.append((name, datasets))
    roles = [next((kind for kind, names in WEIGHTS.items() if list(names) == list(d)), None) for _, d in found]
    kinds = _topological_kinds(len(found) - roles.count("BatchNormalization"), roles.count("BatchNormalization"), path)
    layers = []
    for (name, datasets), role, kind in zip(found, roles, kinds, strict=True):
        if role is None or list(WEIGHTS[role]) != list(WEIGHTS[kind]):
            raise UserError(
                f"{path}: layer {name!r} holds {', '.join(map(repr, datasets))}, FlexUNet has {kind} here with "
                f"{', '.join(WEIGHTS[kind])}"
            )
        layers.append(StoredLayer(kind, name, f"layer {name!r}", datasets))
    return layers


def _by_class(root: h5py.Group, path: Path) -> list[StoredLayer]:
    """Read the layout of .weights.h5 and .keras: layers/<plain class name>[_n]/vars/0.., numbered per class."""
    if len(root) > MAX_LAYERS:
        raise UserError(f"{path} holds {len(root)} layers, at most {MAX_LAYERS} are read")
    counts = dict.fromkeys(WEIGHTS, 0)
    for name in root:
        kind = KIND_OF_PLAIN_NAME.get(re.sub(r"_\d+$", "", name))
        group = _group(root, name, path)
        if kind is not None:
            counts[kind] += 1
        elif "vars" in group and len(_group(group, "vars", path)):
            raise UserError(f"{path}: layer {name!r} holds weights and has no place in FlexUNet")
    kinds = _topological_kinds(counts["Conv2D"] + counts["Conv2DTranspose"], counts["BatchNormalization"], path)
    index = dict.fromkeys(WEIGHTS, 0)
    layers = []
    for kind in kinds:
        name = numbered_name(kind, index[kind])
        index[kind] += 1
        group = _group(root, f"{name}/vars", path)
        if len(group) != len(WEIGHTS[kind]):
            raise UserError(f"{path}: layer {name!r} holds {len(group)} weights, {', '.join(WEIGHTS[kind])} are needed")
        datasets = {weight: _dataset(group, str(number), path) for number, weight in enumerate(WEIGHTS[kind])}
        model_name = read_texts(group, "name", path)[0] if "name" in group.attrs else None
        layers.append(StoredLayer(kind, model_name, f"layer {name!r}", datasets))
    return layers


def _topological_kinds(kernels: int, normalizations: int, path: Path) -> list[str]:
    """Return the classes of a FlexUNet's layers with weights, in order, from their numbers."""
    levels = count_levels(kernels)
    if levels is None or levels > MAX_LEVELS or normalizations not in (0, 4 * levels - 2):
        raise UserError(
            f"{path} holds {kernels} layers with a kernel and {normalizations} BatchNormalization; a FlexUNet of n "
            f"levels (n up to {MAX_LEVELS}) has 5n - 2 and either none or 4n - 2"
        )
    settings: FlexUNetSettings = {
        "num_classes": 2,
        "in_channels": 1,
        "base_filters": 1,
        "base_kernel": 3,
        "num_layers": levels,
        "dropout": 0.0,
        "dilation": 1,
        "activation": "relu",
        "normalization": normalizations > 0,
        "input_normalize": False,
    }
    return [layer.kind for layer in keras_layers(blank_network(settings, path)) if layer.weights]


def _group(parent: h5py.Group, name: str, path: Path) -> h5py.Group:
    item = child(parent, name, path)
    if not isinstance(item, h5py.Group):
        raise UserError(f"{path}: {item.name} is no group of layers or weights")
    return item


def _dataset(parent: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    item = child(parent, name, path)
    if not isinstance(item, h5py.Dataset):
        raise UserError(f"{path}: {item.name} is no weight")
    return item
