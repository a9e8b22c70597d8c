"""Confident learning on pixels: which labels a model contradicts, as sure as it usually is.

C. Northcutt, L. Jiang, I. Chuang, "Confident learning: estimating uncertainty in dataset labels", Journal of Artificial
Intelligence Research 70, 2021. The quality of a whole mask follows V. Lad and J. Mueller, "Estimating label quality and
errors in semantic segmentation data via any model", ICML workshop on deployment and monitoring, 2023.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array

LEVELS = 255  # probabilities are kept as whole numbers 0..255
TEMPERATURE = 0.1  # of the soft minimum, as in Lad and Mueller

Floats = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class LabelledPixels(NamedTuple):
    """One image: what its mask says, and what a network says that has not trained on it.

    Attributes:
        labelled: Class indices uint8 (h, w) at the size that the network saw, 255 = ignore.
        levels: Probabilities uint8 (h, w, K), 0..255 for 0..1, K at least 2.
        size: (height, width) of the image's own pixels.
    """

    labelled: UInt8Array
    levels: UInt8Array
    size: tuple[int, int]


def as_levels(probabilities: npt.NDArray[np.float32]) -> UInt8Array:
    """Map probabilities float32 (h, w, K), with K = 1 that of the second of two classes, to uint8 (h, w, K), K >= 2."""
    if probabilities.shape[2] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=2)
    return np.asarray(np.rint(probabilities * LEVELS), dtype=np.uint8)


class SelfConfidence:
    """The mean probability of a class over the pixels that are labelled so, summed up image by image."""

    def __init__(self, num_classes: int) -> None:
        """Start without images."""
        self._sums = np.zeros(num_classes)
        self._pixels = np.zeros(num_classes, dtype=np.int64)

    def add(self, pixels: LabelledPixels) -> None:
        """Count an image."""
        for index in range(len(self._sums)):
            levels = pixels.levels[..., index][pixels.labelled == index]
            self._sums[index] += float(levels.sum(dtype=np.int64)) / LEVELS
            self._pixels[index] += levels.size

    @property
    def thresholds(self) -> Floats:
        """The thresholds t_j of Northcutt et al., float64 (K,), 0..1; 1 for a class that no pixel is labelled as."""
        return np.where(self._pixels > 0, self._sums / np.maximum(self._pixels, 1), 1.0)


def suggested_classes(pixels: LabelledPixels, thresholds: Floats) -> UInt8Array:
    """Return the class that the network is confident of at each pixel, uint8 (h, w), and the label's where it is not.

    A pixel counts for class j if its probability is at least the threshold t_j; of several such classes the most
    probable one counts. Where the mask is ignored there is no suggestion: 255.
    """
    limits = np.rint(np.minimum(thresholds, 1.0) * LEVELS).astype(np.int16)
    confident = np.where(pixels.levels >= limits, pixels.levels.astype(np.int16), -1)
    suggested = confident.argmax(axis=2).astype(np.uint8)
    sure = confident.max(axis=2) >= 0
    return np.where(sure & (pixels.labelled != IGNORE_INDEX), suggested, pixels.labelled)


def confident_joint(labelled: UInt8Array, suggested: UInt8Array, num_classes: int) -> IntArray:
    """Count pixels by label (rows) and suggestion (columns), int64 (K, K); ignored pixels are left out."""
    counted = labelled != IGNORE_INDEX
    cells = labelled[counted].astype(np.int64) * num_classes + suggested[counted]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def mask_quality(pixels: LabelledPixels) -> float:
    """Return the quality of a whole mask, 0..1: the soft minimum over pixels of the label's probability.

    With p_i for the probability of the label of pixel i, it is the sum of p_i w_i, where the weights w_i are the
    softmax of (1 - p_i) / 0.1 over all pixels (Lad and Mueller). It is 1 for a mask that is ignored everywhere.
    """
    counted = pixels.labelled != IGNORE_INDEX
    if not counted.any():
        return 1.0
    own = np.take_along_axis(pixels.levels[counted], pixels.labelled[counted][:, None].astype(np.int64), axis=1)
    probability = np.arange(LEVELS + 1) / LEVELS
    weights = np.bincount(own[:, 0], minlength=LEVELS + 1) * np.exp((1 - probability) / TEMPERATURE)
    return float((probability * weights).sum() / weights.sum())


def margins(pixels: LabelledPixels, suggested: UInt8Array) -> npt.NDArray[np.float32]:
    """Return how much more probable the suggested class is than the label, float32 (h, w), -1..1; 0 if ignored."""
    known = pixels.labelled != IGNORE_INDEX

    def chosen(index: UInt8Array) -> npt.NDArray[np.float32]:
        places = np.where(known, index, 0).astype(np.int64)[..., None]
        return np.take_along_axis(pixels.levels, places, axis=2)[..., 0].astype(np.float32)

    return np.where(known, (chosen(suggested) - chosen(pixels.labelled)) / LEVELS, 0).astype(np.float32)
