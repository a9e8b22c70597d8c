"""The pictures of a report: a panel for each image, and thumbnails of it for the page."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.files import write_bytes
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.visualization.layers import Layer, count_indices, draw_layers, filled, plain, scaled_image, scaled_mask
from flexunet_pl.visualization.markers import Spot, find_spots, mark
from flexunet_pl.visualization.pictures import (
    ERROR_COLORS,
    as_rgb,
    error_kinds,
    fitted_size,
    legend,
    outlines,
    paint_errors,
    scaled_to,
    sheet,
)

FOLDER = "report_pictures"
SMALLEST_TILE, LARGEST_TILE = 192, 640
GALLERY_WIDTH = 1148  # of the page's pictures
ROW_HEIGHT = 48
OUTLINES = "outlines: truth solid, prediction dashed"
RINGS = "A ring marks a defect too small to see at this size."


def write_panel(
    path: Path, image: UInt8Array, truth: UInt8Array, predicted: Sequence[tuple[str, UInt8Array]], palette: Palette
) -> bytes:
    """Write image, truth and for each model prediction, outlines and errors side by side, with a legend, as JPEG.

    Tiny regions are ringed, and the first of them enlarged below. The image is uint8 (H, W, C), the truth uint8 (H, W),
    255 = ignore; ``predicted`` has for each model its name, empty if it is the only one, and the class indices uint8
    (H, W).

    Returns:
        The bytes of a small JPEG of the last model's errors.
    """
    height = min(max(image.shape[0], SMALLEST_TILE), LARGEST_TILE)
    fill = filled(palette.colors)
    layers = [Layer("image", plain), Layer("truth", fill, (truth,))]
    for name, mask in predicted:
        layers += [
            Layer(f"{name} prediction".strip(), fill, (mask,)),
            Layer(f"{name} outlines".strip(), _both_outlines(palette), (truth, mask)),
            Layer(f"{name} errors".strip(), paint_errors, (error_kinds(truth, mask),)),
        ]
    spots = find_spots(truth, predicted[-1][1])
    row = draw_layers(image, layers, spots, height)
    pixels = [count_indices(mask) for mask in (truth, *(mask for _, mask in predicted))]
    classes = [index for index in range(1, len(palette)) if any(counts[index] for counts in pixels)]
    letters, width = max(11, height // 16), row.shape[1]
    keys = [
        legend(
            [palette.names[one] for one in classes],
            [palette.colors[one] for one in classes],
            width,
            "classes:",
            letters,
        ),
        legend(list(ERROR_COLORS), list(ERROR_COLORS.values()), width, "errors:", letters),
        legend([], [], width, f"{OUTLINES}. {RINGS if spots else ''}", letters),
    ]
    write_bytes(path, _jpeg(Image.fromarray(sheet([row, *keys])), quality=88, subsampling=0))
    return _jpeg(Image.fromarray(_small_errors(image, layers[-1].masks[0], spots)), quality=70)


def _both_outlines(palette: Palette) -> Callable[[UInt8Array, UInt8Array, UInt8Array], UInt8Array]:
    """Return how the outlines of the truth, solid, and of a prediction, dashed, are drawn into an image."""

    def draw(rgb: UInt8Array, truth: UInt8Array, mask: UInt8Array) -> UInt8Array:
        return outlines(outlines(rgb, truth, palette.colors), mask, palette.colors, dashed=True)

    return draw


def _small_errors(image: UInt8Array, kinds: UInt8Array, spots: Sequence[Spot]) -> UInt8Array:
    """Return the errors in the height of a table's row, with rings."""
    size = fitted_size(image, ROW_HEIGHT)
    laid = paint_errors(scaled_image(as_rgb(image), size), scaled_mask(kinds, size))
    return mark(laid, spots, size[0] / image.shape[1])


def thumbnail(path: Path) -> bytes:
    """Return a panel's file as a JPEG that a page can hold."""
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB"))
    height = max(1, round(rgb.shape[0] * min(1, GALLERY_WIDTH / rgb.shape[1])))
    return _jpeg(scaled_to(height, rgb, Image.Resampling.LANCZOS, gap=2), quality=80)


def _jpeg(picture: Image.Image, quality: int, subsampling: int = -1) -> bytes:
    """Return a picture as JPEG; ``subsampling`` 0 keeps thin lines of colour, -1 leaves it to Pillow."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()
