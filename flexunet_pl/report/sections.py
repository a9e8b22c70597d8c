"""The sections of a report's page that tell of one model: what decides first, then what explains it."""

import math
from collections.abc import Sequence
from html import escape

from flexunet_pl.evaluation.curves import AUPRO_LIMIT
from flexunet_pl.evaluation.regions import HIT_LEVELS
from flexunet_pl.report.format import Shown, cards, grid, note
from flexunet_pl.visualization import html as page
from flexunet_pl.visualization.charts import Axis, Line, charts, line_chart

STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: .8rem;
  margin: .8rem 0; }
@media (max-width: 600px) { .cards { grid-template-columns: 1fr 1fr; gap: .5rem; } .figure { font-size: 1.4rem; } }
td small { display: block; } td:first-child { white-space: nowrap; } td.wraps { white-space: normal; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; font-size: .9rem; }
.figure { font-size: 1.7rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.3; }
.heat td { --share: 0; background: color-mix(in srgb, var(--link) calc(var(--share) * 35%), transparent); }
.swatch { display: inline-block; width: .9em; height: .9em; border: 1px solid var(--soft); border-radius: 2px;
  vertical-align: -.1em; margin-right: .35em; }
"""


def deciding_section(shown: Shown, names: Sequence[str], colors: Sequence[Sequence[int]]) -> str:
    """Return the numbers that decide: means with intervals, the original's coefficient, the table of classes."""
    low_and_high = "" if shown.get("intervals") is None else "95 % interval "
    mean = [
        ("mean foreground Dice", "mean_foreground_dice"),
        ("mean foreground IoU", "mean_foreground_iou"),
    ]
    boxes = [
        (what, shown.number(key), f"{low_and_high}{_interval(shown, key)}" if _interval(shown, key) else "")
        for what, key in mean
    ]
    background = shown.number("dice_coef_multiclass_of_background")
    boxes += [
        (
            "dice_coef_multiclass (soft pixel accuracy)",
            shown.number("dice_coef_multiclass"),
            f"nothing but background scores {background}",
        ),
        ("pixel accuracy", shown.number("pixel_accuracy"), f"of {shown.number('images')} images"),
    ]
    drawn = "images" if not shown.get("has_groups") else "groups of images (such as photographs of one object)"
    what = f"Means run over the foreground classes that occur. Intervals come from drawing {drawn} anew "
    sentence = "Means run over the foreground classes that occur."
    if shown.get("intervals") is not None and shown.get("intervals", "mean_foreground_dice") is not None:
        sentence = f"{what}{shown.number('intervals', 'draws')} times, out of {shown.number('groups')}."
    columns = ["dice", "iou", "precision", "recall", "boundary_f"]
    headers = ["class", "Dice", "IoU", "precision", "recall", "boundary F"]
    if shown.get("calibration") is not None:  # there are probabilities
        columns.append("average_precision")
        headers.append("avg. precision")
    headers += ["images", "regions", "pixels", "predicted"]
    rows = []
    for name, color in zip(names, colors, strict=True):
        of_class = shown.at("classes", name)
        interval = shown.interval("intervals", "classes", name, "dice") if shown.get("intervals") is not None else ""
        cells = [_optional(of_class, key) for key in columns]
        counts = [_optional(of_class, key) for key in ("images", "regions", "support", "predicted")]
        cells[0] += f"<small>{interval}</small>" if interval else ""
        rows.append([f"{swatch(color)}{escape(name)}", *cells, *counts])
    return page.section(
        "What decides",
        [
            cards(boxes),
            note(sentence, "soft"),
            *narrow_intervals(shown, shown),
            grid(headers, rows),
            *_false_alarms(shown),
        ],
    )


def detection_section(shown: Shown, names: Sequence[str]) -> str:
    """Return how well defects are found: as regions, and by 1 - P(background)."""
    found = shown.at("detection")
    hits = [f"hit_iou_{level}" for level in HIT_LEVELS]
    boxes = [
        (f"defect regions hit (IoU > {HIT_LEVELS[0]})", found.number(hits[0]), f"of {found.number('regions')} regions"),
        (f"defect regions hit (IoU > {HIT_LEVELS[1]})", found.number(hits[1]), "with a region of their class"),
        (
            "false alarms an image",
            found.number("false_alarms_per_image"),
            f"{found.number('false_alarm_regions')} regions touch no defect of their class",
        ),
        (
            "images without defect that raise an alarm",
            found.number("images_without_defect_with_alarm"),
            f"of {found.number('images_without_defect')} images without defect",
        ),
        (f"AUPRO up to a false positive rate of {AUPRO_LIMIT}", found.number(f"aupro_{AUPRO_LIMIT}"), ""),
        ("pixel AUROC", found.number("pixel_auroc"), "by 1 - P(background)"),
        ("pixel average precision", found.number("pixel_average_precision"), "by 1 - P(background)"),
        ("mean boundary F-score", found.number("mean_boundary_f"), "within 0.75 % of the diagonal"),
    ]
    headers = ["class", "regions", *(f"hit (IoU > {level})" for level in HIT_LEVELS), "false alarms"]
    rows = [
        [escape(name), *(shown.number("classes", name, key) for key in ("regions", *hits, "false_alarm_regions"))]
        for name in names[1:]
    ]
    pieces = [cards(boxes), grid(headers, rows)]
    if shown.get("curves", "roc"):
        pro_axis = Axis("false positive rate", 0, AUPRO_LIMIT, [(step / 10, f"{step / 10:g}") for step in range(4)])
        figures = [
            line_chart("Per-region overlap", [Line("PRO", shown.get("curves", "pro"))], pro_axis, Axis("mean overlap")),
            line_chart(
                "ROC of pixels",
                [Line("ROC", shown.get("curves", "roc"))],
                Axis("false positive rate"),
                Axis("true positive rate"),
                diagonal=True,
            ),
        ]
        pieces.append(charts(figures))
    else:
        pieces.append(note("AUPRO, AUROC and average precision need probabilities; masks alone have none.", "soft"))
    return page.section("Detection", pieces)


