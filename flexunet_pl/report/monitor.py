"""The page on a log of decisions: whether the line is still the same."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexunet_pl.core.console import table
from flexunet_pl.core.csv_text import csv_text
from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.files import write_json, write_text
from flexunet_pl.evaluation.decision_log import read_log
from flexunet_pl.evaluation.line_changes import (
    FAMILY_ERROR,
    LEAST_IMAGES,
    PERIODS,
    QUANTILES,
    SCORES,
    Change,
    Period,
    compare_periods,
    in_periods,
)
from flexunet_pl.training.trained_model import load_network, model_file
from flexunet_pl.visualization.charts import Axis, Chart, Line
from flexunet_pl.visualization.html import render

TEMPLATE = Path(__file__).parent / "templates" / "monitor.html.j2"
MOST_TICKS = 6
CALIBRATION = "calibration"

Reference = Mapping[str, Sequence[float]]


def write_monitor(
    log: Path, by: str, out: Path | None, reference: str | None, model: Path | None
) -> tuple[list[str], list[str]]:
    """Write monitor.html, monitor.csv and monitor.json; ``flexunet_pl.cli.monitor`` explains the arguments.

    Returns:
        The lines to print, and those on lines of the log that could not be read.

    Raises:
        UserError: If an argument is wrong, or the log has no entry.
    """
    if by not in PERIODS:
        raise UserError(f"--by {by}: choose from {', '.join(PERIODS)}{suggestion(by, PERIODS)}")
    calibration = {} if model is None else calibration_of(model)
    entries, problems = read_log(log)
    periods = in_periods(entries, by)
    names = [period.name for period in periods]
    if reference is not None and reference not in names:
        raise UserError(f"--reference {reference}: the log has no such {by}; choose from {', '.join(names)}")
    first = periods[0 if reference is None else names.index(reference)]
    changes = compare_periods(periods, first)
    warnings = [str(change) for change in changes if change.is_beyond_chance]
    folder = log.with_name(f"{log.stem}-monitor") if out is None else out
    header, rows = columns(periods)
    write_text(
        folder / "monitor.csv", csv_text(header, [["" if cell is None else cell for cell in row] for row in rows])
    )
    facts = {"reference": first.name, "periods": [_mapping(period) for period in periods]}
    write_json(folder / "monitor.json", facts | {"changes": [vars(change) for change in changes], "warnings": warnings})
    values = {
        "title": f"Is the line still the same? {log.name}",
        "by": by,
        "warnings": warnings,
        "unread": len(problems),
    }
    page = render(TEMPLATE, **values, **_values(by, periods, first, changes, calibration))
    write_text(folder / "monitor.html", page)
    brief = [[period.name, period.images, *_brief(period)] for period in periods]
    titles = [by, "images", "NG rate", "95 % interval", "drift, median", "beyond border", "uncertainty, median"]
    told = warnings if warnings else [f"No {by} differs from {first.name} beyond chance."]
    if len(periods) == 1:
        told = [f"One {by} only, so there is nothing to compare yet."]
    return [table(titles, brief), "", *told, str(folder / "monitor.html")], problems


def calibration_of(model: Path) -> Reference:
    """Return the scores of validation images that a run or a bundle was calibrated with, by name.

    Raises:
        UserError: If it was not calibrated.
    """
    found = load_network(model_file(model)).drift_reference
    if not found:
        raise UserError(f"--model {model}: has no calibration; run flexunet drift RUN first, and export the run again")
    return {name: [float(value) for value in found.get(name, [])] for name in SCORES}


def columns(periods: Sequence[Period]) -> tuple[list[str], list[list[Any]]]:
    """Return the header and the rows of monitor.csv: a row for each period, None where a value is not known."""
    classes = sorted({name for period in periods for name in period.classes})
    header = ["period", "images", "ng", "ng_rate", "ng_rate_low", "ng_rate_high", "beyond_border"]
    header += [f"{score}_q{round(100 * level)}" for score in SCORES for level in QUANTILES]
    header += [f"share_{name}" for name in classes]
    rows = []
    for period in periods:
        shares = [period.rejected / period.images, *period.rejected_interval]
        row: list[Any] = [period.name, period.images, period.rejected, *(round(share, 6) for share in shares)]
        row.append(period.beyond_border if period.scores["drift_score"] else None)
        for score in SCORES:
            found = period.quantiles(score)
            row += [None] * len(QUANTILES) if found is None else [round(value, 6) for value in found]
        rows.append([*row, *(round(period.classes.get(name, 0) / period.images, 6) for name in classes)])
    return header, rows


def _brief(period: Period) -> list[Any]:
    low, high = period.rejected_interval
    medians = [found[0] if (found := period.quantiles(score)) is not None else "n/a" for score in SCORES]
    beyond = period.beyond_border if period.scores["drift_score"] else "n/a"
    return [f"{period.rejected / period.images:.1%}", f"{low:.1%} to {high:.1%}", medians[0], beyond, medians[1]]


def _mapping(period: Period) -> dict[str, Any]:
    header, rows = columns([period])
    return dict(zip(header, rows[0], strict=True)) | {"models": list(period.models)}


def _values(
    by: str, periods: Sequence[Period], reference: Period, changes: Sequence[Change], calibration: Reference
) -> dict[str, Any]:
    """Return what the template shows of the periods."""
    header, rows = columns(periods)
    marked = {change.period for change in changes if change.is_beyond_chance}
    models = [", ".join(period.models) for period in periods]
    return {
        "reference": reference.name,
        "counts": [[_name(row[0], marked), *row[1:7]] for row in rows],
        "count_titles": [by, "images", "NG", "NG rate", "from", "to", "beyond border"],
        "class_titles": [by, *(name.removeprefix("share_") for name in header if name.startswith("share_"))],
        "classes": [[row[0], *row[7 + len(SCORES) * len(QUANTILES) :]] for row in rows],
        "quantile_titles": [by, *(f"{title}, {level:.0%}" for title in SCORES.values() for level in QUANTILES)],
        "quantiles": _quantile_rows(periods, calibration),
        "tests": [[one.period, one.what, one.before, one.after, one.p_value, one.adjusted] for one in changes],
        "charts": _charts(periods, calibration),
        "models": list(dict.fromkeys(filter(None, models))),
        "changed_model": len(set(filter(None, models))) > 1,
        "family_error": FAMILY_ERROR,
        "least": LEAST_IMAGES,
        "calibrated": bool(calibration),
    }


def _name(name: str, marked: set[str]) -> str:
    return f"{name} (changed)" if name in marked else name


def _quantile_rows(periods: Sequence[Period], calibration: Reference) -> list[list[Any]]:
    rows: list[list[Any]] = []
    if calibration:
        found = [np.quantile(calibration[score], QUANTILES).tolist() for score in SCORES if calibration[score]]
        rows.append([CALIBRATION, *(value for part in found for value in part)])
    for period in periods:
        row: list[Any] = [period.name]
        for score in SCORES:
            row += period.quantiles(score) or [None] * len(QUANTILES)
        rows.append(row)
    return rows


def _charts(periods: Sequence[Period], calibration: Reference) -> list[Chart]:
    """Return the NG rate with its interval, and the quantiles of each score, over the periods."""
    rates = {
        "NG rate": [period.rejected / period.images for period in periods],
        "95 % interval, lower end": [period.rejected_interval[0] for period in periods],
        "upper end": [period.rejected_interval[1] for period in periods],
    }
    charts = [_chart("NG rate", periods, {name: list(enumerate(values)) for name, values in rates.items()})]
    for score, title in SCORES.items():
        known = [(place, found) for place, period in enumerate(periods) if (found := period.quantiles(score))]
        if not known:
            continue
        lines = {
            f"{level:.0%} of the images are below": [(place, found[number]) for place, found in known]
            for number, level in enumerate(QUANTILES)
        }
        if calibration.get(score):
            ends = [(0, float(np.median(calibration[score]))), (len(periods) - 1, float(np.median(calibration[score])))]
            lines["median of the calibration"] = ends
        charts.append(_chart(f"{title[0].upper()}{title[1:]}", periods, lines))
    return charts


def _chart(title: str, periods: Sequence[Period], lines: Mapping[str, Sequence[tuple[float, float]]]) -> Chart:
    step = math.ceil(len(periods) / MOST_TICKS)
    ticks = [(float(place), period.name) for place, period in enumerate(periods)][::step]
    highest = max((y for points in lines.values() for _, y in points), default=0.0)
    top, heights = _scale(highest)
    end = max(len(periods) - 1, 1)
    x = Axis("", -0.04 * end, 1.04 * end, ticks)
    return Chart(title, [Line(name, points) for name, points in lines.items()], x, Axis("", 0.0, top, heights))


def _scale(highest: float) -> tuple[float, list[tuple[float, str]]]:
    """Return a round upper end of an axis from 0, at or above ``highest``, and its five steps with their texts."""
    size = 10.0 ** math.floor(math.log10(highest)) if highest > 0 else 1.0
    top = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= highest)
    return top, [(top * step / 5, f"{top * step / 5:g}") for step in range(6)]
