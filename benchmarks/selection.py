"""Dice over the number of labelled images: chosen by `select`, or at random.

    python benchmarks/selection.py --data PATH/magnetic-tile --out results/selection

Each seed splits the magnets anew, into a pool without labels and test images, and labels a few images of the pool at
random. Then, in each round, one arm labels the images that `select` names and the other as many at random, both train
anew for as many steps, and the mean foreground Dice on the test images is taken. What is done is not done again, so the
same command resumes; all seeds finish a round before the next one begins. The table is printed and written to
``OUT/table.md``, all figures to ``OUT/results.json``. Images are scaled down to ``--size`` pixels, which small defects
hardly survive: compare the arms with each other, not with other tables.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from flexunet_pl.cli.main import main as flexunet
from flexunet_pl.core.errors import UserError, print_user_error
from flexunet_pl.core.files import atomic_folder, write_json, write_text
from flexunet_pl.core.types import Pair
from flexunet_pl.data.manifest import Row, read_manifest
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, find_pairs, read_image
from flexunet_pl.evaluation.label_next import rank_unlabelled
from flexunet_pl.nn.metric_registry import PRIMARY
from flexunet_pl.nn.score_table import ScoreTable, confusion_matrix
from flexunet_pl.training.runs import find_checkpoint
from flexunet_pl.training.task import SegmentationTask

ARMS = ("select", "random")
START = "start"
Results = dict[str, dict[str, Any]]


def prepared(source: Path, out: Path) -> Path:
    """Return the data set made of the authors' folders, once; all images are in train."""
    data = out / "data"
    if not (data / "manifest.csv").is_file():
        words = ["--defect_free", "Free", "--strip_prefix", "MT_", "--groups", str(source / "groups.csv")]
        shares = ["--valid", "0", "--test", "0", "--near_duplicates", "off"]
        command = [sys.executable, "-m", "flexunet_pl", "prepare", "folders", str(source), str(data), *words, *shares]
        if subprocess.run(command, check=False).returncode:
            raise UserError("prepare failed; see above")
    return data


def split(rows: Sequence[Row], seed: int, pool: int, test: int) -> tuple[list[str], list[str]]:
    """Return the names of the pool and of the test images of a seed; no magnet is in both.

    Three in ten magnets of each class are for testing; of their images the defective ones come first, up to ``test``.
    """
    rng = np.random.default_rng(seed)
    class_of = {row.group: row.classes[0] if row.classes else "" for row in rows}
    held: set[str] = set()
    for name in sorted(set(class_of.values())):
        groups = sorted(group for group, label in class_of.items() if label == name)
        held |= set(rng.permutation(groups)[: max(1, round(0.3 * len(groups)))].tolist())
    mixed = [rows[place] for place in rng.permutation(len(rows))]
    tested = sorted((row for row in mixed if row.group in held), key=lambda row: not row.classes)
    return [row.name for row in mixed if row.group not in held][:pool], [row.name for row in tested[:test]]


