"""``python -m flexunet_pl regions``: how small a defect may be before it is more likely invented than found."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array
from flexunet_pl.data.sources import source_of
from flexunet_pl.inference.onnx_infer import without_small_regions
from flexunet_pl.report.images import check_truth, find_images_with_truth, palette_of_truth
from flexunet_pl.report.models import PredictedMasks, open_model

SIZES = (0, 10, 20, 50, 100, 200, 500, 1000, 2000)

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def regions(model: Path, data: Path, split: str = "valid", antialiased_masks: bool = False) -> int:
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
    judged = open_model(model)
    images = find_images_with_truth(data, split, None, None, antialiased_masks)
    palette = palette_of_truth(None, images, [judged.palette])
    check_truth(images, palette)
    if isinstance(judged, PredictedMasks):
        judged.use(palette, list(images.pairs))
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
    """Count the pixels of two masks uint8 (H, W), truth 255 = ignore, for each smallest region of ``SIZES``.

    Returns:
        int64 (len(SIZES), num_classes, 3): the pixels of each class that are hit, true and predicted.
    """
    counted = truth != IGNORE_INDEX
    counts = np.zeros((len(SIZES), num_classes, 3), np.int64)
    for place, smallest in enumerate(SIZES):
        kept = without_small_regions(predicted, smallest)
        for column, chosen in enumerate((counted & (kept == truth), counted)):
            counts[place, :, column] = np.bincount(truth[chosen], minlength=num_classes)
        counts[place, :, 2] = np.bincount(kept[counted], minlength=num_classes)
    return counts


def dice_of(counts: IntArray) -> FloatArray:
    """Map counts (..., K, 3) to the Dice of each class (..., K), 0 where it does not occur."""
    hit, true, predicted = np.moveaxis(counts, -1, 0)
    return np.asarray(np.where(true > 0, 2 * hit / np.maximum(true + predicted, 1), 0))


def mean_foreground_dice(counts: IntArray) -> FloatArray:
    """Map counts (..., K, 3) to the mean Dice (...) of the foreground classes that occur, 0 where none does."""
    occurring = (counts[..., 1:, 1] > 0).sum(axis=-1)
    return np.asarray(dice_of(counts)[..., 1:].sum(axis=-1) / np.maximum(occurring, 1))


def cross_validated(counts: IntArray) -> float:
    """Return the mean foreground Dice if each group's size is the one that is best for all other groups.

    Leave-one-out cross-validation (Stone, J. R. Stat. Soc. B 36, 1974) of the choice, in groups.

    Args:
        counts: int64 (groups, len(SIZES), K, 3).
    """
    chosen = mean_foreground_dice(counts.sum(axis=0) - counts).argmax(axis=1)
    return float(mean_foreground_dice(counts[np.arange(len(counts)), chosen].sum(axis=0)))


def _told(counts: IntArray, names: Sequence[str]) -> list[str]:
    total = counts.sum(axis=0)
    means, dice = mean_foreground_dice(total), dice_of(total)
    best = int(means.argmax())
    occurring = [index for index in range(1, len(names)) if total[0, index, 1]]
    header = ["smallest_region", "mean foreground Dice", *(names[index] for index in occurring)]
    rows = [
        [str(size), f"{mean:.4f}", *(f"{one[index]:.3f}" for index in occurring)]
        for size, mean, one in zip(SIZES, means, dice, strict=True)
    ]
    lines = [
        "  ".join(cell.rjust(len(title)) for cell, title in zip(row, header, strict=True)) for row in [header, *rows]
    ]
    if best == 0:
        return [*lines, "Small regions are right more often than not: leave model.smallest_region at 0."]
    if len(counts) < 2:
        return [*lines, f"All images are of one source: nothing tells whether {SIZES[best]} helps with others."]
    crossed = cross_validated(counts)
    lines.append(f"Chosen by all groups of images but one and counted on that one, each in turn: {crossed:.4f}")
    if crossed <= means[0]:
        return [*lines, "On images that did not choose it no size helps: leave model.smallest_region at 0."]
    size = SIZES[best]
    return [
        *lines,
        f"To use it: --model.smallest_region {size} with fit, test and predict, --smallest_region {size} with export,",
        f"--smallest-region {size} with infer",
    ]
