"""The table of scores that follows from a confusion matrix of pixels; numpy and built-in numbers only.

- A class occurs if it has truth pixels in what was evaluated. A class that does not occur has no Dice, IoU, precision
  or recall (None); the pixels predicted as it are its false alarms. Means run over the foreground classes that occur.
- A class that occurs and is never predicted has precision 0: predicting nothing is never rewarded.
- Pixels whose truth is 255 count nowhere.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IGNORE_INDEX = 255


class ClassScores(NamedTuple):
    """Scores of one class, 0..1 and None where the class does not occur, with its truth and predicted pixels."""

    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    support: int
    predicted: int

    @property
    def occurs(self) -> bool:
        """Whether the class has truth pixels."""
        return self.support > 0

    @property
    def false_alarms(self) -> int:
        """Predicted pixels of a class that does not occur, 0 for one that does."""
        return 0 if self.occurs else self.predicted


class ScoreTable(NamedTuple):
    """All scores as built-in numbers, None where there was nothing to score. Class 0 is the background.

    Attributes:
        confusion: Pixels; rows are the truth, columns the prediction.
        classes: The scores of each class.
        mean_foreground_dice: Mean over the foreground classes that occur.
        mean_foreground_iou: Likewise.
        micro_foreground_dice: All foreground classes counted together, with the false alarms on those that don't occur.
        pixel_accuracy: Share of the pixels that are right.
        mean_image_dice: Mean over the images that have foreground of the micro foreground Dice of the image.
        dice_coef_multiclass: The original's metric. It is soft pixel accuracy: nothing but background scores high. With
            one sigmoid channel it is the soft Dice of that channel, as in the original.
        dice_coef_foreground: The forks' metric, a mean over images and foreground classes, absent or not.
        loss: Mean over the images of the loss of each.
        images: Images in the confusion matrix.
    """

    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[ClassScores, ...]
    mean_foreground_dice: float | None
    mean_foreground_iou: float | None
    micro_foreground_dice: float | None
    pixel_accuracy: float | None
    mean_image_dice: float | None = None
    dice_coef_multiclass: float | None = None
    dice_coef_foreground: float | None = None
    loss: float | None = None
    images: int = 0

    def dice_coef_hybrid(self, alpha: float = 1.5, beta: float = 0.5) -> float | None:
        """Return the forks' mean of dice_coef_multiclass (weight ``alpha``) and dice_coef_foreground (``beta``)."""
        if not (alpha >= 0 and beta >= 0 and alpha + beta > 0):
            raise ValueError(f"alpha={alpha}, beta={beta}: both are weights, at least 0 and not both 0")
        if self.dice_coef_multiclass is None or self.dice_coef_foreground is None:
            return None
        return (alpha * self.dice_coef_multiclass + beta * self.dice_coef_foreground) / (alpha + beta)

    def to_mapping(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the scores for JSON, the classes under their ``names``; NaN becomes None.

        What depends on probabilities is rounded to 6 decimals: their last bits change with the number of threads that
        a convolution runs on, and so with the number of processes.
        """
        columns = ("dice", "iou", "precision", "recall", "support")
        classes = dict(zip(names, self.classes, strict=True))
        numbers = {key: value for key, value in self._asdict().items() if key not in ("confusion", "classes")}
        return {
            "classes": {name: {key: getattr(scores, key) for key in columns} for name, scores in classes.items()},
            "false_alarms": {name: scores.false_alarms for name, scores in classes.items() if not scores.occurs},
            **numbers,
            **{key: _rounded(numbers[key]) for key in ("dice_coef_multiclass", "dice_coef_foreground", "loss")},
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 6)


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


def scores_from_confusion(confusion: npt.ArrayLike) -> ScoreTable:
    """Derive from a confusion matrix (K, K) of pixels, rows the truth, all scores that follow from it."""
    matrix = [[int(pixels) for pixels in row] for row in np.asarray(confusion)]
    hits = [row[k] for k, row in enumerate(matrix)]
    support = [sum(row) for row in matrix]
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    classes = tuple(_class_scores(*counts) for counts in zip(hits, support, predicted, strict=True))
    return ScoreTable(
        confusion=tuple(tuple(row) for row in matrix),
        classes=classes,
        mean_foreground_dice=_mean([scores.dice for scores in classes[1:]]),
        mean_foreground_iou=_mean([scores.iou for scores in classes[1:]]),
        micro_foreground_dice=_class_scores(sum(hits[1:]), sum(support[1:]), sum(predicted[1:])).dice,
        pixel_accuracy=sum(hits) / sum(support) if any(support) else None,
    )


def _class_scores(hits: int, support: int, predicted: int) -> ClassScores:
    if support == 0:
        return ClassScores(None, None, None, None, support, predicted)
    return ClassScores(
        dice=2 * hits / (support + predicted),
        iou=hits / (support + predicted - hits),
        precision=hits / predicted if predicted else 0.0,
        recall=hits / support,
        support=support,
        predicted=predicted,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
