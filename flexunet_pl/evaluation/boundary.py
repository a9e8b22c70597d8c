"""The F-score of boundary pixels within a tolerance.

A boundary pixel of a class is a pixel of that class with a side neighbour of another class; the border of the image and
the borders of ignored areas are no boundaries. It is right if the other mask has a boundary pixel of the class within
the tolerance, which is 0.75 % of the image's diagonal, at least 1 pixel.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation
from scipy.spatial import KDTree

from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array
from flexunet_pl.visualization.pictures import contour

TOLERANCE = 0.0075


class BoundaryCounts(NamedTuple):
    """Boundary pixels of one class: of truth and prediction, and how many of each the other one has nearby."""

    truth: int = 0
    truth_found: int = 0
    predicted: int = 0
    predicted_right: int = 0

    @property
    def f_score(self) -> float | None:
        """Harmonic mean of the shares of the predicted boundary that is right and of the true one that is found.

        None where the class has no boundary in the truth.
        """
        if not self.truth:
            return None
        precision = self.predicted_right / self.predicted if self.predicted else 0.0
        recall = self.truth_found / self.truth
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tolerance_of(height: int, width: int) -> float:
    """Return how many pixels a boundary may be off in an image of this size."""
    return max(1.0, float(TOLERANCE * np.hypot(height, width)))


def count_boundaries(truth: UInt8Array, predicted: UInt8Array, num_classes: int) -> dict[int, BoundaryCounts]:
    """Compare the boundaries of two masks uint8 (H, W), truth 255 = ignore, for each foreground class with any."""
    reach = tolerance_of(*truth.shape) + 1e-6
    ignored = truth == IGNORE_INDEX
    counted = np.where(ignored, IGNORE_INDEX, predicted).astype(np.uint8) if ignored.any() else predicted
    truth_edges, predicted_edges = _edges(truth), _edges(counted)
    found = {}
    for index in range(1, num_classes):
        true_points = np.argwhere(truth_edges & (truth == index))
        predicted_points = np.argwhere(predicted_edges & (counted == index))
        if len(true_points) or len(predicted_points):
            found[index] = BoundaryCounts(
                truth=len(true_points),
                truth_found=_near(true_points, predicted_points, reach),
                predicted=len(predicted_points),
                predicted_right=_near(predicted_points, true_points, reach),
            )
    return found


def _edges(mask_index: UInt8Array) -> npt.NDArray[np.bool_]:
    """Return bool (H, W): pixels with a side neighbour of another class, but for what borders on ignored pixels."""
    edges = contour(mask_index)
    ignored = mask_index == IGNORE_INDEX
    if ignored.any():
        edges &= ~binary_dilation(ignored)
    return edges


def _near(points: npt.NDArray[np.int64], others: npt.NDArray[np.int64], reach: float) -> int:
    """Return how many of the points (P, 2) have one of the others (Q, 2) within reach."""
    if not len(points) or not len(others):
        return 0
    distance, _ = KDTree(others).query(points, distance_upper_bound=reach)
    return int(np.isfinite(distance).sum())
