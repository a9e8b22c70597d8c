"""How sure one can be: intervals from drawing the images, or groups of images, again and again."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

LEVEL = 0.95
FEWEST_GROUPS = 2


class Draws(NamedTuple):
    """Scores in every draw: the mean over the foreground classes that occur in it, (B,), and of each class, (B, K).

    NaN where no class, or not this one, occurs in the draw.
    """

    mean_dice: FloatArray
    mean_iou: FloatArray
    dice: FloatArray


def group_weights(groups: list[str], draws: int, seed: int) -> tuple[IntArray, IntArray]:
    """Draw groups with replacement, as many as there are.

    Returns:
        For each image the position of its group, (N,), and for each draw how often each group is in it, (B, G).
    """
    positions = {group: position for position, group in enumerate(dict.fromkeys(groups))}
    count = len(positions)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    return np.array([positions[group] for group in groups], dtype=np.int64), weights.astype(np.int64)


def draw_scores(counts: IntArray, places: IntArray, weights: IntArray) -> Draws:
    """Score every draw.

    Args:
        counts: For each image and class the pixels that are hit, true and predicted, (N, K, 3).
        places: The group of each image, (N,).
        weights: How often each group is in each draw, (B, G).
    """
    by_group = np.zeros((weights.shape[1], *counts.shape[1:]), dtype=np.int64)
    np.add.at(by_group, places, counts)
    # In floating point because that uses fast matrix products; the counts stay exact below 2^53.
    sums = weights.astype(np.float64) @ by_group.reshape(len(by_group), -1).astype(np.float64)
    hit, true, predicted = np.moveaxis(sums.reshape(-1, *counts.shape[1:]), 2, 0)
    occurs = true > 0
    dice = np.where(occurs, 2 * hit / np.maximum(true + predicted, 1), np.nan)
    iou = np.where(occurs, hit / np.maximum(true + predicted - hit, 1), np.nan)
    return Draws(_mean(dice[:, 1:]), _mean(iou[:, 1:]), dice)


def interval(values: FloatArray, groups: int) -> list[float] | None:
    """Return the middle LEVEL of the values (B,) as [low, high]; None with too few groups or values that are known."""
    known = values[~np.isnan(values)]
    if groups < FEWEST_GROUPS or not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def _mean(values: FloatArray) -> FloatArray:
    """Return the mean of the known values in each row (B, K), NaN where there is none."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
