"""The formats keras, weights.h5 and h5: a FlexUNet for Keras 3, as weights alone, and for tf-keras."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flexunet_pl.export.registry import Exporter, ExportJob, register_exporter
from flexunet_pl.keras import write_keras, write_legacy_h5, write_weights_h5
from flexunet_pl.keras.model_json import ImageSize
from flexunet_pl.keras.writer import verify_keras
from flexunet_pl.nn.flexunet import FlexUNet
from flexunet_pl.training.task import SegmentationTask

logger = logging.getLogger(__name__)

WRITERS: dict[str, tuple[Callable[[Path, FlexUNet, ImageSize], None], str]] = {
    "keras": (write_keras, "the network as a whole model of Keras 3, without the mask"),
    "weights.h5": (
        lambda path, network, _: write_weights_h5(path, network),
        "the network's weights alone, for `load_weights` of Keras 3",
    ),
    "h5": (write_legacy_h5, "the network as a whole model of tf-keras, such as the original program reads"),
}


def image_size_of(job: ExportJob) -> ImageSize:
    """Return the input size (height, width) of a Keras model, None if images keep theirs."""
    sizing = job.task.sizing
    return None if sizing.rule == "none" else (sizing.height, sizing.width)


def network_of(job: ExportJob) -> FlexUNet:
    """Return the network of a job, which ``refusal`` has let pass."""
    if not isinstance(job.task.network, FlexUNet):
        raise TypeError(f"{type(job.task.network).__name__} has no Keras form")
    return job.task.network


def refusal(task: SegmentationTask) -> str | None:
    """Return why a checkpoint has no Keras files."""
    return None if isinstance(task.network, FlexUNet) else "only FlexUNet has Keras files; use --formats onnx"


def write(name: str, job: ExportJob, path: Path) -> None:
    """Write one of the formats."""
    if job.task.hparams["tta"]:
        logger.warning("%s holds the network alone, without flip augmentation (model.tta)", path.name)
    WRITERS[name][0](path, network_of(job), image_size_of(job))


def verify(job: ExportJob, path: Path) -> dict[str, Any]:
    """Read the file back and compare weights and settings with the network's, bit for bit."""
    verify_keras(path, network_of(job), image_size_of(job))
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
