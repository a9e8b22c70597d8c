"""Write a network as .keras, .weights.h5 or legacy .h5; each file is read back and compared before it is renamed."""

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_path
from flexunet_pl.keras.files import CONFIG_MEMBER, WEIGHTS_MEMBER
from flexunet_pl.keras.layers import KerasLayer, all_finite, keras_layers, to_keras
from flexunet_pl.keras.model_json import keras3_config, legacy_config, legacy_name, numbered_names
from flexunet_pl.keras.read_back import check_read_back
from flexunet_pl.keras.reader import read_keras
from flexunet_pl.keras.shapes import ImageSize
from flexunet_pl.keras.tracing import traced_layers
from flexunet_pl.nn.ensemble import Ensemble
from flexunet_pl.nn.flexunet import FlexUNet
from flexunet_pl.nn.networks import Network

# The versions whose layout is written. tf-keras converts the weights of files that claim another generation.
KERAS_VERSION = "3.15.0"
TF_KERAS_VERSION = "2.21.0"
# Archives of the same model are the same to the byte.
MEMBER_DATE = (1980, 1, 1, 0, 0, 0)


def layers_of(network: Network) -> list[KerasLayer]:
    """Return the Keras layers of ``network``.

    Raises:
        UserError: If it is none of those that have Keras files; the message names the layer. An ensemble has none.
    """
    if isinstance(network, Ensemble):
        count = len(network.members)
        raise UserError(f"a Keras file holds one network, not the mean of {count}; export a fold, such as RUN/fold-0")
    return keras_layers(network) if isinstance(network, FlexUNet) else traced_layers(network)


def write_keras(
    path: Path, network: Network, image_size: ImageSize = None, layers: list[KerasLayer] | None = None
) -> None:
    """Write a whole model of Keras 3, which ``keras.models.load_model(path)`` opens without custom objects.

    Its input is float32 (N, H, W, C), raw 0..255; its output the probabilities (N, H, W, K): softmax, or sigmoid for
    one class. The normalisation of the input is part of the model, as a Rescaling layer. The model is not compiled. A
    network with a ``defect_head`` has a second output, the probability (N, 1) that the image shows a defect.

    Args:
        path: The file to write; a name that ends in .keras.
        network: The network; it is not changed.
        image_size: Height and width of the input. None leaves both variable; callers of the model must then use
            multiples of ``network.size_multiple``, since Keras does not pad.
        layers: ``layers_of(network)``, if known.

    Raises:
        UserError: If ``image_size`` does not fit the network, the network computes something that has no layer in
            Keras, or a weight is no finite number.
    """
    _check_size(network, image_size)
    layers = layers_of(network) if layers is None else layers
    with _proven(path, network, image_size, layers) as temporary:
        weights = io.BytesIO()
        with h5py.File(weights, "w") as file:
            _write_by_class(file, network, layers)
        members: dict[str, bytes | memoryview] = {
            "metadata.json": json.dumps({"keras_version": KERAS_VERSION}).encode(),
            CONFIG_MEMBER: json.dumps(keras3_config(layers, image_size)).encode(),
            WEIGHTS_MEMBER: weights.getbuffer(),
        }
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in members.items():
                member = zipfile.ZipInfo(name, MEMBER_DATE)
                member.file_size = len(content)
                with archive.open(member, "w") as stream:
                    stream.write(content)


def write_weights_h5(path: Path, network: Network, layers: list[KerasLayer] | None = None) -> None:
    """Write the weights alone, which ``load_weights`` of Keras 3 (and of tf-keras) reads into the same model.

    Args:
        path: The file to write.
        network: The network; it is not changed.
        layers: ``layers_of(network)``, if known.

    Raises:
        UserError: If the name does not end in .weights.h5, by which Keras recognises such a file; else as
            ``write_keras``.
    """
    if not path.name.endswith(".weights.h5"):
        raise UserError(f"{path}: Keras recognises files of weights by their suffix; try {path.stem}.weights.h5")
    layers = layers_of(network) if layers is None else layers
    with _proven(path, network, None, layers) as temporary, _h5_file(temporary) as file:
        _write_by_class(file, network, layers)


