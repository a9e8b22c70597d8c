"""The drift statistics of a run: a file beside its checkpoints, made for one of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from flexunet_pl.core import console
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.nn.drift import DriftScore, DriftStatistics
from flexunet_pl.nn.weight_files import reading
from flexunet_pl.training.runs import CHECKPOINTS
from flexunet_pl.training.task import SegmentationTask

DRIFT_FILE = "drift.safetensors"  # in a run folder
KEY, FORMAT = "flexunet_pl", 1
REPAIR = "; calibrate it again with flexunet drift RUN"


@dataclass(frozen=True)
class DriftCalibration:
    """Drift statistics, and how they were calibrated.

    Attributes:
        statistics: What the score is computed from.
        checkpoint_sha256: Of the checkpoint whose encoder they belong to.
        facts: Plain data for people and for the metadata of exported models: quantile, images, the false-flag rate
            with its interval, and ``reference``, quantiles of drift score and uncertainty of the validation images.
    """

    statistics: DriftStatistics
    checkpoint_sha256: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def drift_file(checkpoint: Path) -> Path:
    """Return where the drift statistics of a checkpoint are: in its run folder, or beside it if it is in none."""
    folder = checkpoint.parent
    return (folder.parent if folder.name == CHECKPOINTS else folder) / DRIFT_FILE


def write_drift(path: Path, calibration: DriftCalibration) -> None:
    """Write a file atomically, as safetensors with the facts in its metadata."""
    found = calibration.statistics
    tensors = {"projection": found.projection, "offset": found.offset, "bank": found.bank}
    facts = {
        "format": FORMAT,
        "checkpoint_sha256": calibration.checkpoint_sha256,
        "stages": found.stages,
        "strides": found.strides,
        "threshold": found.threshold,
        "facts": calibration.facts,
    }
    whole = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    write_bytes(path, save(whole, {KEY: json.dumps(facts, allow_nan=False)}))


def read_drift(path: Path) -> DriftCalibration:
    """Read a file; no code in it is run.

    Raises:
        UserError: If the file is damaged or of another kind or format.
    """
    with reading(str(path), "drift statistics", REPAIR), safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a safe_open is no dict
        facts = json.loads(file.metadata()[KEY])
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']} is not {FORMAT}, which this version reads")
        stages, strides = (tuple(map(int, facts[name])) for name in ("stages", "strides"))
        projection, offset, bank = (tensors[name] for name in ("projection", "offset", "bank"))
        statistics = DriftStatistics(stages, strides, projection, offset, bank, float(facts["threshold"]))
        return DriftCalibration(statistics, str(facts["checkpoint_sha256"]), dict(facts["facts"]))


def attach_drift(task: SegmentationTask, checkpoint: Path) -> DriftCalibration | None:
    """Give a task the drift score that was calibrated for its checkpoint, and return the calibration, None without one.

    Statistics of another checkpoint, such as that before a resumed training, are left alone with one warning.

    Raises:
        UserError: If the file is damaged, or does not fit the network.
    """
    path = drift_file(checkpoint)
    if not path.is_file():
        return None
    calibration = read_drift(path)
    if calibration.checkpoint_sha256 != sha256_of(checkpoint):
        console.warn(f"{path}: belongs to another checkpoint than {checkpoint}, so there is no drift score{REPAIR}")
        return None
    _check_fit(task, calibration.statistics, path)
    task.drift = DriftScore(calibration.statistics).to(task.device)
    return calibration


def _check_fit(task: SegmentationTask, statistics: DriftStatistics, path: Path) -> None:
    """Raise UserError if the network has no such stages; it is tried out on one small image."""
    import torch

    from flexunet_pl.nn.stages import outputs_of

    side = task.size_multiple
    with torch.inference_mode():
        stages = outputs_of(task.network, torch.zeros(1, task.hparams["in_channels"], side, side)).stages
    channels = sum(stages[place].shape[1] for place in statistics.stages if place < len(stages))
    expected = len(statistics.projection)
    if channels != expected:
        raise UserError(f"{path}: is made for features of {expected} channels, the network has {channels}{REPAIR}")
