"""Derive scores from a confusion matrix; numpy and built-in numbers only.

- A class occurs if it has truth pixels in what was evaluated. A class that does not occur has no Dice, IoU, precision
  or recall (None); the pixels predicted as it are its false alarms. Means run over the classes that occur.
- A class that occurs and is never predicted has precision 0: predicting nothing is never rewarded.
- Pixels whose truth is 255 count nowhere.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.nn.metric_registry import METRICS, PRIMARY, Metric, metrics_of, register_metric

IGNORE_INDEX = 255

FloatArray = npt.NDArray[np.float64]
Numbers = dict[str, Any]


class PixelCounts:
    """What metrics of pixels are computed from, for one set of images or for many at once (bootstrap draws).

    Attributes:
        confusion: Pixels (..., K, K), rows the truth, columns the prediction.
        hits: Pixels of each class that are right (..., K).
        support: Truth pixels of each class (..., K).
        predicted: Predicted pixels of each class (..., K).
        image_means: Means over the images by name, as far as they were measured; None without values.
    """

    def __init__(self, confusion: npt.NDArray[Any], image_means: Mapping[str, float | None] | None = None) -> None:
        """Count hits, truth and prediction of each class."""
        self.confusion = confusion
        self.hits = confusion.diagonal(axis1=-2, axis2=-1)
        self.support, self.predicted = confusion.sum(-1), confusion.sum(-2)
        self.image_means = {} if image_means is None else image_means

    def share(self, part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> FloatArray:
        """Return part / whole of each class (..., K), NaN for classes that do not occur and 0 for 0 / 0."""
        return np.where(self.support > 0, part / np.maximum(whole, 1), np.nan)


class ScoreTable:
    """The scores of a set of images. ``table[key]`` is a registered metric, None where there is nothing to score.

    Attributes:
        confusion: Pixels; rows are the truth, columns the prediction. Class 0 is the background.
        images: Images in the confusion matrix.
        image_means: Means over the images by name, as far as they were measured.
    """

    def __init__(
        self, confusion: npt.ArrayLike, images: int = 0, image_means: Mapping[str, float | None] | None = None
    ) -> None:
        """Take a confusion matrix (K, K), array or CPU tensor, and what else was measured."""
        self.confusion = tuple(tuple(int(pixels) for pixels in row) for row in np.asarray(confusion))
        self.images = images
        self.image_means = {} if image_means is None else dict(image_means)

    def __eq__(self, other: object) -> bool:
        """Compare what the scores follow from."""
        if not isinstance(other, ScoreTable):
            return NotImplemented
        own, others = ((one.confusion, one.images, one.image_means) for one in (self, other))
        return own == others

    @cached_property
    def counts(self) -> PixelCounts:
        """What the metrics are computed from."""
        return PixelCounts(np.array(self.confusion, dtype=np.int64), self.image_means)

    def __getitem__(self, key: str) -> float | None:
        """Return a metric of the whole set; KeyError if none has this key. NaN means that a mean over images is NaN."""
        metric = METRICS["pixels", False, key]
        if not all(name in self.image_means for name in metric.needs):
            return None
        number: float | None = _plain(metric, metric.compute(self.counts))
        return number

    def of_class(self, index: int) -> Numbers:
        """Return the metrics of a class by key."""
        return {metric.key: _plain(metric, metric.compute(self.counts)[index]) for metric in metrics_of(per_class=True)}

    def measured(self) -> list[Metric]:
        """Return the metrics of the whole set, but for those whose means over images were not measured."""
        return [metric for metric in metrics_of() if all(name in self.image_means for name in metric.needs)]

    def to_log(self, names: Sequence[str]) -> dict[str, float]:
        """Return what is logged after an epoch: every metric that has a value, and the main ones of each class."""
        numbers = {metric.key: self[metric.key] for metric in self.measured()}
        per_class = [metric.key for metric in metrics_of(per_class=True) if metric.main]
        for index, name in enumerate(names):
            scores = self.of_class(index)
            numbers |= {f"{key}/{name}": scores[key] for key in per_class}
        return {key: value for key, value in numbers.items() if value is not None}

    def to_mapping(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the scores for JSON, the classes under their ``names``; NaN becomes None."""
        classes = dict(zip(names, (self.of_class(index) for index in range(len(self.confusion))), strict=True))
        return {
            "classes": classes,
            "false_alarms": {name: one["predicted"] for name, one in classes.items() if not one["support"]},
            **{metric.key: rounded(self[metric.key], metric.digits) for metric in self.measured()},
            "images": self.images,
        }


def rounded(value: Any, digits: int | None) -> Any:
    """Return a number for JSON: None for NaN, rounded where its last digits mean nothing."""
    if value is None or math.isnan(value):
        return None
    return value if digits is None else round(value, digits)


