"""Compare a written Keras file with what it was written from, for networks that are not rebuilt from it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras.files import open_keras_file
from flexunet_pl.keras.layers import KerasLayer, to_keras
from flexunet_pl.keras.model_json import keras3_config, legacy_config, legacy_name, numbered_names
from flexunet_pl.keras.shapes import ImageSize

CAUSE = "is the disk full or failing?"


def check_read_back(path: Path, state: Mapping[str, Tensor], layers: list[KerasLayer], image_size: ImageSize) -> None:
    """Read the Keras file ``path`` and compare its configuration and its weights, bit for bit.

    Args:
        path: The file; one of weights alone has no configuration.
        state: The state dict of the network.
        layers: The layers that were written.
        image_size: Height and width of the model's input; None if they are variable.

    Raises:
        UserError: If the configuration, a layer or a weight differs.
    """
    with open_keras_file(path) as file:
        is_legacy = file.layout == "names"
        wanted = (legacy_config if is_legacy else keras3_config)(layers, image_size)
        # JSON has no tuples; a file of weights alone has the layout of Keras 3 and no configuration.
        if (file.config is not None or is_legacy) and file.config != json.loads(json.dumps(wanted)):
            raise UserError(f"{path}: the model's configuration was read back otherwise; {CAUSE}")
        names = [legacy_name(layer.name, layers) for layer in layers] if is_legacy else numbered_names(layers)
        found = {entry["name"]: entry["weights"] for entry in file.layers}
        if found.keys() != {name for name, layer in zip(names, layers, strict=True) if layer.weights}:
            raise UserError(f"{path}: other layers with weights were read back; {CAUSE}")
        for name, layer in zip(names, layers, strict=True):
            wanted_names = [weight.name if is_legacy else str(index) for index, weight in enumerate(layer.weights)]
            if layer.weights and list(found[name]) != wanted_names:
                raise UserError(f"{path}: layer {name!r} was read back with other weights; {CAUSE}")
            for weight_name, weight in zip(wanted_names, layer.weights, strict=True):
                written, entry = to_keras(state[weight.state_key], layer.kind), found[name][weight_name]
                count = math.prod(entry["shape"])
                read = np.fromfile(file.hdf5, np.dtype(entry["type"]), count, offset=entry["offset"])
                is_same = entry["shape"] == list(written.shape) and entry["type"] == written.dtype.str
                if not is_same or read.tobytes() != written.tobytes():
                    raise UserError(f"{path}: {weight.state_key} was read back with other values; {CAUSE}")
