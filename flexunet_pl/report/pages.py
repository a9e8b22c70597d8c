"""The whole page: of one model, or of two side by side."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.evaluator import Judged
from flexunet_pl.report import image_table, sections
from flexunet_pl.report.format import Shown, note
from flexunet_pl.visualization import charts
from flexunet_pl.visualization import html as page
from flexunet_pl.visualization.panels import thumbnail
from flexunet_pl.visualization.pictures import ERROR_COLORS

SHOWN_EACH = 8
STYLE = charts.STYLE + sections.STYLE + image_table.STYLE + ".panels figure { margin: 0 0 1rem; }\n"
COLUMNS = (
    ("Dice", "dice"),
    ("defect pixels", "defect"),
    ("missed", "missed"),
    ("invented", "invented"),
    ("wrong class", "wrong_class"),
    ("regions", "regions"),
    ("hit", "regions_hit"),
    ("false alarms", "false_alarm_regions"),
)


def one_model_page(scores: Mapping[str, Any], judged: Judged, palette: Palette, out: Path) -> str:
    """Return the page of one model as HTML; the pictures in ``out`` have to be there already."""
    shown = Shown(scores)
    rows = scores["per_image"]
    ranked = sorted(range(len(rows)), key=lambda index: (rows[index]["quality"], -wrong_pixels(rows[index])))
    with_defects = [index for index in ranked if rows[index]["defect"]]
    best = [index for index in reversed(ranked) if rows[index]["defect"]] or list(reversed(ranked))
    count = min(SHOWN_EACH, math.ceil(len(rows) / 3))
    middle = max(0, (len(with_defects) - count) // 2)
    pieces = [
        *_warnings(scores),
        sections.deciding_section(shown, palette.names, palette.colors),
        sections.detection_section(shown, palette.names),
        sections.explaining_section(shown, palette.names),
        sections.confusion_section(shown, palette.names),
        page.section(
            "Pictures",
            [
                error_legend(),
                *gallery("The worst", ranked[:count], shown, judged, out, COLUMNS[:1]),
                *gallery("In the middle", with_defects[middle:][:count], shown, judged, out, COLUMNS[:1]),
                *gallery("The best", best[:count], shown, judged, out, COLUMNS[:1]),
            ],
        ),
        page.section(
            "All images",
            [
                note("A heading sorts; a row's picture leads to image, truth, prediction and errors.", "soft"),
                image_table.image_table(shown, COLUMNS, palette.names[1:], judged.panels, judged.row_pictures),
            ],
        ),
        made_section(scores),
    ]
    return page.page(f"Report on {short_path(scores['made']['models'][0]['path'])}", pieces, STYLE, image_table.SCRIPT)


def gallery(
    title: str, chosen: Sequence[int], shown: Shown, judged: Judged, out: Path, columns: Sequence[tuple[str, str]]
) -> list[str]:
    """Return a heading and the panels of some images, each with its name and a few numbers."""
    figures = []
    for index in chosen:
        name = shown.get("per_image", index, "name")
        numbers = ", ".join(f"{label} {shown.number('per_image', index, key)}" for label, key in columns)
        link = f'<a href="{quote(judged.panels[index])}">'
        image = (
            f'<img loading="lazy" alt="{escape(name)}" src="{page.data_url(thumbnail(out / judged.panels[index]))}">'
        )
        figures.append(
            f"<figure>{link}{image}</a><figcaption>{link}{escape(name)}</a>: {numbers}</figcaption></figure>"
        )
    return [page.heading(title), '<div class="panels">\n' + "\n".join(figures) + "\n</div>"] if figures else []


def error_legend() -> str:
    """Return what the colours of errors mean."""
    items = [f"<span>{sections.swatch(color)}{escape(name)}</span>" for name, color in ERROR_COLORS.items()]
    return f'<p class="swatches">{"".join(items)}</p>'


def made_section(scores: Mapping[str, Any]) -> str:
    """Return how the report was made."""
    made = scores["made"]
    lines = [f"<tr><th>command</th><td><code>{escape(made['command'])}</code></td></tr>"]
    for model in made["models"]:
        facts = "<br>".join(f"{escape(key)}: {escape(str(value))}" for key, value in model.items())
        lines.append(f"<tr><th>model</th><td>{facts}</td></tr>")
    for part in ("data", "versions"):
        facts = "<br>".join(
            f"{escape(key)}: {escape(str(value))}" for key, value in made[part].items() if value is not None
        )
        lines.append(f"<tr><th>{part}</th><td>{facts}</td></tr>")
    lines.append(f"<tr><th>made</th><td>{escape(made['date'])}</td></tr>")
    return page.section("How it was made", [f'<div class="scroll"><table>{"".join(lines)}</table></div>'])


def short_path(path: str) -> str:
    """Return the end of a path, enough to know what is meant."""
    return "/".join(Path(path).parts[-3:])


def wrong_pixels(row: Mapping[str, Any]) -> int:
    """Return how many pixels of an image are wrong."""
    return int(row["missed"] + row["invented"] + row["wrong_class"])


def _warnings(scores: Mapping[str, Any]) -> list[str]:
    return [page.paragraph(sentence, "bad badge") for sentence in scores["made"]["leaks"]]
