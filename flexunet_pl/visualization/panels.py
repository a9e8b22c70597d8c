"""The pictures of a report: a panel for each image, and thumbnails of it for the page."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.files import write_bytes
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.visualization.pictures import ERROR_COLORS, as_rgb, error_overlay, legend, overlay, panel, sheet

FOLDER = "report_pictures"
SMALLEST_TILE, LARGEST_TILE = 192, 640
GALLERY_WIDTH = 900
ROW_HEIGHT = 48


def write_panel(
    path: Path, image: UInt8Array, truth: UInt8Array, predicted: Sequence[tuple[str, UInt8Array]], palette: Palette
) -> bytes:
    """Write image, truth and for each model its prediction and errors side by side, with a legend, as JPEG.

    Args:
        path: The file.
        image: uint8 (H, W, C).
        truth: uint8 (H, W), 255 = ignore.
        predicted: For each model its name, empty if it is the only one, and the class indices uint8 (H, W).
        palette: What class is what.

    Returns:
        The bytes of a small JPEG of the last model's errors.
    """
    height = min(max(image.shape[0], SMALLEST_TILE), LARGEST_TILE)
    rgb = as_rgb(image)
    errors = [error_overlay(rgb, truth, mask) for _, mask in predicted]
    tiles = [("image", rgb), ("truth", overlay(rgb, truth, palette.colors))]
    for (name, mask), wrong in zip(predicted, errors, strict=True):
        tiles.append((f"{name} prediction".strip(), overlay(rgb, mask, palette.colors)))
        tiles.append((f"{name} errors".strip(), wrong))
    row = panel(tiles, height)
    shown = np.flatnonzero(np.bincount(np.stack([truth, *(mask for _, mask in predicted)]).reshape(-1), minlength=256))
    classes = [int(index) for index in shown if 0 < index < len(palette)]
    names = [*(palette.names[index] for index in classes), *ERROR_COLORS]
    colors = [*(palette.colors[index] for index in classes), *ERROR_COLORS.values()]
    write_bytes(path, _jpeg(sheet([row, legend(names, colors, row.shape[1])]), quality=88))
    return _jpeg(_scaled(errors[-1], ROW_HEIGHT), quality=70)


def thumbnail(path: Path) -> bytes:
    """Return a panel's file as a JPEG that a page can hold."""
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB"))
    height = round(rgb.shape[0] * min(1, GALLERY_WIDTH / rgb.shape[1]))
    return _jpeg(_scaled(rgb, height), quality=80)


def _scaled(rgb: UInt8Array, height: int) -> UInt8Array:
    width = max(1, round(rgb.shape[1] * height / rgb.shape[0]))
    return np.asarray(Image.fromarray(rgb).resize((width, max(1, height)), Image.Resampling.LANCZOS, reducing_gap=2))


def _jpeg(rgb: UInt8Array, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="JPEG", quality=quality)
    return file.getvalue()
