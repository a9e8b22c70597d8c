"""All images judged: what was counted in each, added up to the scores of a model."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.bootstrap import draw_scores, group_weights, interval
from flexunet_pl.evaluation.boundary import BoundaryCounts
from flexunet_pl.evaluation.calibration import Calibration
from flexunet_pl.evaluation.curves import AUPRO_LIMIT, ClassHistogram, DetectionHistogram
from flexunet_pl.evaluation.image_metrics import Measured
from flexunet_pl.evaluation.regions import HIT_LEVELS, Regions, by_size, hits
from flexunet_pl.nn.score_table import ScoreTable, scores_from_confusion

IntArray = npt.NDArray[np.int64]


class Totals:
    """What a model's results on all images add up to.

    Attributes:
        names: Of the images, in the order they were added.
        rows: For each image its scores, as plain data.
        counts: For each image and class the pixels that are hit, true and predicted.
    """

    def __init__(self, palette: Palette) -> None:
        """Start with no image."""
        classes = len(palette)
        self.palette = palette
        self.rows: list[dict[str, Any]] = []
        self.counts: list[IntArray] = []
        self._confusion = np.zeros((classes, classes), dtype=np.int64)
        self._regions: dict[int, list[Regions]] = {index: [] for index in range(1, classes)}
        self._boundaries = {index: BoundaryCounts() for index in range(1, classes)}
        self._soft: list[float] = []
        self._soft_of_background: list[float] = []
        self._images_of_class = np.zeros(classes, dtype=np.int64)
        self._detection = DetectionHistogram()
        self._classes = ClassHistogram(classes)
        self._calibration, self._calibration_of_defects = Calibration(), Calibration()
        self._has_chances = False

    def add(self, name: str, group: str | None, found: Measured) -> None:
        """Add an image."""
        matrix = found.confusion
        self._confusion += matrix
        hit, true, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
        self.counts.append(np.stack([hit, true, predicted], axis=1))
        self._images_of_class += true > 0
        for index, regions in found.regions.items():
            self._regions[index].append(regions)
        for index, boundary in found.boundaries.items():
            self._boundaries[index] += boundary
        self._soft.append(found.soft)
        self._soft_of_background.append(found.soft_of_background)
        self.rows.append(_row(name, group, matrix, found.regions, self.palette.names))
        if found.chances is not None:
            self._has_chances = True
            self._detection.add(found.chances.anomaly, found.chances.region)
            self._classes.merge(found.chances.classes)
            self._calibration.merge(found.chances.calibration)
            self._calibration_of_defects.merge(found.chances.calibration_of_defects)

    def table(self) -> ScoreTable:
        """Return the scores that follow from the pixels."""
        with_defects = [row["dice"] for row in self.rows if row["dice"] is not None]
        return scores_from_confusion(self._confusion)._replace(
            mean_image_dice=math.fsum(with_defects) / len(with_defects) if with_defects else None,
            dice_coef_multiclass=math.fsum(self._soft) / len(self._soft),
            images=len(self.rows),
        )

    def to_mapping(self, groups: Sequence[str], draws: int, seed: int) -> dict[str, Any]:
        """Return everything as plain data for scores.json.

        Args:
            groups: What is drawn together for the intervals, for each image.
            draws: How many times; 0 leaves the intervals out.
            seed: Of the drawing.
        """
        table = self.table()
        mapping = table.to_mapping(self.palette.names)
        for unknown in ("loss", "dice_coef_foreground"):
            del mapping[unknown]
        mapping["dice_coef_multiclass_of_background"] = round(
            math.fsum(self._soft_of_background) / len(self._soft_of_background), 6
        )
        mapping["groups"] = len(set(groups))
        for index, name in enumerate(self.palette.names):
            mapping["classes"][name] |= self._of_class(index)
        confusion = np.array(table.confusion)
        mapping["confusion"] = confusion.tolist()
        mapping["confusion_share"] = [
            [round(cell / sum(row), 6) if sum(row) else None for cell in row] for row in confusion.tolist()
        ]
        mapping["detection"], mapping["curves"] = self._detected()
        all_regions = [one for regions in self._regions.values() for one in regions]
        mapping["by_size"] = by_size(all_regions)
        mapping["calibration"] = self._calibrated()
        mapping["intervals"] = self._intervals(groups, draws, seed) if draws else None
        mapping["per_image"] = self.rows
        return mapping

    def _of_class(self, index: int) -> dict[str, Any]:
        more: dict[str, Any] = {
            "predicted": int(self._confusion[:, index].sum()),
            "images": int(self._images_of_class[index]),
        }
        more["average_precision"] = _rounded(self._classes.average_precision(index) if self._has_chances else None)
        if index == 0:
            return more
        found = hits(self._regions[index])
        return more | found | {"boundary_f": self._boundaries[index].f_score, "by_size": by_size(self._regions[index])}

    def _detected(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the scores of detection, and the curves they and the average precisions come from."""
        found = hits([one for regions in self._regions.values() for one in regions])
        clean = [row for row in self.rows if not row["classes"]]
        boundary = [counts.f_score for counts in self._boundaries.values() if counts.f_score is not None]
        scores: dict[str, Any] = {
            **found,
            "false_alarms_per_image": found["false_alarm_regions"] / len(self.rows),
            "images_without_defect": len(clean),
            "images_without_defect_with_alarm": sum(row["invented"] > 0 for row in clean),
            "mean_boundary_f": math.fsum(boundary) / len(boundary) if boundary else None,
        }
        detection = self._detection.compute() if self._has_chances else None
        scores["pixel_auroc"] = _rounded(None if detection is None else detection.auroc)
        scores["pixel_average_precision"] = _rounded(None if detection is None else detection.average_precision)
        scores[f"aupro_{AUPRO_LIMIT}"] = _rounded(None if detection is None else detection.aupro)
        curves = {
            "roc": [] if detection is None else detection.roc,
            "pro": [] if detection is None else detection.pro,
            "precision_recall": {
                name: self._classes.curve(index) if self._has_chances else []
                for index, name in enumerate(self.palette.names)
                if index
            },
        }
        return scores, curves

    def _calibrated(self) -> dict[str, Any] | None:
        if not self._has_chances:
            return None
        return {
            "expected_error": _rounded(self._calibration.expected_error),
            "expected_error_at_defects": _rounded(self._calibration_of_defects.expected_error),
            "bins": self._calibration.bins(),
            "bins_at_defects": self._calibration_of_defects.bins(),
        }

    def _intervals(self, groups: Sequence[str], draws: int, seed: int) -> dict[str, Any]:
        places, weights = group_weights(list(groups), draws, seed)
        drawn = draw_scores(np.array(self.counts), places, weights)
        count = weights.shape[1]
        return {
            "draws": draws,
            "seed": seed,
            "mean_foreground_dice": interval(drawn.mean_dice, count),
            "mean_foreground_iou": interval(drawn.mean_iou, count),
            "classes": {
                name: {"dice": interval(drawn.dice[:, index], count)} for index, name in enumerate(self.palette.names)
            },
        }


