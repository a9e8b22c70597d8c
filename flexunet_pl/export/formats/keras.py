"""The formats keras, weights.h5 and h5: the network for Keras 3, as weights alone, and for tf-keras."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flexunet_pl.core.errors import UserError
from flexunet_pl.export.registry import Exporter, ExportJob, register_exporter
from flexunet_pl.keras import write_keras, write_legacy_h5, write_weights_h5
from flexunet_pl.keras.layers import KerasLayer
from flexunet_pl.keras.shapes import ImageSize
from flexunet_pl.keras.writer import layers_of, verify_keras
from flexunet_pl.nn.networks import Network
from flexunet_pl.training.task import SegmentationTask

logger = logging.getLogger(__name__)

WRITERS: dict[str, tuple[Callable[[Path, Network, ImageSize, list[KerasLayer]], None], str]] = {
    "keras": (write_keras, "the network as a whole model of Keras 3, without the mask"),
    "weights.h5": (
        lambda path, network, _, layers: write_weights_h5(path, network, layers),
        "the network's weights alone, for `load_weights` of Keras 3",
    ),
    "h5": (write_legacy_h5, "the network as a whole model of tf-keras, such as the original program reads"),
}
# The layers of the networks being exported: torch takes a second or two to find them, and each format asks thrice.
known_layers: WeakKeyDictionary[Network, list[KerasLayer]] = WeakKeyDictionary()


def image_size_of(job: ExportJob) -> ImageSize:
    """Return the input size (height, width) of a Keras model, None if images keep theirs."""
    sizing = job.task.sizing
    return None if sizing.rule == "none" else (sizing.height, sizing.width)


def layers_for(network: Network) -> list[KerasLayer]:
    """Return the Keras layers of ``network``; UserError, which names the layer, if it has none."""
    if network not in known_layers:
        known_layers[network] = layers_of(network)
    return known_layers[network]


def refusal(task: SegmentationTask) -> str | None:
    """Return why a checkpoint has no Keras files."""
    try:
        layers_for(task.network)
    except UserError as error:
        return str(error)
    return None


def write(name: str, job: ExportJob, path: Path) -> None:
    """Write one of the formats."""
    if job.task.hparams["tta"]:
        logger.warning("%s holds the network alone, without flip augmentation (model.tta)", path.name)
    network = job.task.network
    WRITERS[name][0](path, network, image_size_of(job), layers_for(network))


def verify(job: ExportJob, path: Path) -> dict[str, Any]:
    """Read the file back and compare weights and settings with the network's, bit for bit."""
    network = job.task.network
    verify_keras(path, network, image_size_of(job), layers_for(network))
    return {"read_back": "all weights and settings are those of the checkpoint"}


for format_name, (_, description) in WRITERS.items():
    register_exporter(
        Exporter(
            name=format_name,
            suffix=f".{format_name}",
            description=description,
            write=partial(write, format_name),
            verify=verify,
            refusal=refusal,
        )
    )
