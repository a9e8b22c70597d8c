"""Out-of-sample predictions: each image of a data set by a network that has not trained on it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair, raise_problems
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import fold_members, folds_of
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import find_pairs
from flexunet_pl.evaluation.models import ImagePrediction, NetworkModel
from flexunet_pl.training import runs
from flexunet_pl.training.data_paths import data_settings

OPTION = "--labels"


class Part(NamedTuple):
    """Images that one network has not trained on.

    Attributes:
        checkpoint: The network.
        pairs: The images and their masks.
    """

    checkpoint: Path
    pairs: list[Pair]


class HeldOut(NamedTuple):
    """What the networks of a run can be asked about a data set.

    Attributes:
        parts: Images by the network that has not trained on them.
        images: How many images the data set has.
        note: Which images are left out and why, empty if none is.
    """

    parts: list[Part]
    images: int
    note: str

    @property
    def pairs(self) -> list[Pair]:
        """All images that are predicted, in the order of the parts."""
        return [pair for part in self.parts for pair in part.pairs]


def find_held_out(run: Path, data: Path) -> HeldOut:
    """Find out which images of a data set the networks of a run have not trained on.

    With folds, each training image belongs to the network of the fold it validates in, and the test images to the mean
    of all networks. A run without folds has only its validation and test images.

    Args:
        run: Folder of a run, NAME of runs/NAME, or latest.
        data: The data set it was trained on: a folder with train, valid and test.

    Raises:
        UserError: If the run was trained on another data set or is not finished, or no image is left.
    """
    run = runs.find_run(run)
    fold = _check_same_data(run, data)
    pairs = {split: _pairs(data, split) for split in SPLITS if (data / split / "images").is_dir()}
    images = sum(map(len, pairs.values()))
    if not images:
        raise UserError(f"{OPTION} {run}: {data} has no train, valid or test with images and masks; check the path")
    whole = runs.find_checkpoint(run)
    tested = Part(whole, pairs.get("test", []))
    if runs.has_folds(run):
        by_file = {str(pair.image.relative_to(data).as_posix()): pair for pair in pairs.get("train", [])}
        parts = [
            Part(
                runs.find_checkpoint(run / f"{runs.FOLD}{number}"),
                [by_file[file] for file in fold_members(data, number)[1] if file in by_file],
            )
            for number in folds_of(data)
        ]
    elif fold is not None:
        files = set(fold_members(data, fold)[1])
        held = [pair for pair in pairs.get("train", []) if pair.image.relative_to(data).as_posix() in files]
        parts = [Part(whole, held)]
    else:
        parts = [Part(whole, pairs.get("valid", []))]
    parts = [part for part in [*parts, tested] if part.pairs]
    held_out = sum(len(part.pairs) for part in parts)
    if not held_out:
        raise UserError(
            f"{OPTION} {run}: it trained on all images of {data}, so it cannot tell which labels are wrong; "
            f"train with {PROGRAM} fit DATA --folds 5"
        )
    note = ""
    if held_out < images:
        note = (
            f"{held_out} of {images} images are checked: the others trained the network of {run}, which has learnt "
            f"their labels, right or wrong. A run of {PROGRAM} fit DATA --folds 5 checks them all."
        )
    return HeldOut(parts, images, note)


def predictions(held_out: HeldOut, palette: Palette) -> Iterator[tuple[Pair, ImagePrediction]]:
    """Predict each image once; only one network is in memory at a time. Small regions are kept.

    Raises:
        UserError: If an image cannot be read, or a network has other classes than ``palette``.
    """
    for part in held_out.parts:
        model = NetworkModel(part.checkpoint)
        model.keep_small_regions()
        known = model.palette
        if known is None or known.names != palette.names:
            names = "none" if known is None else ", ".join(known.names)
            raise UserError(
                f"{part.checkpoint}: knows the classes {names}, the data {', '.join(palette.names)}; they must be the "
                "same, in the same order: choose the run that was trained on this data set"
            )
        for pair in part.pairs:
            yield pair, model.predict(pair)


def _check_same_data(run: Path, data: Path) -> int | None:
    """Return the fold that a run without folds validates on, if any; UserError if it trained on other data."""
    settings = data_settings(run, f"give {OPTION} a run folder that fit wrote")
    root, fold = settings.get("root"), settings.get("fold")
    # Relative paths of a saved config are relative to its folder.
    trained_on = None if root is None else Path(os.path.normpath(run / root))
    if trained_on is None or (trained_on.is_dir() and trained_on.resolve() != data.resolve()):
        of = "folders given one by one" if trained_on is None else str(trained_on)
        raise UserError(
            f"{OPTION} {run}: trained on {of}, not on {data}, so which of these images it knows is unclear; give the "
            "run of this data set"
        )
    return fold if isinstance(fold, int) else None


def _pairs(data: Path, split: str) -> list[Pair]:
    pairs, problems = find_pairs(data / split / "images", data / split / "masks")
    raise_problems(problems, before=f"{data}: ", after=", so its labels were not checked")
    return pairs
