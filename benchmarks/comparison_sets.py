"""The four data sets of compare.py: how each is prepared, and what trains and what is held out with a seed.

A source is never split: tile keeps its two folders, the magnets are split anew by magnet with every seed, wood and
screw have folds of sources, of which the one with the number of the seed is held out.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from one_source import write_split
from quality import flexunet

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.manifest import MANIFEST_FILE, fold_members, read_manifest

FOLDS = 3
ROOT = Path(__file__).resolve().parents[1]
ORIGINAL_CONFIG = "train_eval_infer.config"


@dataclass(frozen=True)
class SourceSet:
    """A data set as it is found, and the words of ``prepare`` that make one to train on.

    Attributes:
        folder: Its folder in ``--data``.
        prepare: Words of ``prepare``; {data}, {out}, {seed} and {palette} are filled in.
        channels: 1 where the images are grey, else 3.
        class_names: Names of the colours in the rgb_map of its train_eval_infer.config; empty if it has none.
        folds: Whether the held-out images of a seed are a fold.
        reserve: Seconds of a run that ``fit`` needs besides training: its start and the last validation.
    """

    folder: str
    prepare: tuple[str, ...]
    channels: int = 3
    class_names: tuple[str, ...] = ()
    folds: bool = False
    reserve: float = 30.0


_TILE_CONFIG = ROOT / "configs" / "tile.yaml"
_WITH_FOLDS = (
    *("pairs", "{data}", "{out}", "--palette", "{palette}", "--antialiased_masks", "true"),
    *("--test", "0", "--folds", str(FOLDS)),
)
SETS = {
    "tile": SourceSet(
        "mvtec-tile-mini",
        (
            *("pairs", "{data}", "{out}", "--palette", str(_TILE_CONFIG), "--antialiased_masks", "true"),
            *("--keep_splits", "true"),
        ),
    ),
    "magnets": SourceSet(
        "magnetic-tile",
        (
            *("folders", "{data}", "{out}", "--defect_free", "Free", "--strip_prefix", "MT_"),
            *("--groups", "{data}/groups.csv", "--valid", "0.2", "--test", "0", "--seed", "{seed}"),
        ),
        channels=1,
        reserve=60.0,
    ),
    "wood": SourceSet(
        "mvtec-wood-mini",
        _WITH_FOLDS,
        class_names=("background", "color", "combined", "hole", "liquid", "scratch"),
        folds=True,
    ),
    "screw": SourceSet(
        "mvtec-screw-mini",
        _WITH_FOLDS,
        class_names=("background", "manipulated_front", "scratch_head", "scratch_neck", "thread_side", "thread_top"),
        folds=True,
    ),
}


def prepared_split(name: str, seed: int, data: Path, out: Path) -> Path:
    """Return the folder with ``train``, ``valid`` (the held-out images) and the palette of a set with a seed.

    It is made in ``out`` if it is not there; an interrupted one is made again. Masks have exact palette colours.

    Raises:
        UserError: If the set is not in ``data``, there is no such fold, or a command fails.
    """
    chosen = SETS[name]
    if chosen.folds and not 0 <= seed < FOLDS:
        raise UserError(f"--seeds {seed}: {name} has the folds 0 to {FOLDS - 1}, and a seed holds out that fold")
    seeded = "{seed}" in chosen.prepare
    whole = out / (f"{name}-seed{seed}" if seeded else name)
    if not (whole / MANIFEST_FILE).is_file():
        shutil.rmtree(whole, ignore_errors=True)
        for words in prepare_commands(name, seed, data / chosen.folder, whole):
            flexunet(words)
    return _fold(whole, seed, out / f"{name}-fold{seed}") if chosen.folds else whole


def prepare_commands(name: str, seed: int, data: Path, target: Path) -> list[list[str]]:
    """Return the commands of the package that make the data set ``target`` of the one in ``data``.

    Raises:
        UserError: If ``data`` does not exist.
    """
    if not data.is_dir():
        raise UserError(f"--data: the folder {data} does not exist; leave {name} out with --sets, or give its parent")
    chosen = SETS[name]
    migrated = target.with_name(f"{target.name}-original")
    commands = []
    if chosen.class_names:
        names = ["--names", ",".join(chosen.class_names)]
        commands.append(["migrate", str(data / ORIGINAL_CONFIG), str(migrated), *names])
    palette = migrated / f"{Path(ORIGINAL_CONFIG).stem}.yaml"
    commands.append(
        ["prepare", *(word.format(data=data, out=target, seed=seed, palette=palette) for word in chosen.prepare)]
    )
    return commands


def _fold(whole: Path, fold: int, target: Path) -> Path:
    """Copy a data set with folds to ``target``, the images of ``fold`` as its split valid."""
    mask_of = {path.stem: path for path in (whole / "train" / "masks").iterdir()}
    names = {row.file: row.name for row in read_manifest(whole)}
    for split, files in zip(("train", "valid"), fold_members(whole, fold), strict=True):
        if not (target / split).is_dir():
            write_split([Pair(names[file], whole / file, mask_of[names[file]]) for file in files], target / split)
    shutil.copy(whole / PALETTE_FILE, target)
    return target
