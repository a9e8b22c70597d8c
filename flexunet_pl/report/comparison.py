"""Compare two models on the same images: the difference of each score, with an interval, and each image."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.evaluation.totals import Bootstrap, Totals
from flexunet_pl.nn.bootstrap import interval
from flexunet_pl.nn.metric_registry import Metric, metrics_of

Draws = dict[tuple[str, ...], npt.NDArray[np.float64]]


def compare(totals: Sequence[Totals], results: Sequence[Mapping[str, Any]], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the differences, second model minus first, as plain data.

    Both are scored on the same draws of images or groups, so the intervals are those of paired differences.
    """
    drawn = [total.drawn(bootstrap) for total in totals] if bootstrap.draws else [{}, {}]

    def difference(metric: Metric, *place: str) -> dict[str, Any]:
        values: list[Any] = [reduce(getitem, (*place, metric.key), result) for result in results]
        draws = [one.get((*place, metric.key)) for one in drawn]
        apart = np.zeros(0) if draws[0] is None or draws[1] is None else draws[1] - draws[0]
        known = apart[~np.isnan(apart)]
        between = interval(apart)
        ahead = known > 0 if metric.higher_is_better else known < 0
        share = None if between is None else round(float(ahead.mean()), 6)
        return {"difference": _apart(*values), "interval": between, "share_of_draws_with_b_ahead": share}

    mapping: dict[str, Any] = {metric.key: difference(metric) for metric in compared_metrics(results)}
    per_class = [metric for metric in metrics_of(per_class=True) if metric.main]
    mapping["classes"] = {
        name: {metric.key: difference(metric, "classes", name) for metric in per_class}
        for name in totals[0].palette.names
    }
    mapping["detection"] = {
        metric.key: _apart(*(result["detection"][metric.key] for result in results))
        for metric in metrics_of("detection")
        if metric.higher_is_better is not None
    }
    pairs = zip(results[0]["per_image"], results[1]["per_image"], strict=True)
    mapping["per_image"] = [_compare_images(one, other) for one, other in pairs]
    return mapping


def compared_metrics(results: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return the metrics of the whole set that the models have and that have a better direction."""
    return [metric for metric in metrics_of() if metric.key in results[0] and metric.higher_is_better is not None]


def _compare_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    keys = [metric.key for metric in metrics_of("image") if metric.main]
    values = {f"{key}_{letter}": row[key] for key in keys for letter, row in (("a", one), ("b", other))}
    return {
        "name": one["name"],
        "group": one["group"],
        "classes": list(dict.fromkeys([*one["classes"], *other["classes"]])),
        **values,
        "difference": _apart(one["dice"], other["dice"]),
    }


def _apart(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(other - one, 12)
