"""One image judged: everything that is counted in it, small enough to keep or to add up."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label as connected

from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array
from flexunet_pl.evaluation.boundary import BoundaryCounts, count_boundaries
from flexunet_pl.evaluation.calibration import Calibration
from flexunet_pl.evaluation.curves import ClassHistogram, odds_bins
from flexunet_pl.evaluation.models import FloatArray, Seen, plane
from flexunet_pl.evaluation.regions import EIGHT_NEIGHBOURS, Regions, match_regions
from flexunet_pl.nn.score_table import confusion_matrix

IntArray = npt.NDArray[np.int64]


class Chances(NamedTuple):
    """What the probabilities of an image give.

    Attributes:
        anomaly: 1 - P(background) of the P pixels that are not ignored, float32 (P,).
        region: Number of the truth's defect region, whatever its class, from 1; 0 without defect; int32 (P,).
        classes: Their pixels by the probability of each class.
        calibration: Their pixels by how sure the model was.
        calibration_of_defects: The same of those where truth or prediction is not background.
    """

    anomaly: FloatArray
    region: npt.NDArray[np.int32]
    classes: ClassHistogram
    calibration: Calibration
    calibration_of_defects: Calibration


class Measured(NamedTuple):
    """What was counted in one image.

    Attributes:
        confusion: Pixels int64 (K, K), rows the truth.
        regions: The regions of each foreground class that occurs in truth or prediction.
        boundaries: Their boundaries.
        soft: dice_coef_multiclass of the image.
        soft_of_background: The same of a prediction that is background everywhere.
        chances: What the probabilities give; None without probabilities.
    """

    confusion: IntArray
    regions: dict[int, Regions]
    boundaries: dict[int, BoundaryCounts]
    soft: float
    soft_of_background: float
    chances: Chances | None


def measure(seen: Seen, truth: UInt8Array, num_classes: int) -> Measured:
    """Judge what a model made of an image by its truth, uint8 (H, W), 255 = ignore, at the image's own size."""
    is_single = seen.probabilities is not None and seen.probabilities.shape[2] == 1
    counted = truth != IGNORE_INDEX
    planes = None
    if seen.probabilities is not None:
        size = (truth.shape[0], truth.shape[1])
        planes = [plane(seen.probabilities, index, size)[counted] for index in range(num_classes)]
    true, predicted = truth[counted], seen.mask_index[counted]
    confusion = confusion_matrix(true, predicted, num_classes)
    hit = float(np.trace(confusion)) if planes is None else _expected_hits(planes, true, is_single)
    volume = float(planes[1].sum(dtype=np.float64)) if planes is not None and is_single else float(len(true))
    # With one sigmoid channel the coefficient looks at that channel only, as in the original.
    support = int((true == 1).sum()) if is_single else len(true)
    return Measured(
        confusion=confusion,
        regions=match_regions(truth, seen.mask_index, num_classes),
        boundaries=count_boundaries(truth, seen.mask_index, num_classes),
        soft=(2 * hit + 1) / (volume + support + 1),
        soft_of_background=1 / (support + 1) if is_single else (2 * int((true == 0).sum()) + 1) / (2 * support + 1),
        chances=None if planes is None else _chances(planes, truth, seen.mask_index),
    )


def _expected_hits(planes: list[FloatArray], true: UInt8Array, is_single: bool) -> float:
    """Return the sum over pixels (P,) of the probability of the right class, or of class 1 where it is right."""
    classes = [1] if is_single else range(len(planes))
    return float(sum(planes[index][true == index].sum(dtype=np.float64) for index in classes))


def _chances(planes: list[FloatArray], truth: UInt8Array, predicted: UInt8Array) -> Chances:
    counted = truth != IGNORE_INDEX
    true, given = truth[counted], predicted[counted]
    regions, _ = connected((truth != 0) & counted, structure=EIGHT_NEIGHBOURS)
    confidence = np.zeros(len(true), dtype=np.float32)
    classes = ClassHistogram(len(planes))
    for index, values in enumerate(planes):
        confidence[given == index] = values[given == index]
        classes.add(index, odds_bins(values), true == index)
    everywhere, at_defects = Calibration(), Calibration()
    matters = (true != 0) | (given != 0)
    everywhere.add(confidence, true == given)
    at_defects.add(confidence[matters], (true == given)[matters])
    return Chances(1 - planes[0], regions[counted].astype(np.int32), classes, everywhere, at_defects)
