"""Train several recipes on one data set for equally long, and compare what they find.

    python benchmarks/quality.py benchmarks/plans/tile.yaml --data ../shared/data/mvtec-tile-mini --out results/tile

A plan lists recipes and seeds. Every run is what a user would do: ``fit`` with ``trainer.max_time``, then ``test`` of
its last checkpoint, which no score has chosen, on the images of the plan's split at their own size. A run that was
finished is not done again and one that was interrupted goes on after its last checkpoint, so the same command resumes.
The table is printed and written to ``OUT/table.md``, all figures to ``OUT/results.json``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flexunet_pl.core.errors import UserError, print_user_error
from flexunet_pl.core.files import write_json, write_text
from flexunet_pl.training.checkpoint import read_checkpoint
from flexunet_pl.training.runs import checkpoint_file

PLAN_KEYS = {"minutes", "split", "prepare", "set", "runs"}
RUN_KEYS = {"config", "seeds", "set", "minutes", "configs"}


@dataclass(frozen=True)
class Run:
    """One training: a recipe, changes of its keys, a seed, and how long it trains.

    ``configs`` names other recipes for some of the data sets of compare.py.
    """

    name: str
    seed: int
    config: str
    changes: dict[str, Any]
    minutes: float
    configs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came of a run; Dice of 0..1 for each foreground class, None where the split does not show it."""

    name: str
    seed: int
    dice: dict[str, float | None]
    mean_foreground_dice: float | None
    steps: int
    wall_minutes: float


def runs_of(plan: dict[str, Any], minutes: float | None) -> list[Run]:
    """Return the runs of a plan in its order, ``minutes`` in place of the plan's own if given.

    Raises:
        UserError: If the plan has a key that does not exist, or lacks one.
    """
    _check_keys(plan, PLAN_KEYS, {"minutes", "runs"}, "the plan")
    runs = []
    for name, entry in plan["runs"].items():
        _check_keys(entry, RUN_KEYS, {"config"}, f"runs.{name}")
        changes = plan.get("set", {}) | entry.get("set", {})
        length = float(entry.get("minutes", plan["minutes"]) if minutes is None else minutes)
        configs = entry.get("configs", {})
        runs += [Run(name, seed, entry["config"], changes, length, configs) for seed in entry.get("seeds", [0])]
    return runs


def _check_keys(mapping: dict[str, Any], known: set[str], needed: set[str], where: str) -> None:
    if unknown := mapping.keys() - known:
        raise UserError(f"{where} has the key {min(unknown)!r}; choose from {', '.join(sorted(known))}")
    if missing := needed - mapping.keys():
        raise UserError(f"{where} lacks the key {min(missing)!r}")


def prepared(plan: dict[str, Any], data: Path, out: Path) -> Path:
    """Return the data set to train on: ``data`` itself, or what ``prepare`` of the plan makes of it, once."""
    if "prepare" not in plan:
        return data
    target = out / "data"
    if not (target / "manifest.csv").is_file():
        flexunet(["prepare", *(str(word).format(data=data, out=target) for word in plan["prepare"])])
    return target


def chosen(option: str, wanted: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    """Return ``wanted``, or all that is there.

    Raises:
        UserError: If something wanted is not there.
    """
    if unknown := set(wanted or []) - set(there):
        raise UserError(f"{option} {min(unknown)}: choose from {', '.join(there)}")
    return list(wanted or there)


def train(run: Run, data: Path, folder: Path, split: str) -> Result:
    """Train and score a run in ``folder``, or go on with what is there.

    Raises:
        UserError: If a command fails; its own message went to standard error.
    """
    seconds = fit(run, data, folder)
    scored = data / split
    places = ["--data.test_images", str(scored / "images"), "--data.test_masks", str(scored / "masks")]
    flexunet(["test", *common_options(run, data, folder), "--ckpt_path", "last", *places])
    scores = json.loads((folder / "test_scores.json").read_text())
    names = list(scores["classes"])[1:]
    return Result(
        run.name,
        run.seed,
        {name: scores["classes"][name]["dice"] for name in names},
        scores["mean_foreground_dice"],
        steps_of(folder),
        seconds / 60,
    )


def fit(run: Run, data: Path, folder: Path) -> float:
    """Train a run in ``folder``, go on after its last checkpoint, or do nothing if it is finished.

    Returns:
        The seconds it took, from the start of the process to its end, interrupted ones included.

    Raises:
        UserError: If the command fails; its own message went to standard error.
    """
    words = fit_command(run, data, folder)
    clock = folder / "training.json"
    spent = json.loads(clock.read_text()) if clock.is_file() else {"seconds": 0.0, "finished": False}
    if not spent["finished"]:
        started = time.monotonic()
        try:
            flexunet([*words, *(["--ckpt_path", "last"] if checkpoint_file(folder, "last").is_file() else [])])
            spent["finished"] = True
        finally:
            spent["seconds"] += time.monotonic() - started
            write_json(clock, spent)
    return float(spent["seconds"])


def fit_command(run: Run, data: Path, folder: Path) -> list[str]:
    """Return the words of the ``fit`` that begins a run."""
    seconds = round(run.minutes * 60)
    pace = f"00:{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    changes = {"trainer.max_time": pace, "trainer.max_epochs": -1, "trainer.enable_progress_bar": False} | run.changes
    words = ["fit", *common_options(run, data, folder), "--seed_everything", str(run.seed)]
    for key, value in changes.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


def common_options(run: Run, data: Path, folder: Path) -> list[str]:
    """Return the options that all commands on a run share."""
    return ["--config", run.config, "--data.root", str(data), "--run_dir", str(folder)]


def steps_of(folder: Path) -> int:
    """Return how many steps the last checkpoint of a run folder is old."""
    return int(read_checkpoint(checkpoint_file(folder, "last"))["global_step"])


def environment() -> dict[str, str]:
    """Return the variables of this process, with as many threads as the machine has cores unless they are given."""
    return os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))}


