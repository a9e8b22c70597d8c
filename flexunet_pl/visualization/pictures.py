"""Overlays, panels and sheets: arrays in, pictures out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from flexunet_pl.core.files import atomic_path

UInt8Array = npt.NDArray[np.uint8]

GAP = 6
WIDEST_TILE = 4096
BAND = 256  # rows that are blended at a time
PAPER = (250, 250, 250)
INK = (32, 32, 32)
# Colours for every kind of colour vision (Okabe and Ito).
MISSED, INVENTED, WRONG_CLASS, RIGHT = "missed", "false positive", "wrong class", "right"
ERROR_COLORS = {MISSED: (0, 114, 178), INVENTED: (230, 159, 0), WRONG_CLASS: (204, 121, 167), RIGHT: (240, 240, 240)}
BARS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
DASH = 4  # pixels of a dash in an outline
DASHES = ("-", "--", ":", "-.")  # for more lines than colours
_ERROR_TABLE = ((0, 0, 0), *ERROR_COLORS.values())


def as_rgb(image: UInt8Array) -> UInt8Array:
    """Return an image uint8 (H, W, C) as RGB (H, W, 3): grey is repeated, channels after the third are left out."""
    return image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)


def colored(mask_index: UInt8Array, colors: npt.ArrayLike) -> UInt8Array:
    """Map class indices uint8 (...) to colours uint8 (..., 3); indices beyond ``colors`` (K, 3) become white."""
    table = np.full((256, 3), 255, dtype=np.uint8)
    known = np.asarray(colors, dtype=np.uint8)
    table[: len(known)] = known
    return np.asarray(table[mask_index])


def overlay(image: UInt8Array, mask_index: UInt8Array, colors: npt.ArrayLike, opacity: float = 0.35) -> UInt8Array:
    """Lay the foreground of a mask over an image: filled thinly, with a full contour.

    Args:
        image: uint8 (H, W, C).
        mask_index: Class indices uint8 (H, W); 0 (background) and 255 (ignore) stay clear.
        colors: Colours (K, 3), 0..255.
        opacity: Share of the colour inside a region, 0..1.

    Returns:
        uint8 (H, W, 3).
    """
    laid = as_rgb(image).copy()
    foreground = (mask_index != 0) & (mask_index != 255)
    for start in range(0, len(laid), BAND):  # numbers with decimals take eight times the memory
        rows = slice(start, start + BAND)
        inside = foreground[rows]
        paint = colored(mask_index[rows][inside], colors)
        laid[rows][inside] = (laid[rows][inside] * (1 - opacity) + paint * opacity).round()
    edge = contour(mask_index) & foreground
    laid[edge] = colored(mask_index[edge], colors)
    return laid


def error_overlay(image: UInt8Array, truth: UInt8Array, predicted: UInt8Array) -> UInt8Array:
    """Lay what a prediction got wrong over an image, in ERROR_COLORS; what is right has a contour only.

    Image uint8 (H, W, C), truth and prediction uint8 (H, W), to uint8 (H, W, 3); nothing is drawn where the truth is
    255 (ignore).
    """
    return paint_errors(image, error_kinds(truth, predicted))


def error_kinds(truth: UInt8Array, predicted: UInt8Array) -> UInt8Array:
    """Return what each pixel is, uint8 (H, W): 0 background, 255 ignore, else a position in ERROR_COLORS, from 1."""
    found = np.zeros(truth.shape, dtype=np.uint8)
    found[(truth != 0) & (predicted == 0)] = 1
    found[(truth == 0) & (predicted != 0)] = 2
    found[(truth != 0) & (predicted != 0)] = 3
    found[(truth != 0) & (predicted == truth)] = 4
    found[truth == 255] = 255
    return found


def paint_errors(image: UInt8Array, found: UInt8Array) -> UInt8Array:
    """Lay the result uint8 (H, W) of :func:`error_kinds` over an image uint8 (H, W, C); returns uint8 (H, W, 3)."""
    dimmed = as_rgb(image) // 2 + 40  # greyed a little: the colours stand out on any surface
    laid = overlay(dimmed, np.where(found == 4, 0, found).astype(np.uint8), _ERROR_TABLE, opacity=0.7)
    edge = contour(found) & (found == 4)
    laid[edge] = ERROR_COLORS[RIGHT]
    return laid


def outlines(
    image: UInt8Array, mask_index: UInt8Array, colors: npt.ArrayLike, *, dashed: bool = False, width: int = 2
) -> UInt8Array:
    """Draw the outline of each region of a mask just outside it, so that the surface inside stays as it is.

    Args:
        image: uint8 (H, W, C).
        mask_index: Class indices uint8 (H, W); 0 (background) and 255 (ignore) have no outline.
        colors: Colours (K, 3), 0..255.
        dashed: Whether every other four pixels are left out.
        width: Width of the line in pixels.

    Returns:
        uint8 (H, W, 3).
    """
    drawn = as_rgb(image).copy()
    whole = np.where(mask_index == 255, 0, mask_index).astype(np.uint8)
    grown = whole
    for _ in range(width):
        grown = _grown(grown)
    line = (grown != 0) & (whole == 0)
    if dashed:
        along = np.arange(whole.shape[0])[:, None] + np.arange(whole.shape[1])
        line &= along // DASH % 2 == 0
    drawn[line] = colored(grown[line], colors)
    return drawn


def _grown(mask_index: UInt8Array) -> UInt8Array:
    """Let the foreground grow by a pixel to all eight sides; where two classes meet, the later one wins."""
    padded = np.pad(mask_index, 1)
    height, width = mask_index.shape
    grown = mask_index.copy()
    for row in range(3):
        for column in range(3):
            shifted = padded[row : row + height, column : column + width]
            np.maximum(grown, np.where(mask_index == 0, shifted, 0), out=grown, casting="unsafe")
    return grown


def contour(mask_index: UInt8Array) -> npt.NDArray[np.bool_]:
    """Return bool (H, W): the pixels that have a neighbour (left, right, above, below) of another class."""
    edge = np.zeros(mask_index.shape, dtype=bool)
    across = mask_index[:, 1:] != mask_index[:, :-1]
    down = mask_index[1:] != mask_index[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def scaled_to(height: int, rgb: UInt8Array, how: Image.Resampling, gap: int | None = None) -> Image.Image:
    """Return a picture uint8 (H, W, 3) scaled to ``height`` pixels, squeezed if it were wider than WIDEST_TILE.

    ``gap`` is Pillow's ``reducing_gap``.
    """
    return Image.fromarray(rgb).resize(fitted_size(rgb, height), how, reducing_gap=gap)


def fitted_size(rgb: UInt8Array, height: int) -> tuple[int, int]:
    """Return the width, WIDEST_TILE at most, and height of a picture (H, W, 3) that is scaled to ``height`` pixels."""
    return min(max(1, round(rgb.shape[1] * height / rgb.shape[0])), WIDEST_TILE), height


def panel(tiles: Sequence[tuple[str, UInt8Array]], height: int = 256, letters: int | None = None) -> UInt8Array:
    """Set titled pictures uint8 (H, W, 3) side by side, each scaled to ``height`` pixels; returns uint8 (H', W', 3).

    ``letters`` is the size of the titles in pixels, by default by the height.
    """
    letters = max(11, height // 16) if letters is None else letters
    font = ImageFont.load_default(size=letters)
    band = round(letters * 1.6)
    scaled = [scaled_to(height, rgb, Image.Resampling.BILINEAR) for _, rgb in tiles]
    canvas = Image.new("RGB", (sum(tile.width + GAP for tile in scaled) + GAP, height + band + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    left = GAP
    for (title, _), tile in zip(tiles, scaled, strict=True):
        draw.text((left, band / 2), _shortened(title, tile.width, font), fill=INK, font=font, anchor="lm")
        canvas.paste(tile, (left, band))
        left += tile.width + GAP
    return np.asarray(canvas)


def labelled_row(label: str, tiles: Sequence[UInt8Array], height: int) -> UInt8Array:
    """Set pictures uint8 (H, W, 3), scaled to ``height``, side by side after a label; returns uint8 (H', W', 3)."""
    font = ImageFont.load_default(size=14)
    band = 84
    scaled = [scaled_to(height, rgb, Image.Resampling.BICUBIC) for rgb in tiles]
    canvas = Image.new("RGB", (band + sum(tile.width + GAP for tile in scaled), height + GAP), PAPER)
    ImageDraw.Draw(canvas).text((GAP, height / 2), label, fill=INK, font=font, anchor="lm")
    left = band
    for tile in scaled:
        canvas.paste(tile, (left, 0))
        left += tile.width + GAP
    return np.asarray(canvas)


def sheet(rows: Sequence[UInt8Array]) -> UInt8Array:
    """Stack pictures uint8 (H, W, 3) of any widths from top to bottom; returns uint8 (H', W', 3)."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=PAPER[0]) for row in rows]
    return np.concatenate(padded, axis=0)


