"""The pictures of a report: a panel for each image, and thumbnails of it for the page."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.files import write_bytes
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.visualization.pictures import (
    ERROR_COLORS,
    as_rgb,
    error_overlay,
    legend,
    overlay,
    panel,
    scaled_to,
    sheet,
)

FOLDER = "report_pictures"
SMALLEST_TILE, LARGEST_TILE = 192, 640
GALLERY_WIDTH = 900
ROW_HEIGHT = 48


def write_panel(
    path: Path, image: UInt8Array, truth: UInt8Array, predicted: Sequence[tuple[str, UInt8Array]], palette: Palette
) -> bytes:
    """Write image, truth and for each model its prediction and errors side by side, with a legend, as JPEG.

    The image is uint8 (H, W, C), the truth uint8 (H, W), 255 = ignore; ``predicted`` has for each model its name, empty
    if it is the only one, and the class indices uint8 (H, W).

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
    pixels = np.bincount(np.stack([truth, *(mask for _, mask in predicted)]).reshape(-1), minlength=256)
    classes = [index for index in range(1, len(palette)) if pixels[index]]
    names = [*(palette.names[index] for index in classes), *ERROR_COLORS]
    colors = [*(palette.colors[index] for index in classes), *ERROR_COLORS.values()]
    drawn = sheet([row, legend(names, colors, row.shape[1])])
    write_bytes(path, _jpeg(Image.fromarray(drawn), quality=88))
    return _jpeg(scaled_to(ROW_HEIGHT, errors[-1], Image.Resampling.LANCZOS, gap=2), quality=70)


def thumbnail(path: Path) -> bytes:
    """Return a panel's file as a JPEG that a page can hold."""
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB"))
    height = max(1, round(rgb.shape[0] * min(1, GALLERY_WIDTH / rgb.shape[1])))
    return _jpeg(scaled_to(height, rgb, Image.Resampling.LANCZOS, gap=2), quality=80)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality)
    return file.getvalue()