def flexunet(words: list[str]) -> None:
    """Run a command of the package in a process of its own, as a user would."""
    command = [sys.executable, "-m", "flexunet_pl", *words]
    if subprocess.run(command, env=environment(), check=False).returncode != 0:
        raise UserError(f"python -m flexunet_pl {' '.join(words)} failed, as said above")


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table: a row for each recipe, means over its seeds, and the spread of the macro Dice."""
    classes = list(dict.fromkeys(name for result in results for name in result.dice))
    shown = [name for name in classes if any(result.dice.get(name) is not None for result in results)]
    rows = [
        ["recipe", "runs", "mean foreground Dice", "spread", *shown, "steps", "wall minutes"],
        ["---", *["---:"] * (5 + len(shown))],
    ]
    for name in dict.fromkeys(result.name for result in results):
        mine = [result for result in results if result.name == name]
        macro = [result.mean_foreground_dice for result in mine if result.mean_foreground_dice is not None]
        rows.append(
            [
                name,
                str(len(mine)),
                _mean(macro),
                f"{min(macro):.3f} to {max(macro):.3f}" if len(macro) > 1 else "",
                *(_mean([result.dice.get(one) for result in mine]) for one in shown),
                f"{statistics.fmean(result.steps for result in mine):.0f}",
                f"{statistics.fmean(result.wall_minutes for result in mine):.1f}",
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _mean(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{statistics.fmean(there):.3f}" if there else "n/a"


def done(runs: Sequence[Run], out: Path) -> Iterator[Result]:
    """Yield the results of those runs that are finished."""
    for run in runs:
        file = folder_of(run, out) / "result.json"
        if file.is_file():
            yield Result(**json.loads(file.read_text()))


def folder_of(run: Run, out: Path) -> Path:
    """Return the run folder of a run."""
    return out / f"{run.name}-seed{run.seed}"


def main(words: Sequence[str] | None = None) -> int:
    """Do what the module says and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="YAML file with the recipes; see benchmarks/plans")
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and the table")
    parser.add_argument("--minutes", type=float, help="how long each run trains, in place of the plan's")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these recipes of the plan")
    parser.add_argument("--stop_after", type=float, metavar="MINUTES", help="begin no further run after this time")
    options = parser.parse_args(words)
    started = time.monotonic()
    try:
        plan = yaml.safe_load(options.plan.read_text())
        runs = runs_of(plan, options.minutes)
        if options.only is not None:
            wanted = chosen("--only", options.only, list(dict.fromkeys(run.name for run in runs)))
            runs = [run for run in runs if run.name in wanted]
        data = prepared(plan, options.data, options.out)
        for run in runs:
            folder = folder_of(run, options.out)
            if (folder / "result.json").is_file():
                continue
            if options.stop_after is not None and time.monotonic() - started > options.stop_after * 60:
                print(f"{options.stop_after:g} minutes are over; the same command goes on with {run.name}")
                break
            result = train(run, data, folder, plan.get("split", "valid"))
            write_json(folder / "result.json", asdict(result))
            write_results(runs, options.out)
    except (UserError, OSError, yaml.YAMLError) as error:
        return print_user_error(error if isinstance(error, UserError) else UserError(str(error)))
    print(write_results(runs, options.out))
    return 0


def write_results(runs: Sequence[Run], out: Path) -> str:
    """Write what is finished to ``results.json`` and ``table.md``, and return the table."""
    results = list(done(runs, out))
    text = table(results)
    write_json(out / "results.json", [asdict(result) for result in results])
    write_text(out / "table.md", text)
    return text


if __name__ == "__main__":
    sys.exit(main())
