"""Calibration: is a pixel that the model is 80 % sure of right in 80 % of the cases?"""

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15


class Calibration:
    """Counts pixels by how sure the model is of the class it gave them."""

    def __init__(self) -> None:
        """Start with no pixels."""
        self.pixels = np.zeros(BINS, dtype=np.int64)
        self.right = np.zeros(BINS, dtype=np.int64)
        self.confidence = np.zeros(BINS)

    def add(self, confidence: npt.NDArray[np.float32], is_right: npt.NDArray[np.bool_]) -> None:
        """Add pixels: the probability of the class each was given, 0..1, and whether it is the right one, (P,)."""
        place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        self.pixels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[is_right], minlength=BINS)
        self.confidence += np.bincount(place, weights=confidence.astype(np.float64), minlength=BINS)

    def merge(self, other: "Calibration") -> None:
        """Add the pixels of another one."""
        self.pixels += other.pixels
        self.right += other.right
        self.confidence += other.confidence

    @property
    def expected_error(self) -> float | None:
        """The expected calibration error: |accuracy - confidence| of the bins, weighed by their pixels."""
        if not self.pixels.any():
            return None
        return float(np.abs(self.right - self.confidence).sum() / self.pixels.sum())

    def bins(self) -> list[dict[str, Any]]:
        """Return the bins that have pixels: their range, pixels, mean confidence and share of right pixels."""
        return [
            {
                "from": round(index / BINS, 6),
                "to": round((index + 1) / BINS, 6),
                "pixels": int(self.pixels[index]),
                "confidence": float(self.confidence[index] / self.pixels[index]),
                "accuracy": float(self.right[index] / self.pixels[index]),
            }
            for index in np.flatnonzero(self.pixels)
        ]
