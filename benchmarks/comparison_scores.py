"""The one scorer of compare.py: pixels of predicted masks against the truth, at the images' own size."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from one_source import pairs_of

from flexunet_pl.data.balance import count_masks
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, Palette
from flexunet_pl.evaluation.models import PredictedMasks
from flexunet_pl.nn.score_table import ScoreTable, confusion_matrix


@dataclass(frozen=True)
class Scores:
    """What predicted masks are worth.

    Attributes:
        dice: Dice, 0..1, of each foreground class; None where no held-out image shows it, or no training image did.
        mean_foreground_dice: The mean of those that are there; None if none is.
        untrained: Foreground classes that held-out images show and no training image does; no engine can find them.
        good_images: Held-out images without a defect.
        good_with_false_positives: How many of these have a predicted defect pixel.
        good_false_positive_share: Share of their pixels that are predicted as a defect, 0..1; None without such images.
    """

    dice: dict[str, float | None]
    mean_foreground_dice: float | None
    untrained: list[str]
    good_images: int
    good_with_false_positives: int
    good_false_positive_share: float | None


def score(masks: Path, data: Path) -> Scores:
    """Score a folder of predicted masks, one for each image of ``data/valid``, with its name and size.

    Raises:
        UserError: If a mask is missing, has another size, or holds a value of no class.
    """
    palette = Palette.load(data / PALETTE_FILE)
    pairs = pairs_of(data, "valid")
    model = PredictedMasks(masks)
    model.use(palette, pairs)
    confusion = np.zeros((len(palette), len(palette)), np.int64)
    false_positives: list[tuple[int, int]] = []  # of good images: wrong pixels, all pixels
    for pair in pairs:
        truth, _ = read_mask(pair.mask, palette, antialiased=False)
        predicted = model.predict(pair).mask_index
        confusion += confusion_matrix(truth, predicted, len(palette))
        counted = truth != IGNORE_INDEX
        if not truth[counted].any():
            false_positives.append((int((predicted[counted] != 0).sum()), int(counted.sum())))
    table = ScoreTable(confusion, len(pairs))
    trained = count_masks([pair.mask for pair in pairs_of(data, "train")], palette).sum(axis=0) > 0
    dice: dict[str, float | None] = {}
    untrained = []
    for index, name in enumerate(palette.names[1:], start=1):
        found = table.of_class(index)["dice"]
        if found is not None and not trained[index]:
            untrained.append(name)
        dice[name] = found if trained[index] else None
    wrong, pixels = (sum(column) for column in zip(*false_positives, strict=True)) if false_positives else (0, 0)
    return Scores(
        dice,
        mean_known(list(dice.values())),
        untrained,
        len(false_positives),
        sum(count > 0 for count, _ in false_positives),
        wrong / pixels if pixels else None,
    )


def mean_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there is none."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
