"""How well a class is found that was learnt from one source image, with several recipes.

    python benchmarks/one_source.py benchmarks/plans/one_source.yaml --data DATASET --out results/one-source

For each class with at least two sources, one of them in training, every recipe of the plan is trained on the training
images without that class's sources, but for the first; then its Dice on all sources left out, of the training and the
validation images, is what counts. What is finished is not done again. The table is printed and written to
``OUT/table.md``.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml
from quality import Result, chosen, runs_of, train

from flexunet_pl.core.errors import UserError, print_user_error
from flexunet_pl.core.files import write_json, write_text
from flexunet_pl.core.types import Pair
from flexunet_pl.data.balance import count_masks
from flexunet_pl.data.layout import find_palette
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import find_pairs
from flexunet_pl.data.sources import source_of

Sources = dict[str, dict[str, list[Pair]]]


def pairs_of(data: Path, split: str) -> list[Pair]:
    """Return the pairs of a split.

    Raises:
        UserError: If a file has no partner.
    """
    pairs, problems = find_pairs(data / split / "images", data / split / "masks")
    if problems:
        raise UserError(str(problems[0]))
    return pairs


def sources_of(pairs: Sequence[Pair], palette: Palette, antialiased: bool) -> Sources:
    """Return for each foreground class its pairs by source, sorted; a pair of several classes is under each."""
    counts = count_masks([pair.mask for pair in pairs], palette, antialiased)
    found: Sources = {name: {} for name in palette.names[1:]}
    for pair, row in zip(pairs, counts, strict=True):
        for name, pixels in zip(palette.names[1:], row[1:], strict=True):
            if pixels:
                found[name].setdefault(source_of(pair.name), []).append(pair)
    return {name: dict(sorted(by_source.items())) for name, by_source in found.items()}


def write_split(pairs: Sequence[Pair], folder: Path) -> None:
    """Copy pairs into ``folder``, which must not exist: first beside it, then renamed."""
    part = folder.with_name(f"{folder.name}.part")
    for kind in ("images", "masks"):
        (part / kind).mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        shutil.copy(pair.image, part / "images")
        shutil.copy(pair.mask, part / "masks")
    part.rename(folder)


def left_with_one(name: str, data: Path, target: Path, palette: Palette, antialiased: bool) -> tuple[str, list[str]]:
    """Write a data set whose class ``name`` has one training source, and a split ``held`` with its other sources.

    Returns:
        The source that is left, and those that are held out.
    """
    training, validation = pairs_of(data, "train"), pairs_of(data, "valid")
    mine = sources_of(training, palette, antialiased)[name]
    others = sources_of(validation, palette, antialiased)[name]
    left, *removed = mine
    out = {pair.name for source in removed for pair in mine[source]}
    held = [pair for pair in training if pair.name in out] + [pair for pairs in others.values() for pair in pairs]
    for split, pairs in (
        ("train", [pair for pair in training if pair.name not in out]),
        ("valid", validation),
        ("held", held),
    ):
        if not (target / split).is_dir():
            write_split(pairs, target / split)
    if (data / "palette.yaml").is_file():
        shutil.copy(data / "palette.yaml", target)
    return left, [*removed, *others]


def table(names: Sequence[str], recipes: Sequence[str], found: Mapping[tuple[str, str], float]) -> str:
    """Return a Markdown table of the Dice by (recipe, class); the mean stands where no class of a recipe is missing."""
    rows = [["recipe", *names, "mean"], ["---", *["---:"] * (len(names) + 1)]]
    for recipe in recipes:
        mine = [found[recipe, name] for name in names if (recipe, name) in found]
        cells = [f"{found[recipe, name]:.3f}" if (recipe, name) in found else "" for name in names]
        rows.append([recipe, *cells, f"{statistics.fmean(mine):.3f}" if len(mine) == len(names) else ""])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(words: Sequence[str] | None = None) -> int:
    """Do what the module says and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="YAML file with the recipes, as for quality.py")
    parser.add_argument("--data", type=Path, required=True, help="data set with train and valid")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and the table")
    parser.add_argument("--minutes", type=float, help="how long each network trains, in place of the plan's")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these recipes of the plan")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="only these classes")
    options = parser.parse_args(words)
    try:
        runs = {run.name: run for run in runs_of(yaml.safe_load(options.plan.read_text()), options.minutes)}
        recipes = chosen("--only", options.only, list(runs))
        settings = yaml.safe_load(Path(runs[recipes[0]].config).read_text())["data"]
        palette = find_palette(settings.get("palette"), str(options.data))
        antialiased = bool(settings.get("antialiased_masks", False))
        training = pairs_of(options.data, "train")
        learnable = sources_of(training, palette, antialiased)
        known = sources_of([*training, *pairs_of(options.data, "valid")], palette, antialiased)
        able = [name for name in known if learnable[name] and len(known[name]) > 1]
        names = chosen("--classes", options.classes, able)
        found: dict[tuple[str, str], float] = {}
        for recipe in recipes:
            for name in names:
                data, folder = options.out / "data" / name, options.out / recipe / name
                left, others = left_with_one(name, options.data, data, palette, antialiased)
                file = folder / "result.json"
                if not file.is_file():
                    print(f"{recipe}: {name} from {left}, to be found in {', '.join(others)}")
                    write_json(file, asdict(train(runs[recipe], data, folder / "run", "held")))
                found[recipe, name] = Result(**json.loads(file.read_text())).dice[name] or 0.0
                write_text(options.out / "table.md", table(names, recipes, found))
        print(table(names, recipes, found))
    except (UserError, OSError, yaml.YAMLError) as error:
        return print_user_error(error if isinstance(error, UserError) else UserError(str(error)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
