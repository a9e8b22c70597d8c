"""Kill commands at random moments, and check that nothing is lost and that the same command then succeeds.

    python benchmarks/kill.py --times 100 [--seed 0] [--only fit,infer]

Each time a small project, with a finished run, bundle, data set, report and masks, is copied, a command starts in it
and gets SIGKILL at a random moment. Then every file that was there must still be there and be whole, and inputs be
unchanged. The command is started again: it must succeed, and leave no temporary file in the project or in the folder
for temporary files. The exit code is 1 if there is a fault; each is printed with the number that repeats it.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SIDE = 32
TILES = 18
LIMIT_SECONDS = 180
OUTCOMES = ("whole", "lost", "damaged", "inputs changed", "restart failed", "left over")
CONFIG = {
    "seed_everything": 1,
    "trainer": {"accelerator": "cpu", "max_epochs": 2, "precision": "32-true", "enable_progress_bar": False},
    "model": {"base_filters": 4, "base_kernel": 3, "num_layers": 3, "learning_rate": 0.003},
    "data": {"root": "data", "image_size": SIDE, "batch_size": 4, "num_workers": 0},
}
CHECKPOINT = "run/checkpoints/last.ckpt"
FIT = ["fit", "--config", "config.yaml", "--run_dir"]


@dataclass(frozen=True)
class Scenario:
    """A command, its output folder, and the words that are added to start it again over what it left there."""

    words: Sequence[str]
    out: str
    again: Callable[[Path], list[str]] = lambda _out: []


def _resumed(out: Path) -> list[str]:
    return ["--ckpt_path", "last"] if (out / "checkpoints" / "last.ckpt").is_file() else []


def _updated(out: Path) -> list[str]:
    return ["--update", "true"] if out.is_dir() and any(out.iterdir()) else []


PREPARE = ["prepare", "pairs", "data"]
SCENARIOS: dict[str, tuple[Scenario, ...]] = {
    "fit": (
        Scenario([*FIT, "new"], "new", _resumed),
        Scenario([*FIT, "run", "--ckpt_path", "last", "--trainer.max_epochs", "4"], "run"),
    ),
    "export": (
        Scenario(["export", CHECKPOINT, "new", "--formats", "onnx,keras"], "new"),
        Scenario(["export", CHECKPOINT, "bundle", "--formats", "onnx,keras"], "bundle"),
    ),
    "prepare": (
        Scenario([*PREPARE, "new", "--keep_splits", "true"], "new", _updated),
        Scenario([*PREPARE, "prepared", "--keep_splits", "true", "--update", "true"], "prepared"),
    ),
    "report": (
        Scenario(["report", "run", "data", "--out", "new", "--draws", "100"], "new"),
        Scenario(["report", "run", "data", "--out", "page", "--draws", "100"], "page"),
    ),
    "infer": (
        Scenario(["infer", "bundle", "data/train/images", "--out", "new", "--overlays"], "new"),
        Scenario(["infer", "bundle", "data/train/images", "--out", "masks", "--overlays"], "masks"),
    ),
}


# --- processes ---------------------------------------------------------------------------------------------------


def start(work: Callable[[], int], place: Path) -> int:
    """Start ``work`` in a forked process in the folder ``place``; return the process's number."""
    process = os.fork()
    if process:
        with contextlib.suppress(PermissionError, ProcessLookupError):  # it has ended, or did so itself
            os.setpgid(process, process)
        return process
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(place)
        os.environ["TMPDIR"] = tempfile.tempdir = str(place.parent / "tmp")
        with (place.parent / "log").open("a") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 71
    except BaseException:  # noqa: BLE001  whatever comes out is printed, and the process ends
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(process: int, seconds: float) -> int | None:
    """Return the exit code of a process that ends within ``seconds``, else kill it with what it started: None."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := os.waitpid(process, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(found[1])
        time.sleep(0.001)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def run_command(words: Sequence[str], place: Path, seconds: float = LIMIT_SECONDS) -> int | None:
    """Run a command in a process of its own; None if it did not end in time and was killed."""
    from flexunet_pl.cli.main import main

    return ended(start(lambda: main(list(words)), place), seconds)


# --- checks ------------------------------------------------------------------------------------------------------


def read_whole(path: Path) -> None:
    """Read a file to its end as what its name says; any exception means that it is damaged."""
    if path.suffix == ".ckpt":
        import torch

        torch.load(path, map_location="cpu", weights_only=True)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".yaml":
        yaml.safe_load(path.read_text())
    elif path.suffix in (".png", ".jpg"):
        from PIL import Image

        Image.open(path).load()
    elif path.suffix == ".csv":
        with path.open(newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
        if len({len(row) for row in rows}) > 1:
            raise ValueError("rows of different lengths")
    elif path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("the page has no end")


def damaged_files(folder: Path) -> list[str]:
    """Return the files of a folder that are not whole, and what contradicts the list of files of a bundle."""
    found = []
    for path in visible_files(folder):
        try:
            read_whole(path)
        except Exception as error:  # noqa: BLE001  readers raise nearly anything
            found.append(f"{path.relative_to(folder)}: {type(error).__name__} {error}"[:200])
    check = folder / "check.json"
    if check.is_file():
        listed = json.loads(check.read_text())["files"]
        found += [f"{name}: not as in check.json" for name in listed if digest(folder / name) != listed[name]]
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, empty if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, without temporary ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def inventory(place: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a project by its name."""
    return {str(path.relative_to(place)): digest(path) for path in visible_files(place)}


