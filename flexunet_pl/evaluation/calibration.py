"""Calibration: whether pixels predicted with a probability of 0.8 are right in 80 % of the cases."""

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15


class Calibration:
    """Counts pixels by the probability of the class that was predicted.

    Attributes:
        sums: For each bin its pixels, those of them that are right, and the sum of their probabilities, (3, BINS).
    """

    def __init__(self) -> None:
        """Start with no pixels."""
        self.sums = np.zeros((3, BINS))

    def add(self, confidence: npt.NDArray[np.float32], is_right: npt.NDArray[np.bool_]) -> None:
        """Add pixels: the probability of the class each was given, 0..1, and whether it is the right one, (P,)."""
        place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        self.sums += [np.bincount(place, weights, BINS) for weights in (None, is_right, confidence)]

    def merge(self, other: "Calibration") -> None:
        """Add the pixels of another one."""
        self.sums += other.sums

    @property
    def expected_error(self) -> float | None:
        """The expected calibration error: |accuracy - confidence| of the bins, weighed by their pixels."""
        pixels, right, confidence = self.sums
        return float(np.abs(right - confidence).sum() / pixels.sum()) if pixels.any() else None

    def bins(self) -> list[dict[str, Any]]:
        """Return the bins that have pixels: their range, pixels, mean confidence and share of right pixels."""
        return [
            {
                "from": round(index / BINS, 6),
                "to": round((index + 1) / BINS, 6),
                "pixels": int(pixels),
                "confidence": float(confidence / pixels),
                "accuracy": float(right / pixels),
            }
            for index, (pixels, right, confidence) in enumerate(self.sums.T)
            if pixels
        ]
