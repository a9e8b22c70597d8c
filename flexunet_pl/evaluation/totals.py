"""Add up what is counted in each image to the scores of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.background import BackgroundCounts
from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.boundary import BoundaryCounts
from flexunet_pl.evaluation.calibration import Calibration
from flexunet_pl.evaluation.curves import ClassHistogram, DetectionHistogram
from flexunet_pl.evaluation.decisions import Piece, decision_mapping
from flexunet_pl.evaluation.detection_metrics import DetectionCounts
from flexunet_pl.evaluation.image_counts import ImageCounts
from flexunet_pl.evaluation.image_decisions import ImageScores
from flexunet_pl.evaluation.regions import Regions, by_size
from flexunet_pl.inference.onnx_infer import Acceptance
from flexunet_pl.nn.bootstrap import (
    draw_counts,
    group_counts,
    group_weights,
    has_interval,
    interval,
    scores_of_draws,
)
from flexunet_pl.nn.metric_registry import metrics_of
from flexunet_pl.nn.score_table import PixelCounts, ScoreTable, rounded

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bootstrap:
    """How confidence intervals are drawn: the group of each image, the number of draws (0 for none) and the seed."""

    groups: Sequence[str]
    draws: int
    seed: int


class Totals:
    """What a model's results on all images add up to.

    Attributes:
        rows: For each image its scores, as plain data.
        confusions: For each image its confusion matrix (K, K).
        acceptance: When a piece is called good.
        pieces: The images as pieces that are good or not; empty where only masks are known.
    """

    def __init__(self, palette: Palette, acceptance: Acceptance | None = None) -> None:
        """Start with no image; by default pieces are decided as by a model without a chosen threshold."""
        classes = len(palette)
        self.acceptance = Acceptance() if acceptance is None else acceptance
        self.pieces: list[Piece] = []
        self.palette = palette
        self.rows: list[dict[str, Any]] = []
        self.confusions: list[IntArray] = []
        self._regions: dict[int, list[Regions]] = {index: [] for index in range(1, classes)}
        self._boundaries = {index: BoundaryCounts() for index in range(1, classes)}
        self._soft: list[float] = []
        self._soft_of_background: list[float] = []
        self._background: list[bool] = []
        self._emptied: list[bool] = []
        self._histogram = DetectionHistogram()
        self._classes = ClassHistogram(classes)
        self._calibration, self._calibration_of_defects = Calibration(), Calibration()
        self._has_probabilities = False
        self._images = ImageScores()

    def add(self, name: str, group: str | None, counts: ImageCounts) -> None:
        """Add an image."""
        self.confusions.append(counts.confusion)
        for index, regions in counts.regions.items():
            self._regions[index].append(regions)
        for index, boundary in counts.boundaries.items():
            self._boundaries[index] = BoundaryCounts(*map(sum, zip(self._boundaries[index], boundary, strict=True)))
        self._soft.append(counts.soft)
        self._soft_of_background.append(counts.soft_of_background)
        self._background.append(counts.is_background)
        self._emptied.append(counts.is_emptied)
        self.rows.append(_row(name, group, counts, self.palette.names))
        if counts.judgement is not None:
            piece = Piece(name, name if group is None else group, *counts.judgement)
            self.pieces.append(piece)
            self.rows[-1]["outcome"] = piece.outcome(self.acceptance.threshold)
        if counts.defect_probability is not None:
            self._images.add(counts.defect_probability, is_defective=bool(counts.confusion[1:].any()))
        if counts.probabilities is not None:
            self._has_probabilities = True
            self._histogram.add(counts.probabilities.anomaly, counts.probabilities.region)
            self._classes.merge(counts.probabilities.classes)
            self._calibration.merge(counts.probabilities.calibration)
            self._calibration_of_defects.merge(counts.probabilities.calibration_of_defects)

    def table(self) -> ScoreTable:
        """Return the scores that follow from the pixels."""
        with_defects = [row["dice"] for row in self.rows if row["dice"] is not None]
        means = {"mean_image_dice": _mean(with_defects), "dice_coef_multiclass": _mean(self._soft)}
        return ScoreTable(np.sum(self.confusions, axis=0), len(self.rows), means)

    def background(self) -> BackgroundCounts:
        """Return how many predicted masks are all background."""
        return BackgroundCounts(len(self.rows), sum(self._background), sum(self._emptied))

    def to_mapping(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """Return everything as plain data for scores.json."""
        table = self.table()
        mapping = table.to_mapping(self.palette.names)
        mapping["dice_coef_multiclass_of_background"] = rounded(_mean(self._soft_of_background), 6)
        mapping |= self.background().to_mapping()
        mapping["groups"] = len(set(bootstrap.groups))
        for index, name in enumerate(self.palette.names):
            of_class = self._of_class(index)
            mapping["classes"][name] |= {
                metric.key: rounded(metric.compute(of_class), metric.digits)
                for metric in metrics_of("detection", per_class=True)
            }
            if index:
                mapping["classes"][name]["by_size"] = by_size(of_class.regions)
        mapping["confusion"] = [list(row) for row in table.confusion]
        mapping["confusion_share"] = [
            [round(cell / sum(row), 6) if sum(row) else None for cell in row] for row in table.confusion
        ]
        detection = self._detection()
        mapping["detection"] = {
            metric.key: rounded(metric.compute(detection), metric.digits) for metric in metrics_of("detection")
        }
        mapping["curves"] = {
            "roc": detection.curves.roc,
            "pro": detection.curves.pro,
            "precision_recall": {
                name: self._classes.curve(index) for index, name in enumerate(self.palette.names) if index
            },
        }
        mapping["by_size"] = by_size(detection.regions)
        mapping["calibration"] = self._calibrated()
        mapping["decision"] = decision_mapping(self.pieces, self.acceptance)
        mapping["intervals"] = self._intervals(bootstrap) if bootstrap.draws else None
        mapping["per_image"] = self.rows
        return mapping

    def drawn(self, bootstrap: Bootstrap) -> dict[tuple[str, ...], npt.NDArray[np.float64]]:
        """Return metrics in each draw (B,), by their place in scores.json; the same draws for every model.

        Those that too few groups have for an interval are NaN.
        """
        places, weights = group_weights(list(bootstrap.groups), bootstrap.draws, bootstrap.seed)
        by_group = group_counts(np.array(self.confusions), places)
        of_groups = scores_of_draws(PixelCounts(by_group), self.palette.names)
        of_draws = scores_of_draws(draw_counts(by_group, weights), self.palette.names)
        return {
            place: values if has_interval(of_groups[place]) else np.full(len(values), np.nan)
            for place, values in of_draws.items()
        }

    def _of_class(self, index: int) -> DetectionCounts:
        return DetectionCounts(
            regions=self._regions[index] if index else [],
            boundaries=[self._boundaries[index]] if index else [],
            images=sum(bool(matrix[index].any()) for matrix in self.confusions),
            average_precision=self._classes.average_precision(index),
        )

    def _detection(self) -> DetectionCounts:
        clean = [row for row in self.rows if not row["classes"]]
        return DetectionCounts(
            regions=[one for regions in self._regions.values() for one in regions],
            boundaries=list(self._boundaries.values()),
            images=len(self.rows),
            clean=len(clean),
            alarms=sum(row["invented"] > 0 for row in clean),
            curves=self._histogram.compute(),
            image_scores=self._images,
        )

    def _calibrated(self) -> dict[str, Any] | None:
        if not self._has_probabilities:
            return None
        return {
            "expected_error": rounded(self._calibration.expected_error, 6),
            "expected_error_at_defects": rounded(self._calibration_of_defects.expected_error, 6),
            "bins": self._calibration.bins(),
            "bins_at_defects": self._calibration_of_defects.bins(),
        }

    def _intervals(self, bootstrap: Bootstrap) -> dict[str, Any]:
        mapping: dict[str, Any] = {"draws": bootstrap.draws, "seed": bootstrap.seed, "classes": {}}
        for (*parents, key), values in self.drawn(bootstrap).items():
            place = mapping
            for parent in parents:
                place = place.setdefault(parent, {})
            place[key] = interval(values)
        return mapping


def _row(name: str, group: str | None, counts: ImageCounts, names: Sequence[str]) -> dict[str, Any]:
    """Return the scores of one image, of all its foreground classes together.

    ``dice`` is None where the truth has no defect; ``quality``, by which images are ranked, is then 1 if nothing was
    predicted and 0 otherwise.
    """
    return {
        "name": name,
        "group": group,
        "classes": [names[index] for index in range(1, len(names)) if counts.confusion[index].any()],
        "quality": counts.dice,
        "defect_probability": rounded(counts.defect_probability, 6),
        **{metric.key: metric.compute(counts) for metric in metrics_of("image")},
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