def confusion_matrix(truth: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.int64]:
    """Count the pixels of two index masks of the same shape, any integer type, arrays or CPU tensors.

    Returns:
        int64 (num_classes, num_classes): rows are the truth, columns the prediction. Truth 255 is left out.

    Raises:
        ValueError: The shapes differ, or an index is no class.
    """
    truth_index, predicted_index = np.asarray(truth), np.asarray(predicted)
    if truth_index.shape != predicted_index.shape:
        raise ValueError(f"the truth is {truth_index.shape}, the prediction {predicted_index.shape}: they must agree")
    counted = truth_index != IGNORE_INDEX
    truth_index, predicted_index = truth_index[counted], predicted_index[counted]
    for kind, index in (("truth", truth_index), ("prediction", predicted_index)):
        if index.size and not (index.min() >= 0 and index.max() < num_classes):
            raise ValueError(
                f"the {kind} has indices {index.min()}..{index.max()}; {num_classes} classes end at {num_classes - 1}"
            )
    cells = truth_index.astype(np.int64) * num_classes + predicted_index
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def _plain(metric: Metric, value: Any) -> Any:
    """Return a built-in number, None for a metric of the confusion matrix that is undefined."""
    number = value.item() if isinstance(value, np.generic | np.ndarray) else value
    return None if number is None or (math.isnan(number) and not metric.needs) else number


def mean_known(values: FloatArray) -> FloatArray:
    """Return the mean over the last axis of the values that are not NaN, NaN where there are none."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def _dice(counts: PixelCounts) -> FloatArray:
    return counts.share(2 * counts.hits, counts.support + counts.predicted)


def _iou(counts: PixelCounts) -> FloatArray:
    return counts.share(counts.hits, counts.support + counts.predicted - counts.hits)


def _recall(counts: PixelCounts) -> FloatArray:
    return counts.share(counts.hits, counts.support)


def _micro_dice(counts: PixelCounts) -> FloatArray:
    hits, support, predicted = (one[..., 1:].sum(-1) for one in (counts.hits, counts.support, counts.predicted))
    return np.where(support > 0, 2 * hits / np.maximum(support + predicted, 1), np.nan)


def _accuracy(counts: PixelCounts) -> FloatArray:
    pixels = counts.support.sum(-1)
    return np.where(pixels > 0, counts.hits.sum(-1) / np.maximum(pixels, 1), np.nan)


def _hybrid(counts: PixelCounts) -> float | None:
    multiclass, foreground = counts.image_means["dice_coef_multiclass"], counts.image_means["dice_coef_foreground"]
    return None if multiclass is None or foreground is None else (1.5 * multiclass + 0.5 * foreground) / 2


def image_mean(key: str, name: str, note: str, digits: int | None = 6) -> Metric:
    """Declare a metric that is the mean over the images of what is measured in each under the same key."""
    compute = itemgetter(key)
    return Metric(key, name, lambda counts: compute(counts.image_means), needs=(key,), digits=digits, note=note)


_count = partial(Metric, per_class=True, unit="pixels", higher_is_better=None)
_FOREGROUND = "mean over the foreground classes that occur"
register_metric(
    Metric("dice", "Dice", _dice, per_class=True, main=True),
    Metric("iou", "IoU", _iou, per_class=True),
    Metric("precision", "precision", lambda counts: counts.share(counts.hits, counts.predicted), per_class=True),
    Metric("recall", "recall", _recall, per_class=True),
    _count("support", "truth", attrgetter("support")),
    _count("predicted", "predicted", attrgetter("predicted")),
    # The names are those of mmseg.evaluation.IoUMetric.
    Metric(PRIMARY, "mDice (foreground)", lambda c: mean_known(_dice(c)[..., 1:]), main=True, note=_FOREGROUND),
    Metric("mean_foreground_iou", "mIoU (foreground)", lambda c: mean_known(_iou(c)[..., 1:]), note=_FOREGROUND),
    Metric("mean_iou", "mIoU", lambda c: mean_known(_iou(c)), note="over the classes that occur, with background"),
    Metric("pixel_accuracy", "aAcc", _accuracy, note="share of the pixels that are right"),
    Metric(
        "mean_class_accuracy",
        "mAcc",
        lambda counts: mean_known(_recall(counts)),
        note="recall over the same classes, with background",
    ),
    Metric("micro_foreground_dice", "Dice (pooled)", _micro_dice, note="all foreground classes counted together"),
    image_mean("mean_image_dice", "Dice per image", "mean over the images that have foreground", digits=None),
    # The original's metric: nothing but background scores high.
    image_mean("dice_coef_multiclass", "dice_coef_multiclass", "soft pixel accuracy, despite its name"),
    image_mean("dice_coef_foreground", "dice_coef_foreground", "soft; over images and classes, absent or not"),
    Metric(
        "dice_coef_hybrid",
        "dice_coef_hybrid",
        _hybrid,
        needs=("dice_coef_multiclass", "dice_coef_foreground"),
        digits=6,
        note="the two above, weighted 1.5 and 0.5",
    ),
    replace(image_mean("loss", "loss", "mean over the images"), higher_is_better=False),
)