def legend(
    names: Sequence[str], colors: npt.ArrayLike, width: int = 800, title: str = "", letters: int = 14
) -> UInt8Array:
    """Draw a legend of colours and names after a title, wrapped to ``width`` pixels; returns uint8 (H, width, 3).

    ``letters`` is the size of the letters in pixels.
    """
    font = ImageFont.load_default(size=letters)
    swatch, line, gap = letters, round(letters * 1.7), max(GAP, letters // 3)
    places = []
    first = GAP + (round(font.getlength(title)) + 2 * gap if title else 0)
    left, top = first, 0
    for name in names:
        needed = swatch + 3 * gap + round(font.getlength(name))
        if left > first and left + needed > width:
            left, top = first, top + line
        places.append((left, top))
        left += needed
    canvas = Image.new("RGB", (width, top + line), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, line / 2), title, fill=INK, font=font, anchor="lm")
    edge = (line - swatch) // 2
    for name, color, (x, y) in zip(names, np.asarray(colors).tolist(), places, strict=True):
        draw.rectangle((x, y + edge, x + swatch, y + edge + swatch), fill=tuple(color), outline=INK)
        draw.text((x + swatch + gap, y + line / 2), name, fill=INK, font=font, anchor="lm")
    return np.asarray(canvas)


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], title: str) -> UInt8Array:
    """Draw lines through points (epoch, value), one line a name, with a legend; returns uint8 (H, W, 3)."""
    from matplotlib.ticker import MaxNLocator  # half a second that few need

    canvas, axes = _axes(8, 4.5)
    for place, (name, points) in enumerate(series.items()):
        color, style = BARS[place % len(BARS)], DASHES[place // len(BARS) % len(DASHES)]
        (line,) = axes.plot(*zip(*points, strict=True), label=name, marker="o", markersize=3)
        line.set(color=color, linestyle=style, linewidth=1.5)
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    return _drawn(canvas, axes, has_legend=bool(series))


def bar_chart(
    series: Mapping[str, Mapping[str, float]], title: str, ylabel: str, *, logarithmic: bool = False
) -> UInt8Array:
    """Draw bars side by side, in groups of one bar a series, each with its value; returns uint8 (H, W, 3).

    Args:
        series: From the name of a series to its value for each group; all have the same groups in the same order.
        title: Above the chart.
        ylabel: What the values are.
        logarithmic: Whether a step up means ten times as much; a value of 0 has no bar.
    """
    groups = list(next(iter(series.values()), {}))
    width = 0.84 / max(len(series), 1)
    canvas, axes = _axes(min(max(8.0, 1.1 * len(groups)), 60.0), 4)
    for place, (name, values) in enumerate(series.items()):
        at = [group + (place - (len(series) - 1) / 2) * width for group in range(len(groups))]
        bars = axes.bar(at, [values[group] for group in groups], width, label=name, color=BARS[place % len(BARS)])
        if len(groups) <= 24:
            axes.bar_label(bars, [_short_number(values[group]) for group in groups], padding=2, fontsize=7)
    axes.set(title=title, ylabel=ylabel)
    axes.set_xticks(range(len(groups)), groups, rotation=0 if len(groups) <= 8 else 60, fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)
    if logarithmic and any(value > 0 for values in series.values() for value in values.values()):
        axes.set_yscale("log")
    return _drawn(canvas, axes, has_legend=bool(series))


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """Return a canvas of matplotlib, sides in inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second that few need
    from matplotlib.figure import Figure

    canvas = FigureCanvasAgg(Figure(figsize=(width, height), dpi=110, layout="constrained"))
    return canvas, canvas.figure.add_subplot()


def _drawn(canvas: Any, axes: Any, *, has_legend: bool) -> UInt8Array:
    if has_legend:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def save_picture(path: Path, rgb: UInt8Array) -> None:
    """Write a picture uint8 (H, W, 3) to an image file, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(rgb).save(temporary)


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return ``text``, cut in its middle where it is wider than ``width`` pixels."""
    kept, short = len(text), text
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def _short_number(value: float) -> str:
    """Write a number in about four letters: 950, 12k, 3.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.{0 if value >= 10 * size else 1}f}{letter}"
    return f"{value:.3g}"