def confusion_section(shown: Shown, names: Sequence[str]) -> str:
    """Return the confusion matrix: the share of each class's pixels, and the pixels."""

    def cell(row: int, column: int) -> str:
        share, pixels = shown.number("confusion_share", row, column), shown.number("confusion", row, column)
        return f'{share}<br><span class="soft">{pixels}</span>'

    heads = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    lines = []
    for row, name in enumerate(names):
        cells = []
        for column in range(len(names)):
            share = shown.get("confusion_share", row, column)
            tint = f' style="--share:{share:.3f}"' if share else ""
            cells.append(f'<td class="number"{tint}>{cell(row, column)}</td>')
        lines.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    table = f'<table class="heat"><thead><tr><th>truth \\ prediction</th>{heads}</tr></thead><tbody>{"".join(lines)}'
    sentence = "Rows are the truth: the share of its pixels that are predicted as each class, and how many."
    pieces = [note(sentence, "soft"), f'<div class="scroll">{table}</tbody></table></div>']
    return page.section("Confusion matrix", pieces)


def explaining_section(shown: Shown, names: Sequence[str]) -> str:
    """Return precision and recall of each class, Dice against size, and calibration."""
    figures = []
    pieces: list[str] = []
    curves = [Line(name, points) for name in names[1:] if (points := shown.get("curves", "precision_recall", name))]
    if curves:
        figures.append(line_chart("Precision and recall", curves, Axis("recall"), Axis("precision")))
    sizes = [("all", shown.get("by_size"))] + [(name, shown.get("classes", name, "by_size")) for name in names[1:]]
    sizes = [(name, table) for name, table in sizes if table][: 2 if len(names) == 2 else None]
    if sizes:
        lines = [Line(name, [(_middle(row), row["mean_dice"]) for row in table]) for name, table in sizes]
        ticks = [(power, text) for power, text in enumerate(("1", "10", "100", "1k", "10k", "100k", "1M"))]
        figures.append(line_chart("Dice against defect size", lines, Axis("pixels", 0, 6, ticks), Axis("mean Dice")))
        headers = ["pixels of the region", "regions", "mean Dice", *(f"hit (IoU > {level})" for level in HIT_LEVELS)]
        keys = ("regions", "mean_dice", *(f"hit_iou_{level}" for level in HIT_LEVELS))
        rows = [
            [_range(shown, index), *(shown.number("by_size", index, key) for key in keys)]
            for index in range(len(shown.get("by_size")))
        ]
        pieces += [page.heading("Defects by size"), grid(headers, rows)]
    if shown.get("calibration") is not None:
        lines = [
            Line(title, [(one["confidence"], one["accuracy"]) for one in shown.get("calibration", key)])
            for title, key in (("all pixels", "bins"), ("where truth or prediction is a defect", "bins_at_defects"))
        ]
        axes = Axis("confidence"), Axis("share that is right")
        figures.append(line_chart("Calibration", lines, *axes, diagonal=True))
        everywhere, at_defects = (
            shown.number("calibration", key) for key in ("expected_error", "expected_error_at_defects")
        )
        sentence = (
            f"Expected calibration error {everywhere} over all pixels, {at_defects} where truth or prediction is a "
            "defect. On the diagonal the model is as sure as it is right; below it, it is too sure."
        )
        pieces = [note(sentence), *pieces]
    return page.section("What explains it", [charts(figures), *pieces])


def narrow_intervals(shown: Shown, model: Shown) -> list[str]:
    """Return a warning if images that are no groups for want of a manifest have a source in common by their names.

    Args:
        shown: The scores.
        model: Those of one model.
    """
    if shown.get("has_groups") or shown.get("made", "data", "sources") >= model.get("images"):
        return []
    sources, images = shown.number("made", "data", "sources"), model.number("images")
    sentence = (
        f"By their names these {images} images show {sources} sources, and no manifest says which belong together: the "
        "intervals are too narrow. A data set made with <code>prepare</code> has a manifest."
    )
    return [note(sentence, "warn")]


def swatch(color: Sequence[int]) -> str:
    """Return a small square in a class's colour (red, green, blue)."""
    return f'<span class="swatch" style="background:rgb({color[0]} {color[1]} {color[2]})"></span>'


def _interval(shown: Shown, key: str) -> str:
    return "" if shown.get("intervals") is None else shown.interval("intervals", key)


def _optional(shown: Shown, key: str) -> str:
    """Return a number, or nothing where a class has no such number, as background has no regions."""
    return shown.number(key) if key in shown.get() else ""


def _false_alarms(shown: Shown) -> list[str]:
    alarms = {name: count for name, count in shown.get("false_alarms").items() if count}
    if not alarms:
        return []
    listed = ", ".join(f"{escape(name)} {shown.number('false_alarms', name)} pixels" for name in alarms)
    return [note(f"Predicted, though the class does not occur in these images: {listed}.", "warn")]


def _middle(row: dict[str, int]) -> float:
    """Return where a range of areas lies on a scale of powers of ten."""
    high = row["to_pixels"] if row["to_pixels"] is not None else 10 * row["from_pixels"]
    return (math.log10(row["from_pixels"]) + math.log10(high)) / 2


def _range(shown: Shown, index: int) -> str:
    low = shown.number("by_size", index, "from_pixels")
    if shown.get("by_size", index, "to_pixels") is None:
        return f"{low} and more"
    return f"{low} to {shown.number('by_size', index, 'to_pixels')}"
