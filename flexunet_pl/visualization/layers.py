"""Pictures of one image side by side, drawn at the size at which they are shown, with crops of what is tiny."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from flexunet_pl.visualization.markers import Spot, find_spots, mark
from flexunet_pl.visualization.pictures import PAPER, UInt8Array, as_rgb, fitted_size, overlay, panel, sheet

# The share of a pixel of the picture that a class must cover to be shown in it, so that fine lines do not vanish.
LEAST_COVERAGE = 0.1
CROPS = 2
# A crop shows this many times the longest side of its defect, if the row is high enough, and so many pixels at least.
CONTEXT, LEAST_CROP = 3, 16
LEAST_CROP_HEIGHT = 128
LARGEST_ZOOM = 16

Draw = Callable[..., UInt8Array]


class Layer(NamedTuple):
    """A picture of an image: the title, how masks are laid over it, and the masks.

    ``draw`` maps the image uint8 (H, W, 3) and each of the ``masks`` uint8 (H, W), scaled alike, to uint8 (H, W, 3).
    """

    title: str
    draw: Draw
    masks: tuple[UInt8Array, ...] = ()


def plain(rgb: UInt8Array) -> UInt8Array:
    """Return the image as it is."""
    return rgb


def filled(colors: npt.ArrayLike) -> Draw:
    """Return how a mask is laid over an image in colours (K, 3), 0..255; see :func:`overlay`."""
    return partial(overlay, colors=colors)


def draw_layers(
    image: UInt8Array, layers: Sequence[Layer], spots: Sequence[Spot], height: int = 256, crops: int = CROPS
) -> UInt8Array:
    """Set layers of an image side by side, with a ring around each spot and, below, enlarged crops of the first spots.

    A crop is enlarged by a whole number: the image bicubic, masks by nearest neighbour.

    Args:
        image: uint8 (H, W, C).
        layers: What to show.
        spots: Tiny regions.
        height: Height of a tile in pixels.
        crops: The most rows of crops.

    Returns:
        uint8 (H', W', 3).
    """
    rgb = as_rgb(image)
    size = fitted_size(rgb, height)
    scale = size[0] / rgb.shape[1]
    small = scaled_image(rgb, size)
    zoomed = _crops(spots, size, rgb.shape, scale, crops)
    spots = [*(spot for spot, _, _ in zoomed), *(spot for spot in spots if spot not in [one[0] for one in zoomed])]
    tiles = [(layer.title, layer.draw(small, *(scaled_mask(one, size) for one in layer.masks))) for layer in layers]
    tiles = [(title, mark(tile, spots, scale, len(zoomed))) for title, tile in tiles]
    rows = [panel(tiles, height)]
    for number, (_, zoom, window) in enumerate(zoomed, 1):
        cut = enlarged(rgb[window], zoom, Image.Resampling.BICUBIC)
        parts = [
            layer.draw(cut, *(enlarged(one[window], zoom, Image.Resampling.NEAREST) for one in layer.masks))
            for layer in layers
        ]
        titles = [f"{number}, {zoom}x", *[""] * (len(layers) - 1)]
        parts = [
            np.pad(part, ((0, 0), (0, size[0] - part.shape[1]), (0, 0)), constant_values=PAPER[0]) for part in parts
        ]
        rows.append(panel(list(zip(titles, parts, strict=True)), cut.shape[0], letters=max(11, height // 16)))
    return sheet(rows)


def _crops(
    spots: Sequence[Spot], size: tuple[int, int], shape: Sequence[int], scale: float, most: int
) -> list[tuple[Spot, int, tuple[slice, slice]]]:
    """Return spot, zoom and window of the crops; none of a spot that is in an earlier crop or large enough as it is."""
    crops: list[tuple[Spot, int, tuple[slice, slice]]] = []
    for spot in spots:
        zoom = zoom_of(spot, size, shape)
        seen = any(
            rows.start <= spot.center[0] < rows.stop and columns.start <= spot.center[1] < columns.stop
            for _, _, (rows, columns) in crops
        )
        if zoom > scale and not seen and len(crops) < most:
            crops.append((spot, zoom, crop_window(spot, zoom, size, shape)))
    return crops


def zoom_of(spot: Spot, size: tuple[int, int], shape: Sequence[int]) -> int:
    """Return how many times the crop of a spot is enlarged, a whole number from 1.

    Args:
        spot: The spot.
        size: Width and height of a tile; the crop has its width and half its height, or LEAST_CROP_HEIGHT.
        shape: Height and width of the image.
    """
    wide, high = size[0], max(size[1] // 2, LEAST_CROP_HEIGHT)
    shown = max(CONTEXT * spot.side, LEAST_CROP)
    return max(1, min(wide // min(shown, shape[1]), high // min(shown, shape[0]), LARGEST_ZOOM))


def crop_window(spot: Spot, zoom: int, size: tuple[int, int], shape: Sequence[int]) -> tuple[slice, slice]:
    """Return the rows and columns of an image that the crop of a spot shows; the spot is as near the middle as fits."""
    lengths = (max(size[1] // 2, LEAST_CROP_HEIGHT) // zoom, size[0] // zoom)
    window = []
    for middle, length, whole in zip(spot.center, lengths, shape, strict=False):
        kept = min(max(length, 1), whole)
        start = min(max(0, round(middle - kept / 2)), whole - kept)
        window.append(slice(start, start + kept))
    return window[0], window[1]


def scaled_image(rgb: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """Scale a picture uint8 (H, W, 3) to a width and height; returns uint8 (height, width, 3)."""
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))


def scaled_mask(mask_index: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """Scale class indices uint8 (H, W) to a width and height; returns uint8 (height, width).

    Enlarged by nearest neighbour. Where a mask shrinks, a class of the foreground that covers LEAST_COVERAGE of a pixel
    is shown there, of two the one that has fewer pixels in all.
    """
    if size[0] >= mask_index.shape[1]:
        return np.asarray(Image.fromarray(mask_index).resize(size, Image.Resampling.NEAREST))
    pixels = count_indices(mask_index)
    shown = np.zeros((size[1], size[0]), dtype=np.uint8)
    for index in sorted((one for one in range(1, 256) if pixels[one]), key=lambda one: -pixels[one]):
        covered = Image.fromarray((mask_index == index).astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        shown[np.asarray(covered) >= 255 * (0.5 if index == 255 else LEAST_COVERAGE)] = index
    return shown


def count_indices(mask_index: UInt8Array) -> list[int]:
    """Return how many pixels of a mask uint8 (H, W) have each of the 256 indices."""
    return Image.fromarray(mask_index).histogram()  # without the eight bytes a pixel that numpy.bincount takes


def enlarged(pixels: UInt8Array, zoom: int, how: Image.Resampling) -> UInt8Array:
    """Enlarge a picture or mask uint8 (H, W[, 3]) by a whole number."""
    size = (pixels.shape[1] * zoom, pixels.shape[0] * zoom)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, how))


def overlay_picture(
    image: UInt8Array, mask_index: UInt8Array, colors: npt.ArrayLike, draws: Sequence[Draw], crops: int = 3
) -> UInt8Array:
    """Return an image in its own size with a mask laid over it, and crops of what is tiny below.

    Args:
        image: uint8 (H, W, C).
        mask_index: Class indices uint8 (H, W), 255 = ignore.
        colors: Colours (K, 3), 0..255.
        draws: How the mask is drawn, such as :func:`overlay`; each is a picture, side by side.
        crops: The most crops.

    Returns:
        uint8 (H', W', 3). The first H rows and W columns are the first picture, pixel by pixel; there are no more if
        nothing is tiny and ``draws`` has one entry.
    """
    rgb = as_rgb(image)
    spots = find_spots(None, mask_index)
    size = (rgb.shape[1], rgb.shape[0])
    tile = (size[0] // crops, min(size[1] // 3, size[0] // crops))
    chosen = _crops(spots, tile, rgb.shape, 1, crops) if min(tile) >= LEAST_CROP_HEIGHT else []
    spots = [*(spot for spot, _, _ in chosen), *(spot for spot in spots if spot not in [one[0] for one in chosen])]
    columns = []
    for draw in draws:
        whole = mark(draw(rgb, mask_index, colors), spots, 1.0, len(chosen))
        cut = [
            draw(
                enlarged(rgb[window], zoom, Image.Resampling.BICUBIC),
                enlarged(mask_index[window], zoom, Image.Resampling.NEAREST),
                colors,
            )
            for _, zoom, window in chosen
        ]
        titled = [
            (f"{number}, {zoom}x", part) for number, ((_, zoom, _), part) in enumerate(zip(chosen, cut, strict=True), 1)
        ]
        columns.append(sheet([whole, *([panel(titled, cut[0].shape[0])] if cut else [])]))
    height = max(one.shape[0] for one in columns)
    padded = [np.pad(one, ((0, height - one.shape[0]), (0, 0), (0, 0)), constant_values=PAPER[0]) for one in columns]
    return np.concatenate(padded, axis=1)