def _row(
    name: str, group: str | None, matrix: IntArray, regions: dict[int, Regions], names: Sequence[str]
) -> dict[str, Any]:
    """Return the scores of one image, of all its foreground classes together.

    ``dice`` is None where the truth has no defect; ``quality``, by which images are ranked, is then 1 if nothing was
    predicted and 0 otherwise.
    """
    hit = int(matrix.diagonal()[1:].sum())
    true, predicted = int(matrix[1:].sum()), int(matrix[:, 1:].sum())
    missed, invented = int(matrix[1:, 0].sum()), int(matrix[0, 1:].sum())
    dice = 2 * hit / (true + predicted) if true + predicted else 1.0
    found = regions.values()
    return {
        "name": name,
        "group": group,
        "classes": [names[index] for index in range(1, len(names)) if matrix[index].any()],
        "dice": dice if true else None,
        "quality": dice,
        "defect": true,
        "missed": missed,
        "invented": invented,
        "wrong_class": int(matrix[1:, 1:].sum()) - hit,
        "regions": sum(len(one.areas) for one in found),
        "regions_hit": sum(int((one.best_iou > HIT_LEVELS[0]).sum()) for one in found),
        "false_alarm_regions": sum(one.false_alarms for one in found),
    }


def _rounded(value: float | None) -> float | None:
    """Round what depends on probabilities, whose last bits differ from machine to machine."""
    return None if value is None else round(value, 6)
