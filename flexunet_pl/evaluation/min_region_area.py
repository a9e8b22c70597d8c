"""``python -m flexunet_pl tune-min-area``: choose the area below which predicted regions are noise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import UInt8Array
from flexunet_pl.data.sources import source_of
from flexunet_pl.evaluation.bootstrap import Draws, draw_scores
from flexunet_pl.evaluation.evaluator import open_with_truth
from flexunet_pl.inference.onnx_infer import without_small_regions
from flexunet_pl.nn.score_table import confusion_matrix

SIZES = (0, 10, 20, 50, 100, 200, 500, 1000, 2000)

IntArray = npt.NDArray[np.int64]


def tune_min_area(model: Path, data: Path, split: str = "valid", antialiased_masks: bool = False) -> int:
    """Try sizes below which a defect is made background, and tell which one helps, by images that did not choose it.

    Args:
        model: Checkpoint, run folder, .onnx file, bundle, or folder of predicted masks.
        data: A folder with train, valid and test, or one with images and masks.
        split: Which images of the data choose; not those that the model is judged on later.
        antialiased_masks: Whether blended colours of the truth are moved to the nearest class.

    Returns:
        The exit code 0.

    Raises:
        UserError: For a mistake the user can mend.
    """
    judged, images, palette = open_with_truth(model, data, split, antialiased_masks)
    judged.keep_small_regions()
    names = images.groups or [source_of(pair.name) for pair in images.pairs]
    groups = list(dict.fromkeys(names))
    counts = np.zeros((len(groups), len(SIZES), len(palette), 3), np.int64)
    for name, pair in zip(names, images.pairs, strict=True):
        assert pair.mask is not None  # noqa: S101  find_images_with_truth gives pairs with a mask only
        truth, _ = read_mask(pair.mask, palette, images.antialiased)
        counts[groups.index(name)] += count_pixels(truth, judged.look(pair).mask_index, len(palette))
    print("\n".join(_told(counts, palette.names)))
    return 0


def count_pixels(truth: UInt8Array, predicted: UInt8Array, num_classes: int) -> IntArray:
    """Count the pixels of two masks uint8 (H, W), truth 255 = ignore, for each minimum region area of ``SIZES``.

    Returns:
        int64 (len(SIZES), num_classes, 3): the pixels of each class that are hit, true and predicted.
    """
    confusions = [confusion_matrix(truth, without_small_regions(predicted, size), num_classes) for size in SIZES]
    return np.array([[matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)] for matrix in confusions]).swapaxes(
        1, 2
    )


def cross_validated(counts: IntArray) -> float:
    """Return the mean foreground Dice if each group's size is the one that is best for all other groups.

    Leave-one-out cross-validation (Stone, J. R. Stat. Soc. B 36, 1974) of the choice, in groups.

    Args:
        counts: int64 (groups, len(SIZES), K, 3).
    """
    places = np.arange(len(counts))
    all_but_one = 1 - np.eye(len(counts), dtype=np.int64)
    of_others = np.stack([draw_scores(one, places, all_but_one).mean_dice for one in counts.swapaxes(0, 1)])
    chosen = np.nan_to_num(of_others).argmax(axis=0)
    return float(_in_all(counts[places, chosen]).mean_dice[0])


def _in_all(counts: IntArray) -> Draws:
    """Score all groups together, from their counts (groups, K, 3)."""
    return draw_scores(counts, np.arange(len(counts)), np.ones((1, len(counts)), np.int64))


def _told(counts: IntArray, names: Sequence[str]) -> list[str]:
    scores = [_in_all(one) for one in counts.swapaxes(0, 1)]
    means = [float(np.nan_to_num(one.mean_dice[0])) for one in scores]
    best = int(np.argmax(means))
    occurring = [index for index in range(1, len(names)) if not np.isnan(scores[0].dice[0, index])]
    header = ["min_region_area", "mean foreground Dice", *(names[index] for index in occurring)]
    rows = [
        [str(size), f"{mean:.4f}", *(f"{one.dice[0, index]:.3f}" for index in occurring)]
        for size, mean, one in zip(SIZES, means, scores, strict=True)
    ]
    lines = [
        "  ".join(cell.rjust(len(title)) for cell, title in zip(row, header, strict=True)) for row in [header, *rows]
    ]
    if best == 0:
        return [*lines, "Small regions are right more often than not: leave model.min_region_area at 0."]
    if len(counts) < 2:
        return [*lines, f"All images are of one source: nothing tells whether {SIZES[best]} helps with others."]
    crossed = cross_validated(counts)
    lines.append(f"Chosen by all groups of images but one and counted on that one, each in turn: {crossed:.4f}")
    if crossed <= means[0]:
        return [*lines, "On images that did not choose it no size helps: leave model.min_region_area at 0."]
    size = SIZES[best]
    return [
        *lines,
        f"To use it: --model.min_region_area {size} with fit, test and predict, --min_region_area {size} with export,",
        f"--min-region-area {size} with infer",
    ]
