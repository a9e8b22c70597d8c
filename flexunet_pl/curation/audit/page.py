"""The audit as a self-contained page with tables and pictures."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.audit.checks import Survey
from flexunet_pl.curation.audit.findings_report import (
    SEVERITIES,
    TITLES,
    by_kind,
    count_sizes,
    spread_of,
    summary_lines,
    verdict,
)
from flexunet_pl.curation.audit.inspection import ERROR, NOTE, WARNING, Finding, Inspection
from flexunet_pl.curation.conversion import read_any_image
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import UInt8Array
from flexunet_pl.visualization import html as page
from flexunet_pl.visualization.pictures import as_rgb, bar_chart, legend, overlay, panel

TONES = {ERROR: "bad", WARNING: "warn", NOTE: "soft"}
SHOWN_ON_PAGE = 20
PICTURES_EACH = 12
SAMPLES_EACH = 2
ZOOM_SIDE = 64
HEIGHT = 200
LEGEND_WIDTH = 360
JPEG_QUALITY = 85
SIZE_LIMITS = (10, 100, 1_000, 10_000, 100_000)
SIZE_NAMES = ("10", "100", "1k", "10k", "100k")
MOST_CLASSES_IN_CHART = 8


def as_page(found: Survey) -> str:
    """Return a self-contained HTML page with tables and pictures."""
    pieces = [
        page.paragraph(verdict(found), "bad" if found.count(ERROR) else "warn" if found.count(WARNING) else "good")
    ]
    pieces += [page.paragraph(line) for line in summary_lines(found)]
    pieces.append(_section_of_classes(found))
    for severity in SEVERITIES:
        for kind, findings in by_kind(found, severity):
            parts = [page.paragraph(f"{len(findings):,} {severity}{'s'[: len(findings) != 1]}", TONES[severity])]
            parts.append(page.bullets([finding.message for finding in findings], SHOWN_ON_PAGE))
            pieces.append(page.section(TITLES[kind], [*parts, *_pictures_of(kind, findings, found)]))
    pieces.append(page.section("Samples", [_samples(found)]))
    pieces.append(page.paragraph(f"flexunet_pl {__version__} audit of {found.root}", "soft"))
    return page.page(f"Audit of {found.root.name}", pieces)


def _section_of_classes(found: Survey) -> str:
    splits = list(found.classes)
    headers = ["class", *(f"{split} {what}" for split in splits for what in ("images", "regions", "pixels"))]
    rows = [
        [name, *(found.classes[split][name][what] for split in splits for what in ("images", "regions", "pixels"))]
        for name in found.palette.names
    ]
    pieces = [page.table(headers, rows)]
    if splits:
        images = {
            split: {name: table[name]["images"] for name in found.palette.names}
            for split, table in found.classes.items()
        }
        pixels = {
            split: {name: table[name]["pixels"] for name in found.palette.names}
            for split, table in found.classes.items()
        }
        pieces.append(_figure(bar_chart(images, "Images that show a class", "images"), "Images that show a class"))
        chart = bar_chart(pixels, "Pixels of a class", "pixels", logarithmic=True)
        pieces.append(_figure(chart, "Pixels of a class, each step tenfold"))
    spread = {label: spread_of(areas) for label, areas in found.areas.items() if areas}
    if spread:
        columns = ("regions", "smallest", "median", "largest", "median_diameter")
        pieces.append(page.heading("Defect sizes in pixels"))
        pieces.append(
            page.table(
                ["class", "regions", "smallest area", "median area", "largest area", "median diameter"],
                [[label, *(values[column] for column in columns)] for label, values in spread.items()],
            )
        )
        if len(spread) <= MOST_CLASSES_IN_CHART:
            chart = bar_chart(_by_size(found), "Regions by area", "regions")
            pieces.append(_figure(chart, "Regions by area in pixels"))
    pieces.append(page.heading("Sizes of images"))
    sizes = count_sizes(found.items)
    pieces.append(page.table(["height", "width", "images"], [[*size, count] for size, count in sizes[:12]]))
    if len(sizes) > 12:
        pieces.append(page.paragraph(f"and {len(sizes) - 12:,} more sizes", "soft"))
    return page.section("Classes", pieces)


def _pictures_of(kind: str, findings: Sequence[Finding], found: Survey) -> list[str]:
    """Return pictures of the first findings of a kind, where there is something to see."""
    by_file = {item.file: item for item in found.items} | {item.mask: item for item in found.items}
    figures: list[str] = []
    if kind == "leak":
        for first, second in found.leaks.pairs[:PICTURES_EACH]:
            figures += _side_by_side([found.items[first], found.items[second]], found)
    elif kind in ("near-duplicate", "duplicate"):
        for finding in findings[:PICTURES_EACH]:
            figures += _side_by_side([by_file[file] for file in finding.files[:2]], found)
    elif kind in ("empty", "blended", "off-palette", "size") and findings[0].severity != NOTE:
        for finding in findings[:PICTURES_EACH]:
            item = by_file.get(finding.files[0])
            if item is not None:
                figures += _zoomed(item, found) if kind == "blended" else _mask_as_it_is(item, found)
    return [page.gallery(figures)] if figures else []


def _side_by_side(items: Sequence[Inspection], found: Survey) -> list[str]:
    tiles = []
    for item in items:
        try:
            tiles.append((f"{item.split}: {item.name}", as_rgb(read_any_image(found.root / item.file))))
        except UserError:
            return []
    return [_figure(panel(tiles, HEIGHT), " and ".join(item.file for item in items))]


def _mask_as_it_is(item: Inspection, found: Survey) -> list[str]:
    """Show the image beside its mask file, whatever colours that has."""
    try:
        image = as_rgb(read_any_image(found.root / item.file))
        with Image.open(found.root / item.mask) as opened:
            mask_rgb = np.asarray(opened.convert("RGB"))
    except (UserError, OSError, SyntaxError, ValueError):
        return []
    return [_figure(panel([(item.name, image), ("mask", mask_rgb)], HEIGHT), item.mask)]


def _zoomed(item: Inspection, found: Survey) -> list[str]:
    """Show the mask around its first blended pixel, as it is and as the classes it is read as."""
    try:
        mask_index, _ = read_mask(found.root / item.mask, found.palette, antialiased=True)
        with Image.open(found.root / item.mask) as opened:
            mask_rgb = np.asarray(opened.convert("RGB"))
    except (UserError, OSError, SyntaxError, ValueError):
        return []
    read = found.palette.decode(mask_index)
    different = np.argwhere((read != mask_rgb).any(axis=2))
    if not len(different):
        return []
    row, column = (max(0, int(place) - ZOOM_SIDE // 2) for place in different[0])
    window = (slice(row, row + ZOOM_SIDE), slice(column, column + ZOOM_SIDE))
    tiles = [("as it is", _enlarged(mask_rgb[window])), ("as it is read", _enlarged(read[window]))]
    return [_figure(panel(tiles, HEIGHT), f"{item.mask}, row {row}, column {column}, enlarged")]


def _enlarged(pixels: UInt8Array) -> UInt8Array:
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


def _samples(found: Survey) -> str:
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
        tiles = [(item.name, as_rgb(image)), (", ".join(item.areas), overlay(image, mask_index, palette.colors))]
        figures.append(_figure(panel(tiles, HEIGHT), item.file))
    names = _figure(legend(palette.names, palette.colors, width=LEGEND_WIDTH), "The palette")
    return names + page.gallery(figures)


def _figure(rgb: UInt8Array, caption: str) -> str:
    """Return a figure of uint8 (H, W, 3): PNG where that is small, as for charts, else JPEG."""
    file = io.BytesIO()
    picture = Image.fromarray(rgb)
    if len(picture.getcolors(1 << 12) or []) > 0:
        picture.save(file, format="PNG", optimize=True)
    else:
        picture.save(file, format="JPEG", quality=JPEG_QUALITY)
    return page.picture(file.getvalue(), caption)


def _by_size(found: Survey) -> dict[str, dict[str, float]]:
    """Count the regions of each class in ranges of area."""
    names = [*(f"< {name}" for name in SIZE_NAMES), f"{SIZE_NAMES[-1]} and more"]
    table = {}
    for label, areas in found.areas.items():
        if areas:
            places = np.searchsorted(SIZE_LIMITS, list(areas), side="right")
            counts = np.bincount(places, weights=list(areas.values()), minlength=len(names))
            table[label] = {name: float(count) for name, count in zip(names, counts, strict=True)}
    return table
