"""Curves over a threshold from histograms: ROC, per-region overlap, precision and recall.

Detection is scored as in MVTec AD: a pixel's score is 1 - P(background) as float32, a defect is whatever is not
background, and a defect region is a component of 8 neighbours. Such a score is a multiple of 2^-24, so a
histogram with 2^24 + 1 bins gives the exact curves of any number of images in a fixed amount of memory. (A score from a
single sigmoid channel may be finer; it is rounded to 2^-24.)
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

STEPS = 1 << 24
AUPRO_LIMIT = 0.3
CURVE_POINTS = 120
# Precision and recall of a class: odds p / (1 - p) on a logarithmic scale, where float32 is fine near 0 and near 1.
ODDS_BINS = 8192
ODDS_RANGE = 17.4  # the largest |log odds| but one that a float32 below 1 can have is 16.6


class Detection(NamedTuple):
    """Areas and curves from the scores of all pixels; None where there is no defect, or nothing but defects."""

    auroc: float | None
    average_precision: float | None
    aupro: float | None
    roc: list[list[float]]  # (false positive rate, true positive rate)
    pro: list[list[float]]  # (false positive rate, mean overlap of regions), up to the limit


NO_DETECTION = Detection(None, None, None, [], [])


class DetectionHistogram:
    """Counts pixels by score: without defect, with a defect, and with the defect's share of its region."""

    def __init__(self) -> None:
        """Start with no pixels."""
        # Pages of zeros that no score falls into take no memory.
        self.clean = np.zeros(STEPS + 1, dtype=np.int64)
        self.defect = np.zeros(STEPS + 1, dtype=np.int64)
        self.overlap = np.zeros(STEPS + 1, dtype=np.float64)
        self.regions = 0

    def add(self, scores: npt.NDArray[np.float32], region: npt.NDArray[np.int32]) -> None:
        """Add pixels (P,): scores 1 - P(background), clipped to 0..1, and the image's defect regions, 0 for none."""
        step = np.rint(scores.astype(np.float64).clip(0, 1) * STEPS).astype(np.int64)
        is_defect = region > 0
        np.add.at(self.clean, step[~is_defect], 1)
        if not is_defect.any():
            return
        defect_step, defect_region = step[is_defect], region[is_defect]
        areas = np.bincount(defect_region)
        np.add.at(self.defect, defect_step, 1)
        np.add.at(self.overlap, defect_step, 1 / areas[defect_region])
        self.regions += int((areas[1:] > 0).sum())

    def compute(self) -> Detection:
        """Return the areas and curves."""
        used = np.flatnonzero(self.clean + self.defect)[::-1]  # from the highest score down
        clean, defect = np.cumsum(self.clean[used]), np.cumsum(self.defect[used])
        if not len(used) or not defect[-1] or not clean[-1]:
            return NO_DETECTION
        false_rate = np.concatenate([[0.0], clean / clean[-1]])
        true_rate = np.concatenate([[0.0], defect / defect[-1]])
        overlap = np.concatenate([[0.0], np.cumsum(self.overlap[used]) / self.regions])
        pro = cut_at(false_rate, overlap, AUPRO_LIMIT)
        return Detection(
            auroc=float(np.trapezoid(true_rate, false_rate)),
            average_precision=average_precision(defect, clean),
            aupro=float(np.trapezoid(pro[1], pro[0]) / AUPRO_LIMIT),
            roc=thinned(false_rate, true_rate),
            pro=thinned(*pro),
        )


class ClassHistogram:
    """Counts pixels of each class and of no such class by the probability of that class."""

    def __init__(self, num_classes: int) -> None:
        """Start with no pixels of ``num_classes`` classes."""
        self.counts = np.zeros((num_classes, 2, ODDS_BINS), dtype=np.int64)

    def add(self, index: int, bins: npt.NDArray[np.int64], is_class: npt.NDArray[np.bool_]) -> None:
        """Add pixels: the :func:`odds_bins` of the probability of class ``index``, and whether they are of it, (P,)."""
        everything = np.bincount(bins, minlength=ODDS_BINS)
        of_class = np.bincount(bins[is_class], minlength=ODDS_BINS)
        self.counts[index, 0] += everything - of_class
        self.counts[index, 1] += of_class

    def merge(self, other: "ClassHistogram") -> None:
        """Add the pixels of another one."""
        self.counts += other.counts

    def average_precision(self, index: int) -> float | None:
        """Return the average precision of a class, None where it does not occur."""
        others, own = np.cumsum(self.counts[index, :, ::-1], axis=1)
        return average_precision(own, others) if own[-1] else None

    def curve(self, index: int) -> list[list[float]]:
        """Return points (recall, precision) of a class, from the highest threshold down; none if it does not occur."""
        others, own = np.cumsum(self.counts[index, :, ::-1], axis=1)
        if not own[-1]:
            return []
        some = np.flatnonzero(own + others)
        return thinned(own[some] / own[-1], own[some] / (own + others)[some])


def odds_bins(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Map probabilities float32 (P,) to the bins of their odds, int64 (P,), in the same order."""
    within = probabilities.clip(0, 1)  # rounding may have put some just outside
    with np.errstate(divide="ignore"):
        odds = np.log(within) - np.log1p(-within)
    scale = ODDS_BINS / (2 * ODDS_RANGE)
    return np.asarray(np.clip((odds + ODDS_RANGE) * scale, 0, ODDS_BINS - 1), dtype=np.int64)


def average_precision(positives: IntArray, negatives: IntArray) -> float:
    """Return the sum of precision times the gain in recall over thresholds from the highest down.

    Positives and negatives (T,) are those that score at least each threshold; the last one is all of them.
    """
    gained = np.diff(positives, prepend=0)
    steps = gained > 0
    precision = positives[steps] / (positives[steps] + negatives[steps])
    return float((precision * gained[steps]).sum() / positives[-1])


def cut_at(x: FloatArray, y: FloatArray, limit: float) -> tuple[FloatArray, FloatArray]:
    """Return the part of a curve with rising x (T,) from 0 up to ``limit``, where it ends on a straight line."""
    inside = x <= limit
    if inside.all():
        return x, y
    return np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))


def thinned(x: FloatArray, y: FloatArray) -> list[list[Any]]:
    """Return a curve as pairs, evenly along its length at most CURVE_POINTS of them, rounded to 5 decimals."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    if len(x) > CURVE_POINTS:
        chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS)).clip(max=len(x) - 1))
        x, y = x[chosen], y[chosen]
    return np.round(np.stack([x, y], axis=1), 5).tolist()  # type: ignore[no-any-return]  # numpy's tolist is untyped
