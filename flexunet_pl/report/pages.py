"""The report's page: of one model, or of two side by side."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.curves import AUPRO_LIMIT
from flexunet_pl.evaluation.evaluator import Evaluation
from flexunet_pl.evaluation.regions import HIT_LEVELS
from flexunet_pl.nn.metric_registry import METRICS, PRIMARY, metrics_of
from flexunet_pl.report.comparison import compared_metrics
from flexunet_pl.report.view import ScoresView
from flexunet_pl.visualization.charts import Axis, Chart, Line
from flexunet_pl.visualization.html import render
from flexunet_pl.visualization.panels import thumbnail
from flexunet_pl.visualization.pictures import ERROR_COLORS

TEMPLATES = Path(__file__).parent / "templates"
EXAMPLES = 8
WRONG_DECISIONS = {"Escapes: defective, called OK": "escape", "Overkill: good, called NG": "overkill"}


class Example(NamedTuple):
    """An image in a gallery: its row in ``per_image``, the address of its panel, and a thumbnail as JPEG."""

    row: int
    link: str
    thumbnail: bytes


def one_model_page(scores: Mapping[str, Any], evaluation: Evaluation, palette: Palette, out: Path) -> str:
    """Return the page of one model as HTML; the pictures must be in ``out`` already."""
    rows = scores["per_image"]
    ranked = sorted(range(len(rows)), key=lambda index: (rows[index]["quality"], -rows[index]["wrong"]))
    with_defects = [index for index in ranked if rows[index]["defect"]]
    best = list(reversed(with_defects)) or list(reversed(ranked))
    count = min(EXAMPLES, math.ceil(len(rows) / 3))
    middle = max(0, (len(with_defects) - count) // 2)
    view = ScoresView(scores)
    columns = [(metric.title, metric.key) for metric in metrics_of("image")]
    return render(
        TEMPLATES / "one_model.html.j2",
        title=f"Report on {short_path(scores['made']['models'][0]['path'])}",
        metrics=[metric for metric in metrics_of() if metric.key in scores],
        class_metrics=metrics_of(per_class=True),
        class_detection_metrics=metrics_of("detection", per_class=True),
        score_charts=_score_charts(view, palette.names),
        detection_charts=_detection_charts(view),
        sizes=_sizes_table(view),
        decision_chart=_decision_chart(view),
        wrongly_decided={
            title: [index for index, row in enumerate(rows) if row.get("outcome") == outcome]
            for title, outcome in (
                ("Escapes: defective, called OK", "escape"),
                ("Overkill: good, called NG", "overkill"),
            )
        },
        galleries=_galleries(
            {"Worst": ranked[:count], "Median": with_defects[middle:][:count], "Best": best[:count]}, evaluation, out
        ),
        view=view,
        listed=view,
        columns=columns,
        caption_columns=columns[:1],
        **_shared(scores, evaluation, palette),
    )


def two_models_page(scores: Mapping[str, Any], evaluation: Evaluation, palette: Palette, out: Path) -> str:
    """Return the page of two models as HTML; the pictures must be in ``out`` already."""
    view = ScoresView(scores)
    rows = scores["comparison"]["per_image"]
    ranked = sorted(range(len(rows)), key=lambda index: (rows[index]["wrong_b"] - rows[index]["wrong_a"], index))
    better = [index for index in ranked if rows[index]["wrong_b"] < rows[index]["wrong_a"]][:EXAMPLES]
    worse = [index for index in reversed(ranked) if rows[index]["wrong_b"] > rows[index]["wrong_a"]][:EXAMPLES]
    main = [metric for metric in metrics_of("image") if metric.main]
    columns = [(f"{metric.title} {letter}", f"{metric.key}_{letter.lower()}") for metric in main for letter in "AB"]
    paths = [model["path"] for model in scores["made"]["models"]]
    return render(
        TEMPLATES / "two_models.html.j2",
        title=" and ".join(short_path(path) for path in paths) + " compared",
        paths=paths,
        metrics=compared_metrics(list(scores["models"].values())),
        class_metrics=[metric for metric in metrics_of(per_class=True) if metric.main],
        primary=METRICS["pixels", False, PRIMARY],
        galleries=_galleries({"Where B does better": better, "Where A does better": worse}, evaluation, out),
        view=view,
        listed=view.at("comparison"),
        columns=[*columns, ("Dice B - A", "difference")],
        caption_columns=columns,
        **_shared(scores, evaluation, palette),
    )


def short_path(path: str) -> str:
    """Return the end of a path, enough to recognise it."""
    return "/".join(Path(path).parts[-3:])


def _shared(scores: Mapping[str, Any], evaluation: Evaluation, palette: Palette) -> dict[str, Any]:
    """Return what the templates of both pages need."""
    return {
        "detection_metrics": [metric for metric in metrics_of("detection") if metric.higher_is_better is not None],
        "made": scores["made"],
        "classes": list(zip(palette.names, palette.colors, strict=True)),
        "errors": list(ERROR_COLORS.items()),
        "panels": [quote(os.fsencode(panel)) for panel in evaluation.panels],
        "small": evaluation.row_pictures,
    }


def _galleries(chosen: Mapping[str, Sequence[int]], evaluation: Evaluation, out: Path) -> dict[str, list[Example]]:
    return {
        title: [
            Example(index, quote(os.fsencode(evaluation.panels[index])), thumbnail(out / evaluation.panels[index]))
            for index in indices
        ]
        for title, indices in chosen.items()
        if indices
    }


def _detection_charts(view: ScoresView) -> list[Chart]:
    if not view.get("curves", "roc"):
        return []
    rate = "false positive rate"
    pro_axis = Axis(rate, 0, AUPRO_LIMIT, [(step / 10, f"{step / 10:g}") for step in range(4)])
    overlap, roc = Line("PRO", view.get("curves", "pro")), Line("ROC", view.get("curves", "roc"))
    return [
        Chart("Per-region overlap", [overlap], pro_axis, Axis("mean overlap")),
        Chart("ROC of pixels", [roc], Axis(rate), Axis("true positive rate"), diagonal=True),
    ]


def _decision_chart(view: ScoresView) -> Chart | None:
    if view.get("decision") is None or not (view.get("decision", "defective") and view.get("decision", "good")):
        return None
    points = [(escapes, overkill) for _, escapes, overkill in view.get("decision", "curve")]
    lines = [Line("any threshold", points)]
    lines.append(Line("the model's", [[view.get("decision", key) for key in ("escape_rate", "overkill_rate")]]))
    return Chart("Escapes against overkill", lines, Axis("escapes"), Axis("overkill"))


def _score_charts(view: ScoresView, names: Sequence[str]) -> list[Chart]:
    """Return precision and recall of each class, Dice against size, and calibration."""
    charts = []
    style_of = {name: place for place, name in enumerate(names[1:])} | {"all": len(names) - 1}
    curves = [
        Line(name, points, style_of[name])
        for name in names[1:]
        if (points := view.get("curves", "precision_recall", name))
    ]
    if curves:
        charts.append(Chart("Precision and recall", curves, Axis("recall"), Axis("precision")))
    sizes = [("all", view.get("by_size"))] + [(name, view.get("classes", name, "by_size")) for name in names[1:]]
    sizes = [(name, table) for name, table in sizes if table][: 2 if len(names) == 2 else None]
    if sizes:
        lines = [
            Line(name, [(_middle(row), row["mean_dice"]) for row in table], style_of[name]) for name, table in sizes
        ]
        ticks = [(power, text) for power, text in enumerate(("1", "10", "100", "1k", "10k", "100k", "1M"))]
        charts.append(Chart("Dice against defect size", lines, Axis("pixels", 0, 6, ticks), Axis("mean Dice")))
    if view.get("calibration") is not None:
        lines = [
            Line(title, [(one["confidence"], one["accuracy"]) for one in view.get("calibration", key)])
            for title, key in (("all pixels", "bins"), ("where truth or prediction is a defect", "bins_at_defects"))
        ]
        axes = Axis("confidence"), Axis("share that is right")
        charts.append(Chart("Calibration", lines, *axes, diagonal=True))
    return charts


def _sizes_table(view: ScoresView) -> tuple[list[str], list[list[Markup]]]:
    """Return headers and rows of the table of defects by size."""
    keys = ("regions", "mean_dice", *(f"hit_iou_{level}" for level in HIT_LEVELS))
    headers = ["pixels of the region", "regions", "mean Dice", *(f"hit (IoU > {level})" for level in HIT_LEVELS)]
    rows = []
    for index, size in enumerate(view.get("by_size")):
        row = view.at("by_size", index)
        ends = Markup("{} and more") if size["to_pixels"] is None else Markup("{} to {}")
        pixels = ends.format(row.number("from_pixels"), row.number("to_pixels"))
        rows.append([pixels, *(row.number(key) for key in keys)])
    return headers, rows


def _middle(row: dict[str, int]) -> float:
    """Return the middle of a range of areas on a scale of powers of ten."""
    high = row["to_pixels"] if row["to_pixels"] is not None else 10 * row["from_pixels"]
    return (math.log10(row["from_pixels"]) + math.log10(high)) / 2
