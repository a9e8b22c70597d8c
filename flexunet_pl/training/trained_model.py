"""Load a trained model, exported or a checkpoint, behind the interface of the inference file."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.memory import keep_freed_memory
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.inference import onnx_infer
from flexunet_pl.training.decision_file import acceptance_of
from flexunet_pl.training.runs import find_checkpoint, named_run

if TYPE_CHECKING:
    from flexunet_pl.training.task import SegmentationTask


def model_file(path: Path) -> Path:
    """Return the .onnx file of a bundle, an .onnx file itself, or what :func:`find_checkpoint` finds.

    Raises:
        UserError: If there is no model.
    """
    path = named_run(path)
    if (path / "model.onnx").is_file():
        return path / "model.onnx"
    return path if path.suffix == ".onnx" else find_checkpoint(path)


def load_network(file: Path, device: str | None = None) -> onnx_infer.Model:
    """Load a :func:`model_file`; by default checkpoints use CUDA if there is a GPU, and .onnx files the CPU.

    Raises:
        UserError: If it cannot be loaded, or not on this device.
    """
    if file.suffix != ".onnx":
        return _CheckpointNetwork(file, device)
    with user_errors():
        return onnx_infer.Model(file, providers=[] if device is None or device == "cpu" else [device])


@contextlib.contextmanager
def user_errors(prefix: str = "") -> Iterator[None]:
    """Raise errors of the inference file as UserError, with ``prefix`` before the message."""
    try:
        yield
    except onnx_infer.InferenceError as error:
        raise UserError(f"{prefix}{error}") from error


class _CheckpointNetwork(onnx_infer.Model):
    """A checkpoint that runs in PyTorch in place of an exported network."""

    def __init__(self, path: Path, device: str | None) -> None:
        try:
            import torch

            from flexunet_pl.training.drift_file import attach_drift
            from flexunet_pl.training.task import SegmentationTask
        except ModuleNotFoundError as error:
            repair = "pip install 'flexunet_pl[train]', or load a bundle that flexunet export wrote"
            raise UserError(f"{path}: a checkpoint needs the package {error.name}; {repair}") from error
        keep_freed_memory()
        task = SegmentationTask.from_checkpoint(path)
        calibration = attach_drift(task, path)
        try:
            task.to(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
        except (RuntimeError, AssertionError) as error:  # torch was built without the device, or there is none
            reason = str(error).splitlines()[0]
            raise UserError(f"device={device!r} cannot be used ({reason}); use 'cpu', or leave it out") from error
        self.labels = _labels_of(task)._replace(acceptance=acceptance_of(path, task.palette.names))
        self.model_id = sha256_of(path)[:12]
        self.drift_reference = {} if calibration is None else calibration.facts.get("reference", {})
        self._turn = threading.Lock()
        self._run = task.run_arrays


def _labels_of(task: "SegmentationTask") -> onnx_infer.Labels:
    settings, palette, sizing = task.hparams, task.palette, task.sizing
    return onnx_infer.Labels(
        names=palette.names,
        colors=palette.colors,
        ignore=palette.ignore,
        num_classes=settings["num_classes"],
        channels=settings["in_channels"],
        image_size=(sizing.height, sizing.width),
        resize=sizing.rule,
        sixteen_bit=settings["sixteen_bit"],
        size_multiple=task.size_multiple,
        fixed_size=None,
        min_region_area=settings["min_region_area"],
    )
