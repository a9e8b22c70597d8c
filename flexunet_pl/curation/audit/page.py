"""The audit as a self-contained page with tables and pictures."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Problem
from flexunet_pl.curation.audit.checks import AuditResult
from flexunet_pl.curation.audit.findings_report import (
    SEVERITIES,
    TITLES,
    by_kind,
    count_sizes,
    spread_of,
    summary_lines,
    verdict,
)
from flexunet_pl.curation.audit.inspection import ERROR, NOTE, WARNING, Inspection
from flexunet_pl.curation.conversion import read_any_image
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.visualization.html import Picture, render, swatch
from flexunet_pl.visualization.layers import Layer, draw_layers, filled, plain
from flexunet_pl.visualization.markers import find_spots
from flexunet_pl.visualization.pictures import as_rgb, bar_chart, panel

TONES = {ERROR: "bad", WARNING: "warn", NOTE: "soft"}
MOST_FINDINGS = 20
MOST_SIZES = 12
PICTURES_EACH = 12
SAMPLES_EACH = 2
ZOOM_SIDE = 64
HEIGHT = 200
JPEG_QUALITY = 85
SIZE_LIMITS = (10, 100, 1_000, 10_000, 100_000)
SIZE_NAMES = ("10", "100", "1k", "10k", "100k")
MOST_CLASSES_IN_CHART = 8


def as_page(found: AuditResult) -> str:
    """Return a self-contained HTML page with tables and pictures."""
    groups = [
        {
            "title": TITLES[kind],
            "severity": severity,
            "tone": TONES[severity],
            "messages": [str(finding) for finding in findings],
            "pictures": _pictures_of(kind, findings, found),
        }
        for severity in SEVERITIES
        for kind, findings in by_kind(found, severity)
    ]
    spread = {label: spread_of(areas) for label in found.palette.names if (areas := found.areas.get(label))}
    names = _swatched(found.palette)
    columns = ("regions", "smallest", "median", "largest", "median_diameter")
    area_charts = []
    if len(spread) <= MOST_CLASSES_IN_CHART:
        area_charts = [_picture(bar_chart(_by_size(found), "Regions by area", "regions"), "Regions by area in pixels")]
    sizes = count_sizes(found.items)
    return render(
        Path(__file__).parent / "templates" / "audit.html.j2",
        title=f"Audit of {found.root.name}",
        tone="bad" if found.count(ERROR) else "warn" if found.count(WARNING) else "good",
        verdict=verdict(found),
        summary=summary_lines(found),
        classes=_class_table(found),
        class_charts=_class_charts(found) if found.classes else [],
        areas=[[names[label], *(values[column] for column in columns)] for label, values in spread.items()],
        area_charts=area_charts,
        sizes=[[*size, count] for size, count in sizes],
        groups=groups,
        palette=list(zip(found.palette.names, found.palette.colors, strict=True)),
        samples=_samples(found),
        most_findings=MOST_FINDINGS,
        most_sizes=MOST_SIZES,
        version=__version__,
        root=found.root,
    )


def _class_table(found: AuditResult) -> tuple[list[str], list[list[object]]]:
    columns = [(split, what) for split in found.classes for what in ("images", "regions", "pixels")]
    names = _swatched(found.palette)
    rows = [
        [names[name], *(found.classes[split][name][what] for split, what in columns)] for name in found.palette.names
    ]
    return ["class", *(f"{split} {what}" for split, what in columns)], rows


def _swatched(palette: Palette) -> dict[str, Markup]:
    """Return each class name after a swatch of its colour, as HTML."""
    return {name: swatch(color) + escape(name) for name, color in zip(palette.names, palette.colors, strict=True)}


def _class_charts(found: AuditResult) -> list[Picture]:
    images, pixels = (
        {split: {name: table[name][what] for name in found.palette.names} for split, table in found.classes.items()}
        for what in ("images", "pixels")
    )
    title = "Images that show a class"
    logarithmic = bar_chart(pixels, "Pixels of a class", "pixels", logarithmic=True)
    charts = {title: bar_chart(images, title, "images"), "Pixels of a class, on a logarithmic scale": logarithmic}
    return [_picture(chart, caption) for caption, chart in charts.items()]


def _pictures_of(kind: str, findings: Sequence[Problem], found: AuditResult) -> list[Picture]:
    """Return pictures of the first findings of a kind, where there is something to see that can be read."""
    by_file = {item.file: item for item in found.items} | {item.mask: item for item in found.items}
    chosen: list[list[Inspection]] = []
    draw: Callable[..., list[Picture]] = _side_by_side
    if kind == "leak":
        chosen = [[found.items[index] for index in pair] for pair in found.leaks.pairs]
    elif kind in ("near-duplicate", "duplicate"):
        chosen = [[by_file[file] for file in finding.files[:2]] for finding in findings]
    elif kind in ("empty", "blended", "off-palette", "size") and findings[0].severity != NOTE:
        chosen = [[by_file[finding.files[0]]] for finding in findings if finding.files[0] in by_file]
        draw = _zoomed if kind == "blended" else _mask_as_it_is
    figures: list[Picture] = []
    for items in chosen[:PICTURES_EACH]:
        with contextlib.suppress(UserError):
            figures += draw(found, *items)
    return figures


def _side_by_side(found: AuditResult, *items: Inspection) -> list[Picture]:
    tiles = [(f"{item.split}: {item.name}", as_rgb(read_any_image(found.root / item.file))) for item in items]
    return [_picture(panel(tiles, HEIGHT), " and ".join(item.file for item in items))]


def _mask_as_it_is(found: AuditResult, item: Inspection) -> list[Picture]:
    """Show the image and its mask file, with the colours of the file."""
    image, mask_rgb = as_rgb(read_any_image(found.root / item.file)), read_any_image(found.root / item.mask)
    return [_picture(panel([(item.name, image), ("mask", mask_rgb)], HEIGHT), item.mask)]


def _zoomed(found: AuditResult, item: Inspection) -> list[Picture]:
    """Show the mask around its first blended pixel, as it is and as the classes it is read as."""
    mask_index, _ = read_mask(found.root / item.mask, found.palette, antialiased=True)
    mask_rgb = read_any_image(found.root / item.mask)
    read = found.palette.decode(mask_index)
    different = np.argwhere((read != mask_rgb).any(axis=2))
    if not len(different):
        return []
    row, column = (max(0, int(place) - ZOOM_SIDE // 2) for place in different[0])
    window = (slice(row, row + ZOOM_SIDE), slice(column, column + ZOOM_SIDE))
    parts = {"as it is": mask_rgb[window], "as it is read": read[window]}
    tiles = [(name, part.repeat(4, axis=0).repeat(4, axis=1)) for name, part in parts.items()]
    return [_picture(panel(tiles, HEIGHT), f"{item.mask}, row {row}, column {column}, enlarged")]


def _samples(found: AuditResult) -> list[Picture]:
    """Show some images of each class with their masks laid over."""
    palette = found.palette
    chosen: dict[str, Inspection] = {}
    for label in palette.names[1:]:
        of_class = [item for item in found.items if label in item.areas and item.file not in chosen and item.size]
        of_class.sort(key=lambda item: (-item.pixels[label], item.file))
        chosen |= {item.file: item for item in of_class[:SAMPLES_EACH]}
    figures = []
    for item in chosen.values():
        try:
            image = read_any_image(found.root / item.file)
            mask_index, _ = read_mask(found.root / item.mask, palette, antialiased=True)
        except UserError:
            continue
        if image.shape[:2] != mask_index.shape:
            continue
        layers = [
            Layer(item.name, plain),
            Layer(
                ", ".join(name for name in palette.names if name in item.areas), filled(palette.colors), (mask_index,)
            ),
        ]
        figures.append(_picture(draw_layers(image, layers, find_spots(mask_index, None), HEIGHT), item.file))
    return figures


def _picture(rgb: UInt8Array, caption: str) -> Picture:
    """Return a picture of uint8 (H, W, 3): PNG where that is small, as for charts, else JPEG."""
    file = io.BytesIO()
    picture = Image.fromarray(rgb)
    if len(picture.getcolors(1 << 12) or []) > 0:
        picture.save(file, format="PNG", optimize=True)
    else:
        picture.save(file, format="JPEG", quality=JPEG_QUALITY)
    return Picture(file.getvalue(), caption)


def _by_size(found: AuditResult) -> dict[str, dict[str, float]]:
    """Count the regions of each class in ranges of area."""
    names = [*(f"< {name}" for name in SIZE_NAMES), f"{SIZE_NAMES[-1]} and more"]
    table = {}
    for label in found.palette.names:
        if areas := found.areas.get(label):
            places = np.searchsorted(SIZE_LIMITS, list(areas), side="right")
            counts = np.bincount(places, weights=list(areas.values()), minlength=len(names))
            table[label] = {name: float(count) for name, count in zip(names, counts, strict=True)}
    return table
