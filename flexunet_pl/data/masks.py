"""Read a mask file, colour or index PNG or one-hot npz, as class indices; move anti-aliased edges to a class."""

import itertools
import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageOps

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.image_files import limit_of, open_image, reading_errors
from flexunet_pl.data.palette import IGNORE_INDEX, Palette, UInt8Array
from flexunet_pl.inference import onnx_infer

# What numpy and zipfile raise for damaged files.
DAMAGED = (
    *(OSError, ValueError, EOFError, TypeError, SyntaxError, TokenError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
# The public masks of the FlexUNet family have edges up to 4 pixels deep.
EDGE_DEPTH = 5
# How far, in RGB units, an anti-aliased colour may be from the nearest mixture of palette colours.
MIXTURE_TOLERANCE = 40.0


def read_mask(path: Path, palette: Palette, antialiased: bool, max_pixels: int | None = None) -> tuple[UInt8Array, int]:
    """Read a mask file as class indices uint8 (H, W), 255 = ignore.

    Colour images are matched exactly against the palette. An index image (P or L) holds class indices, unless all
    colours it uses are palette colours (P), or the palette itself is grey (L). An .npz file holds ``mask``, one-hot
    (H, W, K) or indices (H, W).

    Args:
        path: The file.
        palette: What class is what.
        antialiased: Whether a colour between palette colours is moved to the nearest one among the pixel's
            neighbours, instead of being an error.
        max_pixels: Larger masks are refused before they are decoded; None takes the limit of the command.

    Returns:
        The indices, and how many pixels were moved: anti-aliased ones, and those that got a class of
        ``palette.nearest``.

    Raises:
        UserError: If the file cannot be read, or has a colour or index of no class; the message says which, how
            many pixels, and where the first one is. Indices where the palette calls for colours are an error too.
    """
    if path.suffix.lower() == ".npz":
        return _read_npz(path, palette, limit_of(max_pixels)), 0
    try:
        with open_image(path, max_pixels) as opened:
            is_deep = onnx_infer.is_sixteen_bit(opened, path)
            image = ImageOps.exif_transpose(opened)
    except UserError as error:
        raise UserError(str(error).replace("cannot be read as an image", "cannot be read as a mask")) from error
    if is_deep:
        raise UserError(f"{path}: a mask of 16 bits; save it as an RGB, P or L image of 8 bits")
    if palette.nearest:  # a colour is never an index then
        return _from_colors(path, np.asarray(image.convert("RGB")), palette, antialiased)
    if image.mode == "P":
        by_color, unknown = palette.encode(np.asarray(image.convert("RGB")))
        return (_checked_indices(path, np.asarray(image), palette), 0) if unknown.any() else (by_color, 0)
    is_grey_palette = all(red == green == blue for red, green, blue in palette.colors)
    if image.mode in ("L", "1") and not is_grey_palette:
        return _checked_indices(path, np.asarray(image).astype(np.uint8), palette), 0
    if image.mode not in ("L", "1", "LA", "RGB", "RGBA"):
        raise UserError(f"{path}: a mask of Pillow mode {image.mode}; save it as an RGB, P or L image of 8 bits")
    return _from_colors(path, np.asarray(image.convert("RGB")), palette, antialiased)


def _read_npz(path: Path, palette: Palette, max_pixels: int) -> UInt8Array:
    try:
        _check_archive(path, max_pixels)
        with np.load(path, allow_pickle=False) as archive:
            mask = np.asarray(archive["mask"])
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{path}: has no array 'mask'; save it with numpy.savez_compressed(path, mask=mask)") from error
    except DAMAGED as error:
        raise UserError(f"{path}: cannot be read as npz ({error}); replace the file") from error
    classes = len(palette)
    if mask.dtype.kind not in "buif":
        raise UserError(f"{path}: 'mask' has the type {mask.dtype}; it must be numbers")
    if mask.ndim == 2:
        return _checked_indices(path, mask, palette)
    if mask.ndim == 3 and mask.shape[2] == 1 and classes == 2:
        return (mask[..., 0] > 0).astype(np.uint8)
    if mask.ndim != 3 or mask.shape[2] != classes or 0 in mask.shape:
        raise UserError(
            f"{path}: 'mask' has the shape {mask.shape}; with {classes} classes it must be (H, W, {classes})"
        )
    if not ((mask != 0).sum(axis=2) == 1).all():
        bad = np.argwhere((mask != 0).sum(axis=2) != 1)
        row, column = (int(place) for place in bad[0])
        raise UserError(
            f"{path}: 'mask' is not one-hot at {len(bad)} pixels, first at row {row}, column {column}; "
            "each pixel must have exactly one class"
        )
    return np.asarray(mask.argmax(axis=2), dtype=np.uint8)


def _check_archive(path: Path, max_pixels: int) -> None:
    """Check the size of the array 'mask' by its header; raise UserError, or what numpy and zipfile raise."""
    with zipfile.ZipFile(path) as archive, archive.open("mask.npy") as member:
        version = np.lib.format.read_magic(member)
        header_of = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header_of(member)
    height, width = (*shape, 1, 1)[:2]
    with reading_errors():
        onnx_infer.check_pixels(path, height, width, max_pixels, math.prod(shape) * dtype.itemsize)


def _checked_indices(path: Path, indices: npt.NDArray[Any], palette: Palette) -> UInt8Array:
    allowed = indices < len(palette) if indices.dtype.kind in "bu" else (indices >= 0) & (indices < len(palette))
    if palette.ignore is not None:
        allowed = allowed | (indices == IGNORE_INDEX)
    if not allowed.all():
        bad = np.argwhere(~allowed)
        row, column = (int(place) for place in bad[0])
        is_black_and_white = np.unique(indices).tolist() == [0, 255]
        hint = "; if white marks one class, the palette must be black and white" if is_black_and_white else ""
        also = f", and {IGNORE_INDEX} for ignore" if palette.ignore is not None else ""
        raise UserError(
            f"{path}: class index {indices[row, column]} out of range at {len(bad)} pixels, first at row {row}, column "
            f"{column}; with {len(palette)} classes an index is 0..{len(palette) - 1}{also}{hint}"
        )
    return indices.astype(np.uint8)


def _from_colors(path: Path, mask_rgb: UInt8Array, palette: Palette, antialiased: bool) -> tuple[UInt8Array, int]:
    mask_index, unknown = palette.encode(mask_rgb)
    if not unknown.any():
        return mask_index, 0
    moved = 0
    if antialiased and not _holds_indices(mask_rgb, palette):
        mask_index, still_unknown = _resolve_edges(mask_rgb, mask_index, unknown, palette)
        moved = int(unknown.sum() - still_unknown.sum())
        unknown = still_unknown
    if palette.nearest and unknown.any():
        mask_index = mask_index.copy()
        mask_index[unknown] = palette.nearest_class(mask_rgb[unknown])
        return mask_index, moved + int(unknown.sum())
    if unknown.any():
        places = np.argwhere(unknown)
        row, column = (int(place) for place in places[0])
        colors, counts = np.unique(mask_rgb[unknown], axis=0, return_counts=True)
        listed = ", ".join(f"{colors[i].tolist()} x {counts[i]}" for i in np.argsort(-counts, kind="stable")[:3])
        more = f" and {len(colors) - 3} more colours" if len(colors) > 3 else ""
        hint = "" if antialiased else ", or set data.antialiased_masks: true if these are blended edges"
        if _holds_indices(mask_rgb, palette):
            hint = ". The mask seems to hold class indices: save it with the palette's colours, or as npz"
        raise UserError(
            f"{path}: {len(places)} pixels have a colour in no palette ({listed}{more}), first at row {row}, column "
            f"{column}; repaint them, add the colour to the palette{hint}"
        )
    return mask_index, moved


def _holds_indices(mask_rgb: UInt8Array, palette: Palette) -> bool:
    """Return whether all values of a mask uint8 (H, W, 3) are class indices, in one channel or equally in all.

    Near black, indices would pass for blended edges of it.
    """
    level = mask_rgb.max(axis=2)
    is_index = level < len(palette)
    if palette.ignore is not None:
        is_index |= level == IGNORE_INDEX
    return bool(is_index.all() and ((mask_rgb == 0) | (mask_rgb == level[..., None])).all())


def _resolve_edges(
    mask_rgb: UInt8Array, mask_index: UInt8Array, unknown: npt.NDArray[np.bool_], palette: Palette
) -> tuple[UInt8Array, npt.NDArray[np.bool_]]:
    """Give blended pixels a class found among their 8 neighbours, growing from what is known.

    First every pixel whose nearest colour is a neighbour's takes it, repeatedly (thin lines have no
    exact colour inside); then the others take the nearest of their neighbours' colours, at most EDGE_DEPTH deep.
    A colour that is no mixture of palette colours in this image stays unknown.

    Returns:
        The class indices uint8 (H, W) and bool (H, W) of the pixels that stay unknown.
    """
    present = np.unique(mask_index[~unknown])
    if not len(present):
        return mask_index, unknown
    rows, columns = np.nonzero(unknown)
    is_blend = _distance_to_blends(mask_rgb[rows, columns], palette.decode(present)) <= MIXTURE_TOLERANCE
    rows, columns = rows[is_blend], columns[is_blend]
    framed = np.pad(mask_index, 1)
    is_open = np.pad(unknown, 1, constant_values=True)
    steps = [(dy, dx) for dy in (0, 1, 2) for dx in (0, 1, 2) if (dy, dx) != (1, 1)]
    rounds_left = EDGE_DEPTH
    while len(rows) and rounds_left:
        own = mask_rgb[rows, columns]
        neighbours = np.stack([framed[rows + dy, columns + dx] for dy, dx in steps], axis=1)
        closed = ~np.stack([is_open[rows + dy, columns + dx] for dy, dx in steps], axis=1)
        distance = np.where(closed, _squared_distance(own[:, None], palette.decode(neighbours)), np.inf)
        best = distance.min(axis=1)
        ready = best <= _squared_distance(own[:, None], palette.decode(present)[None]).min(axis=1)
        if not ready.any():
            ready = closed.any(axis=1)
            rounds_left -= 1
        nearest = neighbours[np.arange(len(rows)), distance.argmin(axis=1)]
        framed[rows[ready] + 1, columns[ready] + 1] = nearest[ready]
        is_open[rows[ready] + 1, columns[ready] + 1] = False
        rows, columns = rows[~ready], columns[~ready]
    return framed[1:-1, 1:-1].copy(), is_open[1:-1, 1:-1].copy()


def _squared_distance(one: UInt8Array, other: UInt8Array) -> npt.NDArray[np.float64]:
    """Return the squared distance of colours uint8 (..., 3) that broadcast against each other."""
    difference = one.astype(np.float64) - other.astype(np.float64)
    squared: npt.NDArray[np.float64] = (difference**2).sum(axis=-1)
    return squared


def _distance_to_blends(colors: UInt8Array, present: UInt8Array) -> npt.NDArray[np.float64]:
    """Return the distance of each colour uint8 (P, 3) from the nearest mixture of up to three of ``present`` (K, 3)."""
    points = colors.astype(np.float64)
    ends = present.astype(np.float64)
    nearest: npt.NDArray[np.float64] = np.sqrt(_squared_distance(colors[:, None], present[None]).min(axis=1))
    for count in (2, 3):
        for mixed in itertools.combinations(ends, count):
            sides = np.stack(mixed[1:], axis=1) - mixed[0][:, None]
            shares = (points - mixed[0]) @ np.linalg.pinv(sides).T
            is_mixture = (shares >= 0).all(axis=1) & (shares.sum(axis=1) <= 1)
            off = np.linalg.norm(points - mixed[0] - shares @ sides.T, axis=1)
            nearest = np.where(is_mixture, np.minimum(nearest, off), nearest)
    return nearest
