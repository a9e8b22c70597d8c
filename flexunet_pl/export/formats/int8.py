"""The format int8: the ONNX graph in 8 bits, several times faster on CPUs with VNNI or AMX."""

import logging
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.export.int8.accuracy import check_int8, refuse_loss, summary_of
from flexunet_pl.export.int8.calibration import Pictures
from flexunet_pl.export.int8.quantize import quantize_model
from flexunet_pl.export.registry import EXPORTERS, Exporter, ExportJob, register_exporter

# Enough for stable ranges and for a Dice of rare classes; more would only take longer.
CALIBRATION_PICTURES = 32

logger = logging.getLogger(__name__)


def write(job: ExportJob, path: Path) -> None:
    """Quantise the graph, with ranges from one half of the calibration images."""
    quantize_model(_float_path(path), _half(job, 0).images(), path)


def verify(job: ExportJob, path: Path) -> dict[str, Any]:
    """Compare the 8-bit graph with the float one on the other half of the calibration images."""
    report = check_int8(_float_path(path), path, _half(job, 1))
    logger.info("%s", summary_of(report))
    refuse_loss(report, job.force)
    return {"calibration_images": len(_half(job, 0).files), **report}


def _float_path(path: Path) -> Path:
    return path.with_name(EXPORTERS["onnx"].file_name)


def _half(job: ExportJob, first: int) -> Pictures:
    if job.pictures is None:
        raise UserError("int8 needs --calibration DIR, a folder of typical images that sets the ranges")
    return job.pictures.some(2 * CALIBRATION_PICTURES).every_second(first)


register_exporter(
    Exporter(
        name="int8",
        suffix=".int8.onnx",
        description="the same graph in 8 bits, faster on CPUs with VNNI or AMX; use it in the same way",
        write=write,
        verify=verify,
        needs_calibration=True,
        made_from=("onnx",),
    )
)