def left_over(place: Path) -> list[str]:
    """Return temporary files and folders of a project, and all that is in the folder for temporary files."""
    hidden = [path for path in place.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    return sorted(str(path.relative_to(place.parent)) for path in [*hidden, *(place.parent / "tmp").iterdir()])


def fault_in(place: Path, before: Mapping[str, str], out: str) -> tuple[str, str] | None:
    """Return the outcome and the files of the first fault of a project, None if all is well."""
    now = inventory(place)
    gone = [name for name in before if name not in now]
    if gone:
        return "lost", f"{len(gone)} files, first {gone[0]}"
    changed = [name for name in before if not name.startswith(f"{out}/") and before[name] != now[name]]
    if changed:
        return "inputs changed", changed[0]
    damaged = damaged_files(place / out)
    return ("damaged", "; ".join(damaged[:3])) if damaged else None


# --- the benchmark -----------------------------------------------------------------------------------------------


def make_project() -> int:
    """Write data, and the finished outputs of every command, into the working directory."""
    from flexunet_pl.cli.main import main
    from flexunet_pl.data.synthetic.dataset import write_dataset

    write_dataset(Path("data"), TILES, (SIDE, SIDE), 0)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    shutil.copytree("data", "part")
    for kind in ("images", "masks"):
        next(iter(sorted(Path("part/train", kind).iterdir()))).unlink()
    codes = [
        main([*FIT, "run"]),
        main(["export", CHECKPOINT, "bundle", "--formats", "onnx,keras"]),
        main(["prepare", "pairs", "part", "prepared", "--keep_splits", "true"]),
        main(["report", "run", "data", "--out", "page", "--draws", "100"]),
        main(["infer", "bundle", "data/train/images", "--out", "masks"]),
    ]
    return max(codes)


def kill_once(template: Path, scenario: Scenario, share: float, seconds: float) -> tuple[str, str, bool]:
    """Kill a command after a ``share`` of its ``seconds``.

    Returns:
        The outcome, a line about it, and whether the command had ended before the kill.
    """
    with tempfile.TemporaryDirectory(prefix="flexunet-kill-") as folder:
        place = Path(folder) / "project"
        shutil.copytree(template, place)
        (Path(folder) / "tmp").mkdir()
        before = inventory(place)
        code = run_command(scenario.words, place, share * seconds)
        if (fault := fault_in(place, before, scenario.out)) is not None:
            return fault[0], f"after the kill: {fault[1]}", code is not None
        before = inventory(place)
        again = [*scenario.words, *scenario.again(place / scenario.out)]
        if (second := run_command(again, place)) != 0:
            said = (Path(folder) / "log").read_text()[-400:]
            return "restart failed", f"exit code {second}: {' '.join(said.split())}", code is not None
        if (fault := fault_in(place, before, scenario.out)) is not None:
            return fault[0], f"after the restart: {fault[1]}", code is not None
        if rest := left_over(place):
            return "left over", "; ".join(rest[:4]), code is not None
        return "whole", "", code is not None


def durations(template: Path, scenarios: Sequence[Scenario]) -> list[float]:
    """Return how long each command takes when it is not killed."""
    found = []
    for scenario in scenarios:
        with tempfile.TemporaryDirectory(prefix="flexunet-kill-") as folder:
            place = Path(folder) / "project"
            shutil.copytree(template, place)
            (Path(folder) / "tmp").mkdir()
            started = time.monotonic()
            if run_command(scenario.words, place) != 0:
                raise RuntimeError((Path(folder) / "log").read_text()[-2000:])
            found.append(time.monotonic() - started)
    return found


def import_everything() -> None:
    """Import what the commands need, so that a forked process starts quickly; nothing computes here."""
    modules = ("training.lightning_cli", "report.writer", "export.bundle", "curation.prepare.builder", "cli.main")
    for name in (*modules, "curation.prepare.overview", "inference.onnx_infer", "evaluation.evaluator"):
        __import__(f"flexunet_pl.{name}")


def kill(times: int, seed: int, only: Sequence[str] = (), first: int = 0) -> tuple[dict[str, Counter[str]], list[str]]:
    """Kill ``times`` commands; return the outcomes of each command, and a line for each fault."""
    import_everything()
    names = [name for name in SCENARIOS if not only or name in only]
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    faults = []
    with tempfile.TemporaryDirectory(prefix="flexunet-kill-") as folder:
        template = Path(folder) / "project"
        template.mkdir()
        (Path(folder) / "tmp").mkdir()
        if ended(start(make_project, template), LIMIT_SECONDS) != 0:
            raise RuntimeError((Path(folder) / "log").read_text()[-2000:])
        seconds: dict[str, list[float]] = {name: durations(template, SCENARIOS[name]) for name in names}
        for number in range(first, first + times):
            name = names[number % len(names)]
            rng = random.Random(f"{seed} {number}")
            chosen = rng.randrange(len(SCENARIOS[name]))
            scenario, share = SCENARIOS[name][chosen], rng.random()
            outcome, line, has_ended = kill_once(template, scenario, share, seconds[name][chosen])
            counts[name][outcome] += 1
            counts[name]["ended before"] += has_ended
            if outcome != "whole":
                faults.append(f"{number}: {name} to {scenario.out}, at {share:.0%}: {outcome}: {line}")
    return counts, faults


def table(counts: Mapping[str, Counter[str]]) -> str:
    """Return the outcomes of each command as a Markdown table."""
    columns = ("kills", "ended before", *OUTCOMES)
    rows = [*counts.items(), ("**all**", sum(counts.values(), Counter[str]()))]
    lines = [f"| command | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, counted in rows:
        numbers: list[Any] = [sum(counted[outcome] for outcome in OUTCOMES), *(counted[key] for key in columns[1:])]
        lines.append(f"| {name} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def main_kill(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 if anything was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first kill")
    parser.add_argument("--only", default="", help="names of commands, separated by commas")
    options = parser.parse_args(argv)
    only = [name for name in options.only.split(",") if name]
    counts, faults = kill(options.times, options.seed, only, options.first)
    print(*faults, "", table(counts), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main_kill())