def train(pairs: Sequence[Pair], data: Path, run: Path, options: argparse.Namespace, seed: int) -> None:
    """Train on some pairs, unless that was done before: `fit` for a number of steps, without validation."""
    if (run / "checkpoints" / "last.ckpt").is_file():
        return
    root = run.with_name(f"{run.name}-data")
    if not root.is_dir():
        with atomic_folder(root) as part:
            for kind in ("images", "masks"):
                (part / "train" / kind).mkdir(parents=True)
            for pair in pairs:
                (part / "train" / "images" / pair.image.name).symlink_to(pair.image.resolve())
                (part / "train" / "masks" / pair.mask.name).symlink_to(pair.mask.resolve())
            Palette.load(data / "palette.yaml").save(part / "palette.yaml")
            root.parent.mkdir(parents=True, exist_ok=True)
            part.replace(root)
    sizes = {"image_size": options.size, "resize": "letterbox", "channels": 1, "batch_size": 8, "num_workers": 0}
    lengths = {"max_steps": options.steps, "max_epochs": -1, "enable_progress_bar": False, "logger": False}
    folders = {split: str(root / "train" / split.partition("_")[2]) for split in ("valid_images", "valid_masks")}
    augment = {"hflip": 0.5, "vflip": 0.5, "brightness": 0.5, "contrast": 0.5}
    config = {
        "seed_everything": seed,
        "trainer": lengths | {"accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0},
        "model": {"loss": {"cross_entropy": 1.0, "log_dice": {"epsilon": 0.001}}, "tta": False},
        "data": sizes | folders | {"root": str(root), "samples_per_epoch": 8 * options.steps, "augment": augment},
    }
    write_text(root / "config.yaml", yaml.safe_dump(config))
    if flexunet(["fit", "--config", str(root / "config.yaml"), "--run_dir", str(run)]):
        raise UserError(f"{run}: training failed; see above")


def score(run: Path, pairs: Sequence[Pair], palette: Palette) -> float:
    """Return the mean foreground Dice of a run on images with truth, at their own size."""
    task = SegmentationTask.from_checkpoint(find_checkpoint(run))
    rules, total = ReadingRules(channels=1), np.zeros((len(palette), len(palette)), dtype=np.int64)
    for pair in pairs:
        truth, _ = read_mask(pair.mask, palette, antialiased=False)
        working = task.sizing.fit_image(read_image(pair.image, rules))
        found: npt.NDArray[np.uint8] = task.run_arrays(working[None])["mask"][0]
        total += confusion_matrix(truth, task.sizing.restore_mask(found, truth.shape), len(palette))
    dice = ScoreTable(total.tolist(), len(pairs))[PRIMARY]
    return 0.0 if dice is None else float(dice)


def chosen_by_select(run: Path, names: Sequence[str], by_name: dict[str, Pair], count: int) -> list[str]:
    """Return the names that `select` chooses of unlabelled images."""
    folder = run.with_name(f"{run.name}-unlabelled")
    if not folder.is_dir():
        with atomic_folder(folder) as part:
            part.mkdir(exist_ok=True)
            for name in names:
                (part / by_name[name].image.name).symlink_to(by_name[name].image.resolve())
            part.replace(folder)
    return [one.path.stem for one in rank_unlabelled(run, folder, count, 1.0).candidates]


def play(seed: int, last: int, out: Path, options: argparse.Namespace, results: Results) -> None:
    """Do what is missing of the rounds up to ``last`` of a seed; round 0 is the start that both arms share."""
    data = out / "data"
    palette = Palette.load(data / "palette.yaml")
    rows = {row.name: row for row in read_manifest(data)}
    pairs, _ = find_pairs(data / "train" / "images", data / "train" / "masks")
    by_name = {pair.name: pair for pair in pairs}
    pool, test = split(list(rows.values()), seed, options.pool, options.test)
    for arm in ARMS:
        labelled = pool[: options.start]
        before = out / f"seed{seed}" / START
        for number in range(last + 1):
            run = before if number == 0 else out / f"seed{seed}" / f"{arm}-{number}"
            key = f"{seed} {START if number == 0 else arm} {number}"
            if number > 0:
                left = [name for name in pool if name not in labelled]
                if key in results:
                    new = results[key]["chosen"]
                elif arm == "random":
                    new = np.random.default_rng([seed, number]).permutation(left)[: options.count].tolist()
                else:
                    new = chosen_by_select(before, left, by_name, options.count)
                labelled = [*labelled, *new]
            if key not in results:
                train([by_name[name] for name in labelled], data, run, options, seed)
                dice = score(run, [by_name[name] for name in test], palette)
                defective = [rows[name] for name in labelled if rows[name].classes]
                results[key] = {
                    "seed": seed,
                    "arm": START if number == 0 else arm,
                    "labelled": len(labelled),
                    "defective": len(defective),
                    "magnets": len({row.group for row in defective}),
                    "dice": dice,
                    "chosen": [] if number == 0 else new,
                }
                write_json(out / "results.json", results)
            before = run


def table(results: Results) -> str:
    """Return the means over the seeds that have a round of both arms, and in how many of them `select` is better."""
    lines = ["| labelled | seeds | mDice, select | mDice, random | difference, mean (range) | select better | "]
    lines[0] += "defective images, select / random | magnets with a defect, select / random |"
    lines.append("|---|---|---|---|---|---|---|---|")
    rounds = sorted({int(key.split()[2]) for key in results})
    for number in rounds:
        names = (START, START) if number == 0 else ARMS
        seeds = [
            seed
            for seed in sorted({one["seed"] for one in results.values()})
            if all(f"{seed} {name} {number}" in results for name in names)
        ]
        if not seeds:
            continue
        ours, theirs = ([results[f"{seed} {name} {number}"] for seed in seeds] for name in names)
        gains = [one["dice"] - other["dice"] for one, other in zip(ours, theirs, strict=True)]
        better = "" if number == 0 else f"{sum(gain > 0 for gain in gains)} of {len(seeds)}"
        spread = "" if number == 0 else f"{np.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})"
        cells = [
            str(ours[0]["labelled"]),
            str(len(seeds)),
            f"{_mean(ours, 'dice'):.3f}",
            f"{_mean(theirs, 'dice'):.3f}",
        ]
        cells += [spread, better]
        cells += [f"{_mean(ours, key):.1f} / {_mean(theirs, key):.1f}" for key in ("defective", "magnets")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(results: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([one[key] for one in results]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder magnetic-tile with groups.csv")
    parser.add_argument("--out", type=Path, required=True)
    for option, default in (("seeds", 5), ("rounds", 2), ("start", 20), ("count", 20), ("pool", 400), ("test", 120)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=80, help="of each training, in batches of 8")
    parser.add_argument("--size", type=int, default=128, help="longest side of an image")
    options = parser.parse_args(arguments)
    path = options.out / "results.json"
    try:
        prepared(options.data, options.out)
        results: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for last in range(options.rounds + 1):
            for seed in range(options.seeds):
                play(seed, last, options.out, options, results)
                write_text(options.out / "table.md", table(results) + "\n")
    except UserError as error:
        return print_user_error(error)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
