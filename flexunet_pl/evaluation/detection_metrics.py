"""Metrics of defects as regions and by probability, and the numbers of a single image; declared for the registry."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from statistics import fmean

from flexunet_pl.evaluation.boundary import BoundaryCounts
from flexunet_pl.evaluation.curves import AUPRO_LIMIT, NO_DETECTION, Detection
from flexunet_pl.evaluation.image_decisions import FOUND_SHARE, ImageScores
from flexunet_pl.evaluation.regions import HIT_LEVELS, Regions, hit_share
from flexunet_pl.nn.metric_registry import Metric, register_metric


@dataclass(frozen=True)
class DetectionCounts:
    """What detection metrics are computed from, for one class or for all defects together."""

    regions: Sequence[Regions]  # in each image
    boundaries: Sequence[BoundaryCounts]  # of the class, or of each class
    images: int  # that show the class, or all images
    clean: int = 0  # images without a defect
    alarms: int = 0  # those of them with a predicted defect
    average_precision: float | None = None  # of the class; None without probabilities
    curves: Detection = NO_DETECTION  # by 1 - P(background); empty without probabilities, and for a class
    image_scores: ImageScores = field(default_factory=ImageScores)  # empty likewise

    @property
    def false_alarms(self) -> int:
        """How many predicted regions are false alarms."""
        return sum(one.false_alarms for one in self.regions)

    @property
    def boundary_f(self) -> float | None:
        """The mean boundary F-score of the classes that have a boundary, None without one."""
        known = [counts.f_score for counts in self.boundaries if counts.f_score is not None]
        return fmean(known) if known else None


def _hit_share(counts: DetectionCounts, level: float) -> float | None:
    return hit_share(counts.regions, level)


_score = partial(Metric, source="detection")
_count = partial(Metric, source="detection", higher_is_better=None)
_cost = partial(Metric, source="detection", higher_is_better=False)
_both = (
    _count("regions", "regions", lambda counts: sum(len(one.areas) for one in counts.regions)),
    *(
        _score(
            f"hit_iou_{level}",
            f"regions hit (IoU > {level})",
            partial(_hit_share, level=level),
            note=note,
        )
        for level, note in zip(HIT_LEVELS, ("of {regions} regions", "with a region of their class"), strict=True)
    ),
    _count("false_alarm_regions", "false alarms", attrgetter("false_alarms"), unit="regions"),
)
register_metric(
    *_both,
    _cost(
        "false_alarms_per_image",
        "false alarms per image",
        lambda counts: counts.false_alarms / counts.images,
        note="{false_alarm_regions} regions touch no defect of their class",
    ),
    _count("images_without_defect", "images without defect", attrgetter("clean")),
    _cost(
        "images_without_defect_with_alarm",
        "images without defect that raise an alarm",
        attrgetter("alarms"),
        note="of {images_without_defect} images without defect",
    ),
    _cost(
        "false_alarms_per_good_image",
        f"false alarms per good image at {FOUND_SHARE:.0%} of defective images found",
        attrgetter("image_scores.false_alarms"),
        digits=6,
        note="by the probability of a defect",
    ),
    _cost("image_threshold", "its threshold", attrgetter("image_scores.threshold"), digits=6),
    _score("image_auroc", "image AUROC", attrgetter("image_scores.auroc"), digits=6),
    *(
        _score(key, name, attrgetter(f"curves.{of}"), digits=6, note=note)
        for key, name, of, note in (
            (f"aupro_{AUPRO_LIMIT}", f"AUPRO up to a false positive rate of {AUPRO_LIMIT}", "aupro", ""),
            ("pixel_auroc", "pixel AUROC", "auroc", "by 1 - P(background)"),
            ("pixel_average_precision", "pixel average precision", "average_precision", "by 1 - P(background)"),
        )
    ),
    _score("mean_boundary_f", "mean boundary F", attrgetter("boundary_f"), note="within 0.75 % of the diagonal"),
    *(replace(metric, per_class=True, note="") for metric in _both),
    _score("boundary_f", "boundary F", attrgetter("boundary_f"), per_class=True),
    _score("average_precision", "avg. precision", attrgetter("average_precision"), per_class=True, digits=6),
    _count("images", "images", attrgetter("images"), per_class=True),
)

_score = partial(Metric, source="image")
_count = partial(Metric, source="image", higher_is_better=None)
_cost = partial(Metric, source="image", higher_is_better=False)
register_metric(
    _score("dice", "Dice", lambda counts: counts.dice if counts.confusion[1:].any() else None, main=True),
    _cost("wrong", "wrong", lambda c: int(c.confusion.sum() - c.confusion.trace()), unit="pixels", main=True),
    _count("defect", "defect", lambda counts: int(counts.confusion[1:].sum()), unit="pixels"),
    _cost("missed", "missed", lambda counts: int(counts.confusion[1:, 0].sum())),
    _cost("invented", "false positive", lambda counts: int(counts.confusion[0, 1:].sum())),
    _cost("wrong_class", "wrong class", lambda c: int(c.confusion[1:, 1:].sum() - c.confusion[1:, 1:].trace())),
    _count("regions", "regions", lambda counts: sum(len(one.areas) for one in counts.regions.values())),
    _score(
        "regions_hit",
        "hit",
        lambda counts: sum(int((one.best_iou > HIT_LEVELS[0]).sum()) for one in counts.regions.values()),
    ),
    _cost("false_alarm_regions", "false alarms", lambda c: sum(one.false_alarms for one in c.regions.values())),
)
