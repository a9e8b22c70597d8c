"""Choose the area below which predicted regions are noise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import UInt8Array
from flexunet_pl.data.sources import source_of
from flexunet_pl.evaluation.evaluator import open_with_truth
from flexunet_pl.inference.onnx_infer import without_small_regions
from flexunet_pl.nn.bootstrap import draw_counts
from flexunet_pl.nn.metric_registry import METRICS, PRIMARY
from flexunet_pl.nn.score_table import PixelCounts, confusion_matrix

SIZES = (0, 10, 20, 50, 100, 200, 500, 1000, 2000)

IntArray = npt.NDArray[np.int64]


def compare_areas(model: Path, data: Path, split: str, antialiased_masks: bool) -> list[str]:
    """Compare minimum region areas, cross-validated over groups of images; return the lines to print.

    The arguments are those of the command ``tune-min-area``.

    Raises:
        UserError: For a mistake in the arguments or the data.
    """
    opened, images, palette = open_with_truth(model, data, split, antialiased_masks)
    opened.keep_small_regions()
    names = images.groups or [source_of(pair.name) for pair in images.pairs]
    groups = list(dict.fromkeys(names))
    counts = np.zeros((len(groups), len(SIZES), len(palette), len(palette)), np.int64)
    for name, pair in zip(names, images.pairs, strict=True):
        truth, _ = read_mask(pair.mask, palette, images.antialiased)
        counts[groups.index(name)] += count_pixels(truth, opened.predict(pair).mask_index, len(palette))
    return _lines(counts, palette.names)


def count_pixels(truth: UInt8Array, predicted: UInt8Array, num_classes: int) -> IntArray:
    """Compare two masks uint8 (H, W), truth 255 = ignore, for each minimum region area of ``SIZES``.

    Returns:
        Confusion matrices int64 (len(SIZES), num_classes, num_classes).
    """
    return np.stack([confusion_matrix(truth, without_small_regions(predicted, size), num_classes) for size in SIZES])


def cross_validated(counts: IntArray) -> float:
    """Return the mean foreground Dice if each group's size is the one that is best for all other groups.

    Leave-one-out cross-validation (Stone, J. R. Stat. Soc. B 36, 1974) of the choice, in groups.

    Args:
        counts: Confusion matrices int64 (groups, len(SIZES), K, K).
    """
    places = np.arange(len(counts))
    all_but_one = 1 - np.eye(len(counts), dtype=np.int64)
    of_others = np.stack([_means(draw_counts(one, all_but_one)) for one in counts.swapaxes(0, 1)])
    return float(_means(PixelCounts(counts[places, of_others.argmax(axis=0)].sum(axis=0))))


def _means(counts: PixelCounts) -> npt.NDArray[np.float64]:
    """Return the mean foreground Dice (...), 0 without foreground."""
    return np.nan_to_num(np.asarray(METRICS["pixels", False, PRIMARY].compute(counts), dtype=np.float64))


def _lines(counts: IntArray, names: Sequence[str]) -> list[str]:
    in_all = PixelCounts(counts.sum(axis=0))
    means, dice = _means(in_all), METRICS["pixels", True, "dice"].compute(in_all)
    best = int(means.argmax())
    occurring = [index for index in range(1, len(names)) if in_all.support[0, index]]
    header = ["min_region_area", METRICS["pixels", False, PRIMARY].name, *(names[index] for index in occurring)]
    rows = [
        [str(size), f"{mean:.4f}", *(f"{of_class[index]:.3f}" for index in occurring)]
        for size, mean, of_class in zip(SIZES, means, dice, strict=True)
    ]
    lines = [
        "  ".join(cell.rjust(len(title)) for cell, title in zip(row, header, strict=True)) for row in [header, *rows]
    ]
    if best == 0:
        return [*lines, "Small regions are right more often than not: leave model.min_region_area at 0."]
    if len(counts) < 2:
        return [*lines, f"All images are of one source: whether {SIZES[best]} helps with others is unknown."]
    crossed = cross_validated(counts)
    lines.append(
        f"Cross-validated, each group of images scored with the area that suits all others best: {crossed:.4f}"
    )
    if crossed <= means[0]:
        return [*lines, "No area helps on images that did not choose it: leave model.min_region_area at 0."]
    size = SIZES[best]
    return [
        *lines,
        f"To use it: --model.min_region_area {size} with fit, test and predict, --min_region_area {size} with export",
        "and infer",
    ]
