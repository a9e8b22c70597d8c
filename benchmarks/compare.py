"""The package, nnU-Net, segmentation-models-pytorch and the original's recipe, for equally long on four data sets.

    python benchmarks/compare.py --data PATH --out results/compare --nnunet_python nnunet/bin/python

PATH holds mvtec-tile-mini, magnetic-tile, mvtec-wood-mini and mvtec-screw-mini. Every engine trains on the same images,
predicts the same held-out images, and one scorer compares the masks with the truth at the images' own size. The recipes
of the package come from a plan, see benchmarks/plans/compare.yaml; the others are those of ``COMPETITORS``, of which
``planned`` is the package without a recipe.

nnU-Net runs in an environment of its own:

    python -m venv nnunet
    nnunet/bin/pip install nnunetv2==2.8.1

The clock of a run starts with the process and ends with the training, validation included; preparing and converting
data and predicting are not counted. All engines have OMP_NUM_THREADS threads, by default one for each core. The last
weights are scored, so that no score has chosen them. What is finished is not done again, so the same command resumes.
The table is printed and written to ``OUT/table.md``, all figures to ``OUT/results.json``.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from comparison_engines import Engine, Job, NnUnet, Planned, Recipe, SmpUnet
from comparison_scores import Scores, mean_known, score
from comparison_sets import SETS, prepared_split
from quality import chosen, environment, runs_of

from flexunet_pl.core.errors import UserError, print_user_error
from flexunet_pl.core.files import write_json, write_text

PLAN = Path(__file__).parent / "plans" / "compare.yaml"
COMPETITORS: dict[str, Engine] = {
    "planned": Planned(),
    "smp-resnet34": SmpUnet("resnet34"),
    "smp-lite0": SmpUnet("tu-tf_efficientnet_lite0", "imagenet"),
}
NNUNET = "nnunet"
OPEN = "not measured yet"
TOLERANCE = 1.05  # how much longer than its time a run may take without a remark


@dataclass(frozen=True)
class Result:
    """What came of a run that had ``minutes`` and took ``wall_minutes``."""

    data_set: str
    engine: str
    seed: int
    scores: Scores
    steps: int
    minutes: float
    wall_minutes: float
    facts: dict[str, Any]


def engines_of(plan: Mapping[str, Any], only: Sequence[str] | None, nnunet_python: Path | None) -> dict[str, Engine]:
    """Return the engines by name, those of the plan first.

    Raises:
        UserError: If the plan is faulty, an engine of ``only`` does not exist, or nnU-Net has no interpreter.
    """
    engines: dict[str, Engine] = {run.name: Recipe(run) for run in runs_of(dict(plan), None)}
    if taken := engines.keys() & {*COMPETITORS, NNUNET}:
        raise UserError(f"the plan names a run {min(taken)!r}, as one of the competitors is called; rename it")
    engines |= COMPETITORS
    names = chosen("--only", only, [*engines, NNUNET])
    if NNUNET in names:
        if nnunet_python is None:
            others = " ".join(name for name in names if name != NNUNET)
            raise UserError(
                "--nnunet_python is not given; make an environment with `python -m venv nnunet` and `nnunet/bin/pip "
                f"install nnunetv2==2.8.1`, then give nnunet/bin/python, or leave nnU-Net out: --only {others}"
            )
        engines[NNUNET] = NnUnet(nnunet_python)
    return {name: engine for name, engine in engines.items() if name in names}


def run_job(data_set: str, name: str, engine: Engine, job: Job) -> Result:
    """Train, predict and score, as far as that is not done.

    Raises:
        UserError: If the folder holds a run with other settings, or an engine fails or makes no step.
    """
    file = job.folder / "result.json"
    settings = engine.settings() | {"minutes": job.minutes, "threads": int(environment()["OMP_NUM_THREADS"])}
    _check_settings(job.folder / "job.json", settings)
    if not file.is_file():
        training = engine.train(job)
        if training.steps == 0:
            raise UserError(f"{job.folder}: no step in {job.minutes:g} minutes; give more --minutes and another --out")
        masks = job.folder / "masks"
        if not masks.is_dir():
            part = job.folder / "masks.part"
            shutil.rmtree(part, ignore_errors=True)
            engine.predict(job, part)
            part.rename(masks)
        scores = score(masks, job.data)
        wall = training.seconds / 60
        result = Result(data_set, name, job.seed, scores, training.steps, job.minutes, wall, training.facts)
        write_json(file, asdict(result))
    return read_result(file)


def _check_settings(file: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new run; raise UserError if the folder was begun with others."""
    settings = json.loads(json.dumps(settings))
    if not file.is_file():
        write_json(file, settings)
        return
    before = json.loads(file.read_text())
    if other := [key for key in settings if settings[key] != before.get(key)]:
        raise UserError(
            f"{file}: this run was begun with {other[0]}={before.get(other[0])!r}, now it is {settings[other[0]]!r}; "
            "choose another --out, or remove this folder"
        )


def read_result(file: Path) -> Result:
    """Read a ``result.json``."""
    content = json.loads(file.read_text())
    return Result(**(content | {"scores": Scores(**content["scores"])}))


