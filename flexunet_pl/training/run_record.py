"""What a run folder says about its run: run.json, and a table of runs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from flexunet_pl.core.console import table
from flexunet_pl.core.files import write_json
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.training import runs

FILE = "run.json"
SCORES = "test_scores.json"
TRAINING, FINISHED, STOPPED, KILLED = "training", "finished", "stopped", "killed"
UNKNOWN = ""
HEADERS = ("run", "data", "network", "epochs", "minutes", "validation", "test", "state")


@dataclass(frozen=True)
class Record:
    """The content of run.json.

    Attributes:
        state: training, finished, or stopped (by a signal or an error); a killed run is left at training.
        seconds: How long it trained, start and validation included, over all of its parts if it was resumed.
        epochs: Complete epochs.
        steps: Optimizer steps.
        monitor: The score that chooses best.ckpt, if any.
        best: Its best value so far.
        has_lock: Whether a training process holds the folder's lock, which then tells a killed run.
    """

    state: str
    seconds: float
    epochs: int
    steps: int
    monitor: str | None
    best: float | None
    has_lock: bool


def write_record(run: Path, record: Record) -> None:
    """Write run.json into a run folder."""
    write_json(run / FILE, asdict(record))


def read_record(run: Path) -> Record | None:
    """Return the content of run.json; None if there is none that can be read."""
    try:
        return Record(**json.loads((run / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def table_of_runs(folders: Sequence[Path]) -> str:
    """Return a table with a row for each run: what it trained on what, how long, its scores, and how it ended."""
    return table(HEADERS, [_row(folder) for folder in folders])


def _row(run: Path) -> list[object]:
    record, config = read_record(run), _config(run)
    data, model = config.get("data") or {}, config.get("model") or {}
    network = model.get("network") or UNKNOWN
    if encoder := model.get("encoder"):
        network = f"{network} {encoder}"
    tested = _json(run / SCORES).get("mean_foreground_dice")
    facts = [UNKNOWN] * 3 if record is None else [record.epochs, f"{record.seconds / 60:.1f}", _best(record)]
    root = Path(data.get("root") or UNKNOWN).name
    return [run.name, root, network, *facts, _number(tested), _state(run, record)]


def _state(run: Path, record: Record | None) -> str:
    if record is None:
        return UNKNOWN
    is_killed = record.state == TRAINING and record.has_lock and not runs.is_locked(run)
    return KILLED if is_killed else record.state


def _best(record: Record) -> str:
    name = UNKNOWN if record.monitor is None else f" {record.monitor.removeprefix('val/')}"
    return UNKNOWN if record.best is None else f"{record.best:.3f}{name}"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else UNKNOWN


def _config(run: Path) -> dict[str, Any]:
    try:
        content = load_yaml((run / runs.CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
