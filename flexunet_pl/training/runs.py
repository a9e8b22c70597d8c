"""Run folders: where a run writes, and which checkpoint a command uses."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from flexunet_pl.core.arguments import PROGRAM, without_option
from flexunet_pl.core.console import is_first_process
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import writing

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
NAMED_CHECKPOINTS = ("best", "last")
LATEST = "latest"  # stands for the run that began last
MOST_NAMED = 5  # runs in a message
CONFIG = "config.yaml"
SEARCH = "search.journal"  # in a search folder
FOLDS, FOLD = "folds.json", "fold-"  # of a run with folds: its file, and the folder of each fold but for the number
LOCK = ".lock"
FOLDER_KEYS = ("save_dir", "dirpath")  # of loggers and callbacks
# A config of one of these names is called after its folder: those of runs, and of migrated projects.
COMMON_NAMES = (Path(CONFIG).stem, "train_eval_infer")


def run_name(config: Path) -> str:
    """Return the NAME of runs/NAME-N for a config: its own, or its project's, or that of the run that saved it."""
    if config.stem not in COMMON_NAMES:
        return config.stem
    folder = config.absolute().parent.name
    return re.sub(r"-\d+$", "", folder) if config.name == CONFIG else folder


def name_for(words: Sequence[str]) -> str | None:
    """Return the NAME that fit chooses for its options: that of the first config, or else of the data set."""
    first = next((word for word in words if word.startswith("--config")), None)
    if first is not None:
        value = first.partition("=")[2] if "=" in first else words[words.index(first) + 1 :][0]
        return run_name(Path(value))
    root = without_option(words, "--data.root")[1]
    return None if root is None else Path(root).resolve().name


def saved_config(run_dir: str | None) -> Path | None:
    """Return the config.yaml of a run folder, None if there is none."""
    config = None if run_dir is None else Path(run_dir) / CONFIG
    return config if config is not None and config.is_file() else None


def checkpoint_file(run_dir: Path, which: str) -> Path:
    """Return the path of the checkpoint "best" or "last" of a run folder, whether it exists or not."""
    return run_dir / CHECKPOINTS / f"{which}.ckpt"


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run: it has the run's config, or a checkpoint."""
    return (folder / CONFIG).is_file() or (folder / CHECKPOINTS).is_dir()


def has_folds(folder: Path) -> bool:
    """Return whether a folder is that of a run with folds."""
    return (folder / FOLDS).is_file()


def how_to_resume(run_dir: Path) -> str:
    """Return the command that goes on with a run, or with the folds or the search that it is a part of."""
    if (run_dir.parent / SEARCH).is_file():
        return f"{PROGRAM} search --run_dir {run_dir.parent}"
    whole = run_dir.parent if has_folds(run_dir.parent) else run_dir
    return f"{PROGRAM} resume {whole}"


def all_runs(folder: Path = RUNS) -> list[Path]:
    """Return the run folders in ``folder``, the one whose training began last first."""
    found = [run for run in folder.iterdir() if is_run(run)] if folder.is_dir() else []
    return sorted(found, key=lambda run: (_began(run), run.name), reverse=True)


def _began(run: Path) -> float:
    config = run / CONFIG
    return (config if config.is_file() else run).stat().st_mtime


def named_run(path: Path) -> Path:
    """Return the run folder that ``latest`` or NAME of runs/NAME stands for, where no file of that name exists.

    Raises:
        UserError: If there is no run yet, for latest.
    """
    if path.exists() or len(path.parts) != 1:
        return path
    if str(path) == LATEST:
        if not (runs := all_runs()):
            raise UserError(f"{LATEST}: {RUNS}/ holds no run yet; train one with fit, or give the folder of a run")
        return runs[0]
    return RUNS / path if is_run(RUNS / path) else path


