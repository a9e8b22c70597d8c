"""What is counted in one evaluated image, small enough to add up."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label as connected

from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array
from flexunet_pl.evaluation.boundary import BoundaryCounts, count_boundaries
from flexunet_pl.evaluation.calibration import Calibration
from flexunet_pl.evaluation.curves import ClassHistogram, odds_bins
from flexunet_pl.evaluation.models import FloatArray, ImagePrediction, plane
from flexunet_pl.evaluation.regions import EIGHT_NEIGHBOURS, Regions, match_regions
from flexunet_pl.inference.onnx_infer import most_probable
from flexunet_pl.nn.score_table import confusion_matrix

IntArray = npt.NDArray[np.int64]


class ProbabilityCounts(NamedTuple):
    """What is counted from the probabilities of the P pixels of an image that are not ignored."""

    anomaly: FloatArray  # 1 - P(background), (P,)
    region: npt.NDArray[np.int32]  # number of the truth's defect region, of any class, from 1; 0 without defect; (P,)
    classes: ClassHistogram
    calibration: Calibration
    calibration_of_defects: Calibration  # where truth or prediction is not background


class ImageCounts(NamedTuple):
    """What was counted in one image."""

    confusion: IntArray  # pixels (K, K), rows the truth
    regions: dict[int, Regions]  # of each foreground class that occurs in truth or prediction
    boundaries: dict[int, BoundaryCounts]  # of the same classes
    soft: float  # dice_coef_multiclass
    soft_of_background: float  # the same of a prediction that is background everywhere
    is_background: bool  # the predicted mask is background everywhere
    is_emptied: bool  # and it had regions before small ones were removed, as far as the probabilities tell
    probabilities: ProbabilityCounts | None  # None where only masks are known
    defect_probability: float | None  # that the image shows any defect; None where only masks are known
    judgement: tuple[float, bool, bool] | None = None  # see evaluation.judgement; None where only masks are known

    @property
    def dice(self) -> float:
        """Dice of all foreground classes together, 1 without foreground in truth and prediction."""
        pixels = int(self.confusion[1:].sum() + self.confusion[:, 1:].sum())
        return 2 * int(self.confusion[1:, 1:].trace()) / pixels if pixels else 1.0


def count_image(prediction: ImagePrediction, truth: UInt8Array, num_classes: int) -> ImageCounts:
    """Compare the prediction of an image with its truth, uint8 (H, W), 255 = ignore, at the image's own size."""
    is_background = not prediction.mask_index.any()
    is_single = prediction.probabilities is not None and prediction.probabilities.shape[2] == 1
    counted = truth != IGNORE_INDEX
    planes = None
    if prediction.probabilities is not None:
        size = (truth.shape[0], truth.shape[1])
        planes = [plane(prediction.probabilities, index, size)[counted] for index in range(num_classes)]
    true, predicted = truth[counted], prediction.mask_index[counted]
    confusion = confusion_matrix(true, predicted, num_classes)
    hit = float(np.trace(confusion)) if planes is None else _expected_hits(planes, true, is_single)
    volume = float(planes[1].sum(dtype=np.float64)) if planes is not None and is_single else float(len(true))
    # With one sigmoid channel the coefficient looks at that channel only, as in the original.
    support = int((true == 1).sum()) if is_single else len(true)
    return ImageCounts(
        confusion=confusion,
        regions=match_regions(truth, prediction.mask_index, num_classes),
        boundaries=count_boundaries(truth, prediction.mask_index, num_classes),
        soft=(2 * hit + 1) / (volume + support + 1),
        is_background=is_background,
        is_emptied=is_background
        and bool(prediction.probabilities is not None and most_probable(prediction.probabilities).any()),
        soft_of_background=1 / (support + 1) if is_single else (2 * int((true == 0).sum()) + 1) / (2 * support + 1),
        probabilities=None if planes is None else _probability_counts(planes, truth, prediction.mask_index),
        defect_probability=prediction.defect_probability,
    )


def _expected_hits(planes: list[FloatArray], true: UInt8Array, is_single: bool) -> float:
    """Return the sum over pixels (P,) of the probability of the right class, or of class 1 where it is right."""
    classes = [1] if is_single else range(len(planes))
    return float(sum(planes[index][true == index].sum(dtype=np.float64) for index in classes))


def _probability_counts(planes: list[FloatArray], truth: UInt8Array, predicted: UInt8Array) -> ProbabilityCounts:
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
    return ProbabilityCounts(1 - planes[0], regions[counted].astype(np.int32), classes, everywhere, at_defects)
