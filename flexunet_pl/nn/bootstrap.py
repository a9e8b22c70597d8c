"""Bootstrap confidence intervals: images, or groups of images, drawn with replacement."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flexunet_pl.nn.metric_registry import Metric, metrics_of
from flexunet_pl.nn.score_table import PixelCounts

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

LEVEL = 0.95
FEWEST_GROUPS = 2


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


def group_counts(confusions: IntArray, places: IntArray) -> IntArray:
    """Return counts (G, K, K) of every group from those of images (N, K, K) and their groups 0..G-1, (N,)."""
    by_group = np.zeros((places.max() + 1, *confusions.shape[1:]), dtype=np.int64)
    np.add.at(by_group, places, confusions)
    return by_group


def draw_counts(by_group: IntArray, weights: IntArray) -> PixelCounts:
    """Return counts (B, K, K) of every draw from those of groups (G, K, K) and weights (B, G)."""
    # In floating point because that uses fast matrix products; the counts stay exact below 2^53.
    sums = weights.astype(np.float64) @ by_group.reshape(len(by_group), -1).astype(np.float64)
    return PixelCounts(sums.reshape(-1, *by_group.shape[1:]))


def scores_of_draws(counts: PixelCounts, names: Sequence[str]) -> dict[tuple[str, ...], FloatArray]:
    """Return each metric (B,) by its place in scores.json: (key,), or ("classes", name, key).

    Only metrics of the confusion matrix that have a better direction are drawn.
    """
    means = {(metric.key,): metric.compute(counts) for metric in metrics_of() if is_drawn(metric)}
    classes = {metric.key: metric.compute(counts) for metric in metrics_of(per_class=True) if is_drawn(metric)}
    return means | {
        ("classes", name, key): values[:, index] for index, name in enumerate(names) for key, values in classes.items()
    }


def is_drawn(metric: Metric) -> bool:
    """Whether a metric has a confidence interval."""
    return metric.source == "pixels" and not metric.needs and metric.higher_is_better is not None


def has_interval(of_groups: FloatArray) -> bool:
    """Whether enough groups have a score, given that of each group alone (G,), NaN for none.

    All draws score a class alike that a single group shows: their interval would have no width, and say nothing.
    """
    return bool((~np.isnan(of_groups)).sum() >= FEWEST_GROUPS)


def interval(values: FloatArray) -> list[float] | None:
    """Return the middle LEVEL of the values (B,) as [low, high], None if all are NaN."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]
