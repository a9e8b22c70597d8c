"""Balance rare classes: class weights for a loss, image weights for a class-balanced sampler."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.data.manifest import MANIFEST_FILE, pixel_table, read_manifest
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, Palette

Counts = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]

# Cui et al., Class-Balanced Loss (CVPR 2019): beyond about 1 / (1 - BETA) examples, more of them bring little.
BETA = 0.999


def count_masks(
    masks: Sequence[Path], palette: Palette, antialiased: bool = False, max_pixels: int | None = None
) -> Counts:
    """Count the pixels of each class in each mask file.

    Returns:
        int64 (N, K), columns in the palette's order; ignored pixels count nowhere.

    Raises:
        UserError: If a file cannot be read with this palette.
    """
    table = np.zeros((len(masks), len(palette)), dtype=np.int64)
    for row, path in zip(table, progress(masks, "Counting class pixels"), strict=True):
        mask_index, _ = read_mask(path, palette, antialiased, max_pixels)
        row[:] = np.bincount(mask_index.reshape(-1), minlength=IGNORE_INDEX + 1)[: len(palette)]
    return table


def counts_in_manifest(root: Path, images: Sequence[Path], palette: Palette) -> Counts | None:
    """Return the pixels of each class in each image as ``root/manifest.csv`` has them, int64 (N, K).

    None if there is no manifest, or it does not list all of these images with all classes of the palette.

    Raises:
        UserError: If there is a manifest that cannot be read.
    """
    if not (root / MANIFEST_FILE).is_file():
        return None
    row_of = {root / row.file: row for row in read_manifest(root)}
    rows = [row_of[path] for path in images if path in row_of]
    if len(rows) < len(images) or any(not row.pixels.keys() >= set(palette.names) for row in rows):
        return None
    return pixel_table(rows, palette)


def median_frequency(counts: Counts) -> Weights:
    """Weigh a class by the median frequency over its own (Eigen and Fergus, ICCV 2015).

    The frequency of a class is its share of the pixels of those images that show it. A class of median frequency
    gets 1, rarer ones more, commoner ones less, and a class without pixels 0: float64 (K), from pixels int64 (N, K).
    """
    shows_class = counts > 0
    around = np.where(shows_class, counts.sum(axis=1, keepdims=True), 0).sum(axis=0)
    occurs = around > 0
    frequency = counts.sum(axis=0)[occurs] / around[occurs]
    weights = np.zeros(counts.shape[1])
    weights[occurs] = np.median(frequency) / frequency if occurs.any() else 0
    return weights


def effective_number(counts: Counts, beta: float = BETA) -> Weights:
    """Weigh a class by one over the effective number of images that show it, (1 - beta^n) / (1 - beta).

    Images are counted, not pixels: pixels of one image are not independent examples.

    Args:
        counts: Pixels of each class in each image, int64 (N, K).
        beta: 0 weighs all classes alike, near 1 by one over their number of images.

    Returns:
        float64 (K), with mean 1 over the classes that occur, and 0 for the others.
    """
    images = (counts > 0).sum(axis=0)
    occurs = images > 0
    weights = np.zeros(counts.shape[1])
    weights[occurs] = (1 - beta) / (1 - beta ** images[occurs])
    return weights / weights[occurs].mean() if occurs.any() else weights


CLASS_WEIGHTS: dict[str, Callable[[Counts], Weights]] = {
    "median_frequency": median_frequency,
    "effective_number": effective_number,
}


def class_weights(rule: str, counts: Counts) -> list[float]:
    """Return the weight of each class by a rule, from pixels int64 (N, K); raise UserError if there is no such rule."""
    if rule not in CLASS_WEIGHTS:
        raise UserError(
            f"class_weights={rule!r}; choose from {', '.join(CLASS_WEIGHTS)}, or give one number for each class"
            f"{suggestion(rule, CLASS_WEIGHTS)}"
        )
    return [float(weight) for weight in CLASS_WEIGHTS[rule](counts)]


def image_weights(counts: Counts) -> list[float]:
    """Return how often to draw each image, so that every class is drawn equally often.

    A draw takes a kind (a foreground class that occurs, or "no foreground at all"), each with the same probability,
    and then an image of this kind, each with the same probability. An image of several classes collects from each.

    Args:
        counts: Pixels of each class in each image, int64 (N, K), background first.

    Returns:
        N probabilities that sum to 1.

    Raises:
        UserError: If there is no image.
    """
    if not len(counts):
        raise UserError("sampler: there is no image to draw from; check the training folder")
    foreground = counts[:, 1:] > 0
    kinds = np.column_stack([foreground, ~foreground.any(axis=1)])
    images = kinds.sum(axis=0)
    shares = kinds[:, images > 0] / images[images > 0]
    return [float(weight) for weight in shares.mean(axis=1)]