def _number(value: float | None, empty: str = "n/a") -> str:
    return empty if value is None else f"{value:.3f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def overview(results: Sequence[Result], engines: Sequence[str], sets: Sequence[str]) -> str:
    """Return a Markdown table of the mean Dice, over the seeds: a row for each engine, the best of a set bold."""
    means = {
        (engine, data_set): mean_known(
            [one.scores.mean_foreground_dice for one in results if (one.engine, one.data_set) == (engine, data_set)]
        )
        for engine in engines
        for data_set in sets
    }
    best = {one: max((means[engine, one] or 0.0 for engine in engines), default=0.0) for one in sets}
    rows = [["engine", *sets]]
    for engine in engines:
        cells = [_number(means[engine, one], OPEN) for one in sets]
        is_best = [means[engine, one] == best[one] for one in sets]
        rows.append([engine, *(f"**{cell}**" if bold else cell for cell, bold in zip(cells, is_best, strict=True))])
    return _markdown(rows)


def details(results: Sequence[Result], engines: Sequence[str], data_set: str) -> str:
    """Return a Markdown table of one set: means over the seeds, of a class over those that could find it."""
    there = [one for one in results if one.data_set == data_set]
    names = list(dict.fromkeys(name for one in there for name in one.scores.dice))
    shown = [name for name in names if any(one.scores.dice[name] is not None for one in there)]
    head = ["engine", "seeds", "mDice (foreground)", "per seed", *shown]
    good = any(one.scores.good_images for one in there)
    rows = [[*head, *["good images with false positives", "their false-positive pixels"] * good, "steps", "minutes"]]
    for engine in engines:
        mine = sorted((one for one in there if one.engine == engine), key=lambda one: one.seed)
        if not mine:
            rows.append([engine, "0", OPEN, *[""] * (len(rows[0]) - 3)])
            continue
        macro = [one.scores.mean_foreground_dice for one in mine]
        row = [engine, str(len(mine)), _number(mean_known(macro)), ", ".join(_number(value) for value in macro)]
        row += [_number(mean_known([one.scores.dice[name] for one in mine])) for name in shown]
        if good:
            counted, wrong = (
                sum(getattr(one.scores, key) for one in mine) for key in ("good_images", "good_with_false_positives")
            )
            share = mean_known([one.scores.good_false_positive_share for one in mine])
            row += [f"{wrong} of {counted}", "n/a" if share is None else f"{share:.2%}"]
        row += [_number(mean_known([one.steps for one in mine])).split(".")[0]]
        rows.append([*row, f"{mean_known([one.wall_minutes for one in mine]):.1f}"])
    absent = [name for name in names if name not in shown]
    note = f"\nNot validated, for want of sources: {', '.join(absent)}.\n" if absent else ""
    if late := [one for one in there if one.wall_minutes > one.minutes * TOLERANCE]:
        listed = ", ".join(f"{one.engine} with seed {one.seed} ({one.wall_minutes:.1f})" for one in late)
        note += f"\nLonger than their {late[0].minutes:g} minutes, on a machine that is too busy or slow: {listed}.\n"
    return f"### {data_set}\n\n{_markdown(rows)}{note}"


def write_tables(results: Sequence[Result], engines: Sequence[str], sets: Sequence[str], out: Path) -> str:
    """Write ``results.json`` and ``table.md``, and return the tables."""
    text = "\n".join([overview(results, engines, sets), *(details(results, engines, one) for one in sets)])
    write_json(out / "results.json", [asdict(one) for one in results])
    write_text(out / "table.md", text)
    return text


def main(words: Sequence[str] | None = None) -> int:
    """Do what the module says and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and table")
    parser.add_argument("--plan", type=Path, default=PLAN, help="YAML file with the recipes of the package")
    parser.add_argument("--minutes", type=float, help="how long each run takes, in place of the plan's")
    parser.add_argument("--only", nargs="+", metavar="ENGINE", help="only these engines")
    parser.add_argument("--sets", nargs="+", metavar="SET", help=f"only these of {', '.join(SETS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds; also the folds held out")
    parser.add_argument("--nnunet_python", type=Path, help="interpreter of an environment with nnunetv2==2.8.1")
    parser.add_argument("--stop_after", type=float, metavar="MINUTES", help="begin no further run after this time")
    options = parser.parse_args(words)
    started = time.monotonic()
    try:
        plan = yaml.safe_load(options.plan.read_text())
        engines = engines_of(plan, options.only, options.nnunet_python)
        sets = chosen("--sets", options.sets, list(SETS))
        minutes = float(plan["minutes"]) if options.minutes is None else options.minutes
        results: list[Result] = []
        for seed, data_set, name in ((s, d, e) for s in options.seeds for d in sets for e in engines):
            folder = options.out / "runs" / data_set / f"{name}-seed{seed}"
            is_late = options.stop_after is not None and time.monotonic() - started > options.stop_after * 60
            if is_late and not (folder / "result.json").is_file():
                continue
            data = prepared_split(data_set, seed, options.data, options.out / "data")
            job = Job(data, folder, seed, minutes, SETS[data_set].reserve, SETS[data_set].channels)
            engine = engines[name]
            engine = engine.of_set(data_set) if isinstance(engine, Recipe) else engine
            results.append(run_job(data_set, name, engine, job))
            write_tables(results, list(engines), sets, options.out)
    except (UserError, OSError, yaml.YAMLError) as error:
        return print_user_error(error if isinstance(error, UserError) else UserError(str(error)))
    print(write_tables(results, list(engines), sets, options.out))
    left = len(options.seeds) * len(sets) * len(engines) - len(results)
    if left:
        print(f"{options.stop_after:g} minutes are over; the same command goes on with the {left} runs that are left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
