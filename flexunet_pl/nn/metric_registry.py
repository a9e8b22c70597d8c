"""Declare a metric once; curves, tables, JSON, the report and the comparison follow the declaration.

A plugin adds a metric of the confusion matrix with one statement, after importing both names from nn.metrics:

    register_metric(Metric("f2", "F2", lambda counts: 5 * counts.hits / (4 * counts.support + counts.predicted)))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["pixels", "detection", "image"]
PRIMARY = "mean_foreground_dice"  # shown in the progress bar, and decides between two models


@dataclass(frozen=True)
class Metric:
    """One number and how to compute, store and print it.

    Attributes:
        key: Name in JSON files and logs, where it must not change.
        name: Name as printed.
        compute: Maps the counts of ``source`` to the value. From "pixels" (:class:`PixelCounts`) an array (...), or
            (..., K) per class, NaN where it is undefined; from "detection" and "image" (the report) a number or None.
        per_class: Whether there is a value for each class.
        unit: What is counted, such as pixels; empty for a share or a score.
        higher_is_better: None where neither direction is better, as for counts.
        source: What it is computed from: the confusion matrix, the report's detection counts, or those of one image.
        needs: Means over images that it is computed from, such as ``loss``; it is left out where they are not measured,
            and has no confidence interval.
        main: Whether to show it where there is little room: drawn curves, curves of each class, lists of images.
        digits: Decimals in JSON, for what depends on probabilities: their last bits vary with threads and machines.
        note: What the average runs over, or other remarks; ``{key}`` is replaced by that value of the same table.
    """

    key: str
    name: str
    compute: Callable[..., Any]
    per_class: bool = False
    unit: str = ""
    higher_is_better: bool | None = True
    source: Source = "pixels"
    needs: tuple[str, ...] = ()
    main: bool = False
    digits: int | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """The name with the unit, as the heading of a column."""
        return self.name if self.unit in self.name else f"{self.name} ({self.unit})"


METRICS: dict[tuple[Source, bool, str], Metric] = {}


def register_metric(*metrics: Metric) -> None:
    """Add metrics; their order is the one in which they are printed.

    Raises:
        ValueError: If a metric of the same source and level has this key.
    """
    for metric in metrics:
        place = (metric.source, metric.per_class, metric.key)
        if place in METRICS:
            raise ValueError(
                f"metric {metric.key!r} ({metric.name}): {METRICS[place].name} has this key; choose another"
            )
        METRICS[place] = metric


def metrics_of(source: Source = "pixels", *, per_class: bool = False) -> list[Metric]:
    """Return the registered metrics of a source, of the whole set of images or of each class."""
    return [metric for metric in METRICS.values() if (metric.source, metric.per_class) == (source, per_class)]


def number_text(value: float | None) -> str:
    """Return a number for people: n/a for None, 4 decimals for what is not whole, fewer from 10 and from 1,000 on."""
    if value is None:
        return "n/a"
    if isinstance(value, int):
        return f"{value:,}"
    decimals = 4 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{decimals}f}"
