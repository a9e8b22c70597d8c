"""Summarise a prepared data set: statistics.png, samples_SPLIT.png and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flexunet_pl.core.console import table
from flexunet_pl.curation.conversion import read_any_image
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import Row
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.data.splits import DEFECT_FREE
from flexunet_pl.visualization.layers import Draw, Layer, draw_layers, filled, plain
from flexunet_pl.visualization.markers import find_spots
from flexunet_pl.visualization.pictures import PAPER, bar_chart, colored, legend, save_picture, sheet

STATISTICS_FILE = "statistics.png"
SAMPLES_FILE = "samples_{split}.png"
SAMPLES_EACH = 2
MOST_SAMPLES = 16
TILE_HEIGHT = 180
SHEET_WIDTH = 1200

Table = dict[str, dict[str, int]]


def count_images(rows: Sequence[Row], palette: Palette) -> Table:
    """Return for each split that has images how many show each class, and how many show none."""
    counts = _zeros(rows, [*palette.names[1:], DEFECT_FREE])
    for row in rows:
        for label in row.classes or (DEFECT_FREE,):
            counts[row.split][label] += 1
    return counts


def count_pixels_by_split(rows: Sequence[Row], palette: Palette) -> Table:
    """Return for each split that has images the pixels of each class."""
    counts = _zeros(rows, palette.names)
    for row in rows:
        for label in palette.names:
            counts[row.split][label] += row.pixels.get(label, 0)
    return counts


def _zeros(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    return {split: dict.fromkeys(columns, 0) for split in SPLITS if any(row.split == split for row in rows)}


def draw_samples(root: Path, rows: Sequence[Row], palette: Palette, split: str) -> None:
    """Write image, mask and overlay of some images of each class of a split, if it has any."""
    chosen = choose_samples([row for row in rows if row.split == split], palette)
    if not chosen:
        return
    panels = []
    for row in chosen:
        image = read_any_image(root / row.file)
        mask_index, _ = read_mask(root / row.split / "masks" / f"{row.name}.png", palette, antialiased=True)
        classes = ", ".join(row.classes) or DEFECT_FREE
        layers = [
            Layer(row.name, plain),
            Layer(f"mask: {classes}", _mask_alone(palette), (mask_index,)),
            Layer("overlay", filled(palette.colors), (mask_index,)),
        ]
        panels.append(draw_layers(image, layers, find_spots(mask_index, None), TILE_HEIGHT, crops=1))
    lines = _packed(panels, SHEET_WIDTH)
    names = legend(palette.names, palette.colors, width=max(line.shape[1] for line in lines))
    save_picture(root / SAMPLES_FILE.format(split=split), sheet([names, *lines]))


def _mask_alone(palette: Palette) -> Draw:
    """Return how a mask is shown in its colours, without the image."""
    return lambda rgb, mask_index: colored(mask_index, palette.colors)  # noqa: ARG005  the image is not shown


def choose_samples(rows: Sequence[Row], palette: Palette) -> list[Row]:
    """Return the rows with most pixels of each class in turn, each row once, from new groups where possible."""
    chosen: dict[str, Row] = {}
    for label in [*palette.names[1:], DEFECT_FREE]:
        of_class = [row for row in rows if label in (row.classes or (DEFECT_FREE,)) and row.file not in chosen]
        of_class.sort(key=lambda row: (-row.pixels.get(label, 0), row.file))
        for _ in range(SAMPLES_EACH):
            groups = {row.group for row in chosen.values()}
            of_class.sort(key=lambda row: row.group in groups)
            chosen |= {row.file: row for row in of_class[:1]}
            del of_class[:1]
    return list(chosen.values())[:MOST_SAMPLES]


def _packed(panels: Sequence[UInt8Array], width: int) -> list[UInt8Array]:
    """Set pictures uint8 (H, W, 3) into rows of at most ``width`` pixels, a wider one alone."""
    rows: list[list[UInt8Array]] = []
    for one in panels:
        if not rows or sum(other.shape[1] for other in rows[-1]) + one.shape[1] > width:
            rows.append([])
        rows[-1].append(one)
    return [_beside(row) for row in rows]


def _beside(pictures: Sequence[UInt8Array]) -> UInt8Array:
    """Set pictures uint8 (H, W, 3) of any heights side by side."""
    height = max(len(one) for one in pictures)
    padded = [np.pad(one, ((0, height - len(one)), (0, 0), (0, 0)), constant_values=PAPER[0]) for one in pictures]
    return np.concatenate(padded, axis=1)


def draw_overview(root: Path, rows: Sequence[Row], palette: Palette) -> None:
    """Write the statistics and the sample sheets of a data set into its folder."""
    images = bar_chart(count_images(rows, palette), "Images that show a class", "images")
    pixels = bar_chart(count_pixels_by_split(rows, palette), "Pixels of a class", "pixels", logarithmic=True)
    save_picture(root / STATISTICS_FILE, sheet([images, pixels]))
    for split in SPLITS:
        draw_samples(root, rows, palette, split)


def text_table(counts: Mapping[str, Mapping[str, int]], title: str) -> str:
    """Return a table with a row for each class and a column for each split."""
    kinds = next(iter(counts.values()), {})
    return table([title, *counts], [[kind, *(counts[split][kind] for split in counts)] for kind in kinds])
