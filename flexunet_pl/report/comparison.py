"""Two models on the same images: the difference of each score, with an interval, and each image side by side."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.bootstrap import draw_scores, group_weights, interval
from flexunet_pl.evaluation.curves import AUPRO_LIMIT
from flexunet_pl.evaluation.evaluator import Judged
from flexunet_pl.evaluation.regions import HIT_LEVELS
from flexunet_pl.evaluation.totals import Totals
from flexunet_pl.report.format import Shown, grid, note
from flexunet_pl.report.image_table import SCRIPT, image_table
from flexunet_pl.report.pages import SHOWN_EACH, STYLE, error_legend, gallery, made_section, short_path, wrong_pixels
from flexunet_pl.report.sections import narrow_intervals, swatch
from flexunet_pl.visualization import html as page

COLUMNS = (
    ("Dice A", "dice_a"),
    ("Dice B", "dice_b"),
    ("B - A", "difference"),
    ("wrong pixels A", "wrong_a"),
    ("wrong pixels B", "wrong_b"),
)
DETECTION = (
    *((f"defect regions hit (IoU > {level})", f"hit_iou_{level}") for level in HIT_LEVELS),
    ("false alarms an image", "false_alarms_per_image"),
    (f"AUPRO up to a false positive rate of {AUPRO_LIMIT}", f"aupro_{AUPRO_LIMIT}"),
    ("pixel AUROC", "pixel_auroc"),
    ("pixel average precision", "pixel_average_precision"),
    ("mean boundary F-score", "mean_boundary_f"),
)
OTHERS = (("pixel accuracy", "pixel_accuracy"), ("dice_coef_multiclass", "dice_coef_multiclass"))


def compare(
    totals: Sequence[Totals], results: Sequence[Mapping[str, Any]], groups: Sequence[str], draws: int, seed: int
) -> dict[str, Any]:
    """Return the differences, second model minus first, as plain data.

    Both are scored on the same draws of images or groups, so the intervals are those of paired differences.

    Args:
        totals: Of the two models.
        results: Their scores.
        groups: What is drawn together, for each image.
        draws: How many times; 0 leaves the intervals out.
        seed: Of the drawing.
    """
    names = totals[0].palette.names
    first, second = results
    drawn = None
    if draws:
        places, weights = group_weights(list(groups), draws, seed)
        drawn = [draw_scores(np.array(total.counts), places, weights) for total in totals]
    count = len(set(groups))

    def difference(one: float | None, other: float | None, values: Sequence[npt.NDArray[np.float64]]) -> dict[str, Any]:
        apart = values[1] - values[0] if values else np.zeros(0)
        known = apart[~np.isnan(apart)]
        between = interval(apart, count)
        return {
            "difference": _apart(one, other),
            "interval": between,
            "share_of_draws_with_b_ahead": None if between is None else round(float((known > 0).mean()), 6),
        }

    mapping: dict[str, Any] = {
        f"mean_foreground_{kind}": difference(
            first[f"mean_foreground_{kind}"],
            second[f"mean_foreground_{kind}"],
            [] if drawn is None else [getattr(one, f"mean_{kind}") for one in drawn],
        )
        for kind in ("dice", "iou")
    }
    mapping["classes"] = {
        name: difference(
            first["classes"][name]["dice"],
            second["classes"][name]["dice"],
            [] if drawn is None else [one.dice[:, index] for one in drawn],
        )
        for index, name in enumerate(names)
    }
    for group, keys in (("detection", [key for _, key in DETECTION]), ("others", [key for _, key in OTHERS])):
        values = [result["detection"] if group == "detection" else result for result in results]
        mapping[group] = {key: _apart(values[0][key], values[1][key]) for key in keys}
    mapping["per_image"] = [
        {
            "name": one["name"],
            "group": one["group"],
            "classes": list(dict.fromkeys([*one["classes"], *other["classes"]])),
            "dice_a": one["dice"],
            "dice_b": other["dice"],
            "difference": _apart(one["dice"], other["dice"]),
            "wrong_a": wrong_pixels(one),
            "wrong_b": wrong_pixels(other),
        }
        for one, other in zip(first["per_image"], second["per_image"], strict=True)
    ]
    return mapping


def two_models_page(scores: Mapping[str, Any], judged: Judged, palette: Palette, out: Path) -> str:
    """Return the page of two models as HTML; the pictures in ``out`` have to be there already."""
    shown = Shown(scores)
    rows = scores["comparison"]["per_image"]
    ranked = sorted(range(len(rows)), key=lambda index: (rows[index]["wrong_b"] - rows[index]["wrong_a"], index))
    better = [index for index in ranked if rows[index]["wrong_b"] < rows[index]["wrong_a"]][:SHOWN_EACH]
    worse = [index for index in reversed(ranked) if rows[index]["wrong_b"] > rows[index]["wrong_a"]][:SHOWN_EACH]
    compared = shown.at("comparison")
    paths = [model["path"] for model in scores["made"]["models"]]
    pieces = [
        *(page.paragraph(sentence, "bad badge") for sentence in scores["made"]["leaks"]),
        note(" and ".join(f"<b>{letter}</b> is {escape(path)}" for letter, path in zip("AB", paths, strict=True))),
        _deciding_section(shown, palette),
        _detection_section(shown),
        page.section(
            "Pictures",
            [
                error_legend(),
                *gallery("Where B does better", better, compared, judged, out, COLUMNS),
                *gallery("Where A does better", worse, compared, judged, out, COLUMNS),
            ],
        ),
        page.section(
            "All images", [image_table(compared, COLUMNS, palette.names[1:], judged.panels, judged.row_pictures)]
        ),
        made_section(scores),
    ]
    return page.page(" and ".join(short_path(path) for path in paths) + " compared", pieces, STYLE, SCRIPT)


def _deciding_section(shown: Shown, palette: Palette) -> str:
    rows = []
    for title, key in (
        ("mean foreground Dice", "mean_foreground_dice"),
        ("mean foreground IoU", "mean_foreground_iou"),
    ):
        rows.append([f"<b>{title}</b>", *_both(shown, key), *_difference(shown, key)])
    for name, color in zip(palette.names, palette.colors, strict=True):
        both = _both(shown, "classes", name, "dice")
        rows.append([f"Dice of {swatch(color)}{escape(name)}", *both, *_difference(shown, "classes", name)])
    for title, key in OTHERS:
        rows.append([title, *_both(shown, key), shown.number("comparison", "others", key), "", ""])
    headers = ["score", "A", "B", "B - A", "95 % interval", "draws with B ahead"]
    background = shown.number("models", "A", "dice_coef_multiclass_of_background")
    drawn = "groups of images" if shown.get("has_groups") else "images"
    sentences = [
        note(_verdict(shown)),
        note(f"Both are scored on the same draws of {drawn}; an interval without 0 speaks for a difference.", "soft"),
        note(f"dice_coef_multiclass is soft pixel accuracy: nothing but background scores {background}.", "soft"),
    ]
    warnings = narrow_intervals(shown, shown.at("models", "A"))
    return page.section("What decides", [sentences[0], *warnings, grid(headers, rows), *sentences[1:]])


def _verdict(shown: Shown) -> str:
    interval = shown.get("comparison", "mean_foreground_dice", "interval")
    if interval is None:
        return "There are too few images, or no foreground, to say whether the difference is more than chance."
    number = shown.number("comparison", "mean_foreground_dice", "difference")
    if interval[0] > 0:
        return f"<b>B is ahead</b> of A by {number} in mean foreground Dice, more than chance explains."
    if interval[1] < 0:
        return f"<b>A is ahead</b> of B ({number} in mean foreground Dice), more than chance explains."
    return f"<b>No difference can be told</b>: {number} in mean foreground Dice may be chance."


def _detection_section(shown: Shown) -> str:
    rows = [
        [title, *_both(shown, "detection", key), shown.number("comparison", "detection", key)]
        for title, key in DETECTION
    ]
    return page.section("Detection", [grid(["score", "A", "B", "B - A"], rows)])


def _both(shown: Shown, *key: str) -> list[str]:
    return [shown.number("models", letter, *key) for letter in ("A", "B")]


def _difference(shown: Shown, *key: str) -> list[str]:
    found = shown.at("comparison", *key)
    return [found.number("difference"), found.interval("interval"), found.number("share_of_draws_with_b_ahead")]


def _apart(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(other - one, 12)