def write_legacy_h5(
    path: Path, network: Network, image_size: ImageSize = None, layers: list[KerasLayer] | None = None
) -> None:
    """Write a whole model in the layout of tf-keras (TensorFlow up to 2.15): what the original calls best_model.h5.

    ``load_weights`` of the original program accepts a FlexUNet for the same configuration, and ``load_weights`` of
    Keras 3 any network for the same model; ``tf_keras.models.load_model`` opens it without custom objects.
    ``load_model`` of Keras 3 does not: it refuses the Conv2DTranspose of any tf-keras file. A division by 255 is a
    Rescaling layer
    here, where the original has a Lambda; neither has weights. There is no optimizer state. Arguments and errors are
    those of ``write_keras``, but the name ends in .h5.
    """
    _check_size(network, image_size)
    layers = layers_of(network) if layers is None else layers
    with _proven(path, network, image_size, layers) as temporary, _h5_file(temporary) as file:
        file.attrs["keras_version"] = TF_KERAS_VERSION
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = json.dumps(legacy_config(layers, image_size))
        root = file.create_group("model_weights")
        root.attrs["keras_version"] = TF_KERAS_VERSION
        root.attrs["backend"] = "tensorflow"
        root.attrs["layer_names"] = [legacy_name(layer.name, layers) for layer in layers]
        state = network.state_dict()
        for layer in layers:
            group = root.create_group(legacy_name(layer.name, layers))
            places = {f"{layer.name}/{weight.name}:0": weight.state_key for weight in layer.weights}
            group.attrs["weight_names"] = list(places)
            for place, key in places.items():
                group.create_dataset(place, data=to_keras(state[key], layer.kind))


def _write_by_class(file: h5py.File, network: Network, layers: list[KerasLayer]) -> None:
    """Write the weights as layers/NAME/vars/0..; the layers of each class are numbered."""
    state = network.state_dict()
    file.create_group("vars").attrs["name"] = "functional"
    for layer, name in zip(layers, numbered_names(layers), strict=True):
        group = file.create_group(f"layers/{name}/vars")
        group.attrs["name"] = layer.name
        for index, weight in enumerate(layer.weights):
            group.create_dataset(str(index), data=to_keras(state[weight.state_key], layer.kind))


def _check_size(network: Network, image_size: ImageSize) -> None:
    step = network.size_multiple
    if image_size is not None and any(side < 1 or side % step for side in image_size):
        fitting = [max(1, -(-side // step)) * step for side in image_size]
        reason = f" (num_layers={network.settings.num_layers})" if isinstance(network, FlexUNet) else ""
        raise UserError(
            f"image_size={list(image_size)}: both sides of a Keras model must be multiples of {step}{reason}; "
            f"try {fitting}, or leave the size variable"
        )


@contextlib.contextmanager
def _proven(path: Path, network: Network, image_size: ImageSize, layers: list[KerasLayer]) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``path`` only if ``verify_keras`` finds the network in it."""
    for key, tensor in network.state_dict().items():
        if not all_finite(tensor):
            raise UserError(f"{path} is not written: {key} holds NaN or infinite values; the training diverged")
    with atomic_path(path) as temporary:
        yield temporary
        verify_keras(temporary, network, image_size, layers)


@contextlib.contextmanager
def _h5_file(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file in memory, and write it to ``path``: the library itself crashes when a disk is full."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    path.write_bytes(content.getvalue())


def verify_keras(
    path: Path, network: Network, image_size: ImageSize = None, layers: list[KerasLayer] | None = None
) -> None:
    """Read a Keras file back and compare it with the network it was written from, bit for bit.

    A FlexUNet is rebuilt from the file, of other networks the configuration and the weights are compared.

    Raises:
        UserError: If a setting, a layer, the image size or a weight differs.
    """
    if not isinstance(network, FlexUNet):
        check_read_back(path, network.state_dict(), layers_of(network) if layers is None else layers, image_size)
        return
    model = read_keras(path, {**network.arguments, "image_size": image_size})
    for key, read in model.state_dict.items():
        written = network.state_dict()[key].detach().to("cpu", read.dtype).contiguous()
        # As whole numbers: -0.0 equals 0.0 as floats.
        same = key.endswith("num_batches_tracked") or torch.equal(written.view(torch.int32), read.view(torch.int32))
        if not same:
            raise UserError(f"{path}: {key} was read back with other values; is the disk full or failing?")
