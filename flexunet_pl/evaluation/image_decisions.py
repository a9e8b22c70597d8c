"""Good or defective, image by image: how many false alarms a wanted share of found defects costs."""

import math
from collections.abc import Sequence

import numpy as np

FOUND_SHARE = 0.95  # of the defective images


class ImageScores:
    """The probability of a defect of each image, of defective and of good ones."""

    def __init__(self) -> None:
        """Start with no image."""
        self.defective: list[float] = []
        self.good: list[float] = []

    def add(self, score: float, *, is_defective: bool) -> None:
        """Add an image."""
        (self.defective if is_defective else self.good).append(score)

    @property
    def threshold(self) -> float | None:
        """The highest threshold at or above which ``FOUND_SHARE`` of the defective images are, None without one."""
        if not self.defective:
            return None
        needed = math.ceil(FOUND_SHARE * len(self.defective))
        return sorted(self.defective, reverse=True)[needed - 1]

    @property
    def false_alarms(self) -> float | None:
        """The share of good images at or above the threshold; None without good or without defective images."""
        threshold = self.threshold
        if threshold is None or not self.good:
            return None
        return sum(score >= threshold for score in self.good) / len(self.good)

    @property
    def auroc(self) -> float | None:
        """The area under the ROC curve: the chance that a defective image scores above a good one, ties for half."""
        if not self.defective or not self.good:
            return None
        return _share_above(self.defective, self.good)


def _share_above(high: Sequence[float], low: Sequence[float]) -> float:
    order = np.sort(np.asarray(low))
    below, not_above = (np.searchsorted(order, high, side=side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * len(high) * len(low)))
