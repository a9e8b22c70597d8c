"""Run folders: where a run writes, and which checkpoint a command uses."""

import os
import re
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from flexunet_pl.core.errors import UserError

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
NAMED_CHECKPOINTS = ("best", "last")


def checkpoint_file(run_dir: Path, which: str) -> Path:
    """Return the path of the checkpoint "best" or "last" of a run folder, whether it exists or not."""
    return run_dir / CHECKPOINTS / f"{which}.ckpt"


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint file itself, or the best checkpoint of a run folder, or else its last.

    Raises:
        UserError: If there is none.
    """
    candidates = [path, *(checkpoint_file(path, which) for which in NAMED_CHECKPOINTS)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{path}: no model there; give a run folder, a checkpoint (.ckpt), a bundle (a folder with model.onnx) or an "
        ".onnx file"
    )


def run_for_training(run_dir: str | None, name: str | None, ckpt_path: str | None) -> tuple[Path, Path | None]:
    """Return the folder that fit writes to, and the checkpoint to resume from, if any.

    Args:
        run_dir: The folder given by the user; None takes the next free ``runs/NAME-N``, or the newest to resume.
        name: NAME of the config, None without a config.
        ckpt_path: None, "last", "best", or a file.

    Raises:
        UserError: If the checkpoint does not exist, or the folder holds another run that would be overwritten.
    """
    if ckpt_path in NAMED_CHECKPOINTS:
        folder = Path(run_dir) if run_dir is not None else newest_run(name)
        return folder, _existing(checkpoint_file(folder, ckpt_path))
    folder = Path(run_dir) if run_dir is not None else next_run(name)
    if run_dir is not None and checkpoint_file(folder, "last").is_file() and not is_started_by_lightning():
        raise UserError(
            f"{folder}: this run folder already holds a run; resume it with --ckpt_path last, or choose another "
            "--run_dir"
        )
    return folder, None if ckpt_path is None else _existing(Path(ckpt_path))


def run_for_evaluation(run_dir: str | None, name: str | None, ckpt_path: str | None) -> tuple[Path, Path]:
    """Return the folder that validate, test and predict write to, and the checkpoint they use.

    By default the checkpoint is the best one of the run folder, or of the newest run of that name. A checkpoint inside
    a run folder writes to that run folder.

    Raises:
        UserError: If there is no such checkpoint.
    """
    if ckpt_path is None or ckpt_path in NAMED_CHECKPOINTS:
        folder = Path(run_dir) if run_dir is not None else newest_run(name)
        return folder, _existing(checkpoint_file(folder, ckpt_path if ckpt_path is not None else "best"))
    checkpoint = _existing(Path(ckpt_path))
    if run_dir is not None:
        return Path(run_dir), checkpoint
    if checkpoint.parent.name == CHECKPOINTS:
        return checkpoint.parent.parent, checkpoint
    return next_run(name), checkpoint


def newest_run(name: str | None) -> Path:
    """Return the existing ``runs/NAME-N`` with the largest N.

    Raises:
        UserError: If there is none.
    """
    if name is None:
        raise UserError("no checkpoint: name one with --ckpt_path FILE, or a run with --run_dir DIR or --config FILE")
    numbers = _numbers(name)
    if not numbers:
        raise UserError(f"{RUNS / name}-1: no run of this name yet; name one with --run_dir DIR or --ckpt_path FILE")
    return RUNS / f"{name}-{max(numbers)}"


def next_run(name: str | None) -> Path:
    """Return the first ``runs/NAME-N`` after all existing ones, the same in all processes of a run.

    Raises:
        UserError: If several processes were started from outside and could not agree on a number.
    """
    if (chosen := os.environ.get("FLEXUNET_RUN_DIR")) is not None and is_started_by_lightning():
        return Path(chosen)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise UserError("--run_dir is needed where torchrun or SLURM starts the processes: name one folder for all")
    name = "run" if name is None else name
    return RUNS / f"{name}-{max(_numbers(name), default=0) + 1}"


def announce(run_dir: Path) -> None:
    """Pass the run folder to the processes that Lightning starts for other devices."""
    os.environ["FLEXUNET_RUN_DIR"] = str(run_dir)


def move_folders(parts: list[Any], run_dir: Path, earlier: str | None) -> None:
    """Make the folders of loggers and callbacks absolute, in place; relative ones are in ``run_dir``.

    So are those in the run folder ``earlier``, which a config.yaml of a run names: a new run leaves the old one alone.
    """
    for part in parts:
        options = part.get("init_args") if isinstance(part, Namespace) else None
        for key in ("save_dir", "dirpath"):
            if isinstance(options, Namespace) and options.get(key) is not None:
                folder = Path(options[key])
                if earlier is not None and folder.is_relative_to(Path(earlier).resolve()):
                    folder = folder.relative_to(Path(earlier).resolve())
                options[key] = str((run_dir / folder).resolve())


def is_started_by_lightning() -> bool:
    """Return whether Lightning started this process as one of several of a run."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _numbers(name: str) -> list[int]:
    folders = RUNS.glob(f"{name}-*") if RUNS.is_dir() else []
    matches = [re.fullmatch(re.escape(name) + r"-(\d+)", folder.name) for folder in folders]
    return [int(match[1]) for match in matches if match]


def _existing(checkpoint: Path) -> Path:
    if not checkpoint.is_file():
        there = sorted(path.name for path in checkpoint.parent.glob("*.ckpt")) if checkpoint.parent.is_dir() else []
        found = f"; the folder holds {', '.join(there)}" if there else ""
        raise UserError(f"{checkpoint}: this checkpoint does not exist{found}; check --run_dir and --ckpt_path")
    return checkpoint