def find_run(path: Path) -> Path:
    """Return a run folder that a word of a command line names: its path, NAME of runs/NAME, or latest.

    Raises:
        UserError: If there is no such run.
    """
    folder = named_run(path)
    if not is_run(folder):
        there = ", ".join(run.name for run in all_runs()[:MOST_NAMED])
        hint = f"runs/ holds {there}" if there else "runs/ holds none yet"
        raise UserError(f"{path}: is no run folder; give one, the name of one in runs/, or {LATEST} ({hint})")
    return folder


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint file itself, or the best checkpoint of a run (:func:`named_run`), or else its last.

    Raises:
        UserError: If there is none.
    """
    path = named_run(path)
    candidates = [path, *(checkpoint_file(path, which) for which in NAMED_CHECKPOINTS)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if has_folds(path):
        raise UserError(f"{path}: not all of its folds are trained yet; go on with {how_to_resume(path)}")
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
    folder = Path(run_dir) if run_dir is not None else new_run(name)
    if run_dir is not None and checkpoint_file(folder, "last").is_file() and is_first_process():
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
    return new_run(name), checkpoint


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


def new_run(name: str | None) -> Path:
    """Create the first ``runs/NAME-N`` after all existing ones, the same for all processes of a run.

    Raises:
        UserError: If several processes were started from outside and could not agree on a number, or the folder cannot
            be created.
    """
    if (chosen := os.environ.get("FLEXUNET_RUN_DIR")) is not None and not is_first_process():
        return Path(chosen)
    if is_started_from_outside():
        raise UserError("--run_dir is needed where torchrun or SLURM starts the processes: name one folder for all")
    name = "run" if name is None else name
    number = max(_numbers(name), default=0) + 1
    while True:
        folder = RUNS / f"{name}-{number}"
        with writing(folder):
            RUNS.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another run began at the same moment
                folder.mkdir()
                return folder
        number += 1


@contextlib.contextmanager
def reserved(run_dir: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder while the block runs; a new one that is still empty is removed.

    Raises:
        UserError: If another process is training there, or the folder cannot be written to.
    """
    if not is_first_process() or is_started_from_outside() or os.name != "posix":
        yield
        return
    import fcntl

    is_new = run_dir.parent == RUNS or not run_dir.exists()
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(f"{run_dir}: another process is training in this folder; choose another --run_dir") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        (run_dir / LOCK).unlink(missing_ok=True)
        lock.close()
        if is_new:
            with contextlib.suppress(OSError):
                run_dir.rmdir()


def is_locked(run_dir: Path) -> bool:
    """Return whether a process on this machine is training in a run folder; see :func:`reserved`."""
    if os.name != "posix":
        return False
    import fcntl

    try:
        with (run_dir / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or a file system without locks
        return False
    return False


def relative_folders(parts: list[Any], run_dir: Path) -> None:
    """Undo :func:`move_folders` for folders in ``run_dir``, in place, so that a saved config names no run."""
    for options in map(_options, parts):
        for key in FOLDER_KEYS:
            if options.get(key) is not None and Path(options[key]).is_relative_to(run_dir.resolve()):
                options[key] = str(Path(options[key]).relative_to(run_dir.resolve()))


def announce(run_dir: Path) -> None:
    """Pass the run folder to the processes that Lightning starts for other devices."""
    os.environ["FLEXUNET_RUN_DIR"] = str(run_dir)


def move_folders(parts: list[Any], run_dir: Path, earlier: str | None) -> None:
    """Make the folders of loggers and callbacks absolute, in place; relative ones are in ``run_dir``.

    So are those in the run folder ``earlier``, which a config.yaml of a run names: a new run leaves the old one alone.
    """
    for options in map(_options, parts):
        for key in FOLDER_KEYS:
            if options.get(key) is not None:
                folder = Path(options[key])
                if earlier is not None and folder.is_relative_to(Path(earlier).resolve()):
                    folder = folder.relative_to(Path(earlier).resolve())
                options[key] = str((run_dir / folder).resolve())


def is_started_from_outside() -> bool:
    """Return whether torchrun or SLURM started this process as one of several of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _options(part: Any) -> Any:
    """Return the arguments of a logger or a callback, to change them in place."""
    options = part.get("init_args") if isinstance(part, Namespace) else None
    return options if isinstance(options, Namespace) else {}


def _numbers(name: str) -> list[int]:
    folders = RUNS.iterdir() if RUNS.is_dir() else []
    matches = [re.fullmatch(re.escape(name) + r"-(\d+)", folder.name) for folder in folders]
    return [int(match[1]) for match in matches if match]


def _existing(checkpoint: Path) -> Path:
    if not checkpoint.is_file():
        if has_folds(run := checkpoint.parent.parent):
            raise UserError(f"{run}: not all of its folds are trained yet; go on with {how_to_resume(run)}")
        there = sorted(path.name for path in checkpoint.parent.glob("*.ckpt")) if checkpoint.parent.is_dir() else []
        found = f"; the folder holds {', '.join(there)}" if there else ""
        raise UserError(f"{checkpoint}: this checkpoint does not exist{found}; check --run_dir and --ckpt_path")
    return checkpoint
