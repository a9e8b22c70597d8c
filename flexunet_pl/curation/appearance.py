"""Compare images regardless of exposure: perceptual hashes, thumbnails and their correlation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from flexunet_pl.data.palette import UInt8Array

HASH_SIDE = 16
HASH_PICTURE = 64
THUMBNAIL = 96
ORIENTATIONS = 8
# Grey levels; a picture with less contrast looks like every other such picture.
LEAST_CONTRAST = 1.0
# Two sides that differ by less come from one camera at one scale.
SAME_SCALE = 1.15

Floats = npt.NDArray[np.float32]


class Scale(NamedTuple):
    """What is compared: longest side in pixels, and what local brightness and contrast are, see ``_flattened``."""

    side: int
    sigma: float
    floor: float


COARSE = Scale(THUMBNAIL, sigma=3, floor=1.5)
FINE = Scale(256, sigma=1.5, floor=1)


@dataclass(frozen=True)
class Appearance:
    """Hashes and thumbnail of an image.

    Attributes:
        bits: Hashes of the picture in its eight orientations, bool (8, 256); empty (0, 256) for a blank picture.
        thumbnail: Grey uint8 (H, W), longest side at most 96.
        size: The picture's own (height, width).
    """

    bits: npt.NDArray[np.bool_]
    thumbnail: UInt8Array
    size: tuple[int, int]


def appearance_of(image: UInt8Array) -> Appearance:
    """Return the appearance of an image uint8 (H, W, C)."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else image[..., 0]))
    scale = min(1.0, THUMBNAIL / max(picture.size))
    # Averaging whole blocks first is several times as fast, and leaves enough for a good filter.
    reduced = picture.reduce(max(1, max(picture.size) // (2 * THUMBNAIL))).convert("L")
    width, height = (max(1, round(side * scale)) for side in picture.size)
    thumbnail = np.asarray(reduced.resize((width, height), Image.Resampling.LANCZOS))
    bits = np.zeros((0, HASH_SIDE**2), dtype=bool)
    if thumbnail.std() >= LEAST_CONTRAST:
        square = reduced.resize((HASH_PICTURE, HASH_PICTURE), Image.Resampling.LANCZOS)
        levels = _flattened(np.asarray(square), sigma=8, floor=2) * 50 + 128
        turned = orientations(levels.clip(0, 255).astype(np.uint8))
        hashes = [imagehash.phash(Image.fromarray(levels), hash_size=HASH_SIDE).hash for levels in turned]
        bits = np.stack(hashes).reshape(ORIENTATIONS, -1)
    return Appearance(bits, thumbnail, (image.shape[0], image.shape[1]))


def orientations(array: UInt8Array) -> Iterator[UInt8Array]:
    """Yield uint8 (H, W) in its eight orientations: four that keep the shape, starting with itself, four turned."""
    for upright in (array, array.T):
        for vertical in (1, -1):
            for horizontal in (1, -1):
                yield np.ascontiguousarray(upright[::vertical, ::horizontal])


def likeness(one: Appearance, other: Appearance, orientation: int = 0) -> float:
    """Return the correlation -1..1 of the structure of two pictures, the second in this orientation.

    Slow changes of brightness and local contrast are taken out, and a shift of up to a tenth of the side is allowed.
    Pictures of nearly one size are compared at one scale, others stretched to a square.
    """
    return _compare((one.thumbnail, one.size), (other.thumbnail, other.size), orientation, COARSE)


def fine_likeness(one: UInt8Array, other: UInt8Array, orientation: int = 0) -> float:
    """Return the correlation -1..1 of noise and grain of two images uint8 (H, W, C), the second in this orientation."""
    first, second = ((_reduced(image, FINE.side), (image.shape[0], image.shape[1])) for image in (one, other))
    return _compare(first, second, orientation, FINE)


def _reduced(image: UInt8Array, side: int) -> UInt8Array:
    """Return an image uint8 (H, W, C) as grey uint8 (H', W'), longest side at most ``side``."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else image[..., 0]))
    scale = min(1.0, side / max(picture.size))
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BOX))


def _compare(
    one: tuple[UInt8Array, tuple[int, int]], other: tuple[UInt8Array, tuple[int, int]], orientation: int, scale: Scale
) -> float:
    """Return the correlation at the best shift of two reduced grey pictures with their own (height, width)."""
    turned = list(orientations(other[0]))[orientation]
    other_size = other[1] if orientation < ORIENTATIONS // 2 else other[1][::-1]
    sizes = np.array([one[1], other_size], dtype=np.float64)
    if (sizes.max(axis=0) / sizes.min(axis=0)).max() <= SAME_SCALE:
        factor = scale.side / max(sizes.max(), scale.side)
        shapes = np.maximum(1, np.rint(sizes * factor)).astype(int)
    else:
        shapes = np.full((2, 2), scale.side)
    first, second = (
        np.asarray(Image.fromarray(reduced).resize((width, height), Image.Resampling.BILINEAR))
        for reduced, (height, width) in zip((one[0], turned), shapes.tolist(), strict=True)
    )
    flat, other_flat = (_flattened(levels, scale.sigma, scale.floor) for levels in (first, second))
    return _correlation(flat, other_flat, scale.side)


def _flattened(grey: UInt8Array, sigma: float, floor: float) -> Floats:
    """Take slow brightness and local contrast out of grey uint8 (H, W); contrast below ``floor`` levels fades."""
    values = grey.astype(np.float32)
    detail = values - gaussian_filter(values, sigma)
    spread = np.sqrt(gaussian_filter(detail**2, sigma)) + floor
    return np.asarray(detail / spread, dtype=np.float32)


def _correlation(first: Floats, second: Floats, side: int) -> float:
    """Return the correlation of two arrays (H, W) over what they share at the best shift."""
    frame, largest = side + side // 4, side // 10
    spectrum = np.fft.rfft2(first, (frame, frame)) * np.conj(np.fft.rfft2(second, (frame, frame)))
    shifts = np.arange(-largest, largest + 1)
    by_shift = np.fft.irfft2(spectrum, (frame, frame))[np.ix_(shifts, shifts)]
    down, right = (int(shifts[place]) for place in np.unravel_index(by_shift.argmax(), by_shift.shape))
    height = min(first.shape[0] - max(down, 0), second.shape[0] - max(-down, 0))
    width = min(first.shape[1] - max(right, 0), second.shape[1] - max(-right, 0))
    if height < 1 or width < 1:
        return 0.0
    one = first[max(down, 0) :, max(right, 0) :][:height, :width]
    other = second[max(-down, 0) :, max(-right, 0) :][:height, :width]
    energy = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / energy if energy > 0 else 0.0
