"""Find, pair by stem, read and check image and mask files."""

import contextlib
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair, Problem, collected
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")
MASK_SUFFIXES = (".png", ".npz", ".bmp", ".tif", ".tiff")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
SIXTEEN_BIT_RULES = ("full_range", "min_max")
MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
TIFF_BITS_PER_SAMPLE = 258


@dataclass(frozen=True)
class ReadingRules:
    """How files become arrays: the same for training, testing and prediction.

    Attributes:
        channels: Channels of an image array.
        sixteen_bit: How 16-bit images become 8-bit: "full_range" (0..65535 -> 0..255), "min_max" (the image's own
            darkest and brightest value -> 0 and 255), or None, which refuses them.
        antialiased_masks: Whether colours between palette colours are moved to a neighbouring class.
    """

    channels: int = 3
    sixteen_bit: str | None = None
    antialiased_masks: bool = False

    def __post_init__(self) -> None:
        """Raise UserError if a value is out of its range."""
        if self.channels < 1:
            raise UserError(f"data.channels={self.channels} must be at least 1")
        if self.sixteen_bit is not None and self.sixteen_bit not in SIXTEEN_BIT_RULES:
            raise UserError(f"data.sixteen_bit={self.sixteen_bit!r}; choose from {', '.join(SIXTEEN_BIT_RULES)}")


def find_images(folder: Path) -> list[Path]:
    """Return the image files in ``folder``, sorted, without hidden ones; raise UserError if there is none."""
    images = files_in(folder, IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in this folder; check the path")
    return images


def find_pairs(images_dir: Path, masks_dir: Path, mask_suffix: str = "") -> tuple[list[Pair], list[Problem]]:
    """Pair image and mask files by stem, whatever their suffixes; a mask's may end with ``mask_suffix``.

    Returns:
        The pairs sorted by name, and the problems: a file without partner, a stem used twice, a mask in a lossy
        format.

    Raises:
        UserError: If a folder does not exist, or there is no image.
    """
    problems: list[Problem] = []
    image_of = by_stem(find_images(images_dir), problems)
    lossy_masks = files_in(masks_dir, LOSSY_SUFFIXES)
    problems += [lossy_mask_problem(path) for path in lossy_masks]
    lossy = {path.stem.removesuffix(mask_suffix) for path in lossy_masks}
    mask_of = by_stem(files_in(masks_dir, MASK_SUFFIXES), problems, mask_suffix)
    for stem in sorted(image_of.keys() - mask_of.keys() - lossy):
        what = f"no mask with the stem {stem!r} in {masks_dir}"
        problems.append(Problem(what, image_of[stem], "add it or move the image away"))
    for stem in sorted(mask_of.keys() - image_of.keys()):
        what = f"no image with the stem {stem!r} in {images_dir}"
        problems.append(Problem(what, mask_of[stem], "add it or move the mask away"))
    both = sorted(image_of.keys() & mask_of.keys())
    return [Pair(stem, image_of[stem], mask_of[stem]) for stem in both], problems


def read_image(path: Path, rules: ReadingRules) -> UInt8Array:
    """Read an image file as uint8 (H, W, C), 0..255, turned upright by its EXIF orientation.

    Grey and colour, palettes and alpha are converted to the requested number of channels (1: grey, 3: RGB, 4: RGBA);
    other numbers of channels come from .npy files (H, W, C).

    Raises:
        UserError: If the file cannot be read, has another number of channels, or more than 8 bits without a rule.
    """
    if path.suffix.lower() == ".npy":
        return _read_array_image(path, rules)
    if rules.channels not in MODE_OF_CHANNELS:
        raise UserError(
            f"{path}: data.channels={rules.channels} needs .npy images (H, W, {rules.channels}); "
            f"image files give {', '.join(str(count) for count in MODE_OF_CHANNELS)} channels"
        )
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if _is_sixteen_bit(path, image):
            values = _reduced_to_eight_bit(path, upright, rules)
        elif upright.mode in ("I", "F"):
            raise UserError(f"{path}: pixels of 32 bits (mode {upright.mode}); convert the image to 8 or 16 bits")
        else:
            values = upright
        if values.mode in ("LA", "PA", "P"):
            values = values.convert("RGBA")
        pixels = np.array(values.convert(MODE_OF_CHANNELS[rules.channels]))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def image_size(path: Path) -> tuple[int, int]:
    """Return the upright (height, width) of an image file without decoding it; raise UserError if it is no image."""
    if path.suffix.lower() == ".npy":
        array = _open_array(path)
        return int(array.shape[0]), int(array.shape[1])
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 swap the sides
    return (width, height) if turned else (height, width)


def has_sixteen_bits(path: Path) -> bool:
    """Return whether an image file has 16 bits a channel, without decoding it; raise UserError if it is no image."""
    if path.suffix.lower() == ".npy":
        return bool(_open_array(path).dtype == np.uint16)
    with _opened(path) as image:
        return _is_sixteen_bit(path, image)


def check_pairs(pairs: list[Pair], palette: Palette, rules: ReadingRules) -> tuple[list[Problem], dict[str, int]]:
    """Read every pair once; return the problems in order, and for each mask file how many blended pixels were moved."""

    def check(pair: Pair) -> tuple[list[Problem], int]:
        problems: list[Problem] = []
        moved = 0
        shapes: list[tuple[int, ...]] = []
        with collected(problems):
            shapes.append(read_image(pair.image, rules).shape[:2])
        with collected(problems):
            mask_index, moved = read_mask(pair.mask, palette, rules.antialiased_masks)
            shapes.append(mask_index.shape)
        if len(shapes) == 2:
            problems += size_problems(pair.image, *shapes)
        return problems, moved

    all_problems: list[Problem] = []
    moved_of: dict[str, int] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = progress(pool.map(check, pairs), "Checking images and masks", len(pairs))
        for pair, (problems, moved) in zip(pairs, results, strict=True):
            all_problems.extend(problems)
            if moved:
                moved_of[str(pair.mask)] = moved
    return all_problems, moved_of


def lossy_mask_problem(path: Path) -> Problem:
    """Return the problem of a mask saved as JPEG or WebP."""
    return Problem("a mask in a lossy format cannot keep its colours", path, "save it as PNG")


def size_problems(image: Path, image_size: tuple[int, ...], mask_size: tuple[int, ...]) -> list[Problem]:
    """Return a problem if an image and its mask differ in (height, width)."""
    if image_size == mask_size:
        return []
    sizes = " and ".join(f"{height} x {width}" for height, width in (image_size, mask_size))
    return [Problem(f"image and mask differ in size (height x width: {sizes})", image, "crop one to the other")]


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files with these suffixes, sorted, without hidden ones; raise UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: this folder does not exist; check the path")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def by_stem(paths: list[Path], problems: list[Problem], ending: str = "") -> dict[str, Path]:
    """Return the paths by stem without ``ending``; a stem used twice is added to ``problems``."""
    path_of: dict[str, Path] = {}
    for path in paths:
        stem = path.stem.removesuffix(ending)
        if stem in path_of:
            what = f"{path_of[stem].name} in the same folder has the same stem"
            problems.append(Problem(what, path, "rename one"))
        else:
            path_of[stem] = path
    return path_of


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; errors of reading it become a UserError."""
    try:
        with Image.open(path) as image:
            yield image
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error}); replace the file") from error


def _is_sixteen_bit(path: Path, image: Image.Image) -> bool:
    if image.mode.startswith("I;16"):
        return True
    # Pillow opens 16-bit colour as 8-bit without a warning, so read the file's header.
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24:] == b"\x10"
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, (8,))
        return 16 in (bits if isinstance(bits, tuple) else (bits,))
    return False


def _reduced_to_eight_bit(path: Path, image: Image.Image, rules: ReadingRules) -> Image.Image:
    if rules.sixteen_bit is None:
        raise UserError(
            f"{path}: a 16-bit image; set data.sixteen_bit to full_range (0..65535 -> 0..255) or "
            "min_max (the image's darkest and brightest value -> 0 and 255)"
        )
    if image.mode == "RGB" or image.mode == "RGBA":
        if rules.sixteen_bit == "full_range":
            return image  # Pillow has kept the high byte of each value
        raise UserError(f"{path}: min_max is for grey 16-bit images; use full_range, or save the image as .npy")
    return Image.fromarray(_scaled_to_eight_bit(np.asarray(image, dtype=np.uint16), rules.sixteen_bit))


def _scaled_to_eight_bit(values: npt.NDArray[np.uint16], rule: str) -> UInt8Array:
    """Map uint16 (...) to uint8 (...), rounded to the nearest; a constant image becomes 0 under min_max."""
    low, high = (0, 65535) if rule == "full_range" else (int(values.min()), int(values.max()))
    scale = 255 / max(high - low, 1)
    return np.asarray(np.rint((values.astype(np.float32) - low) * scale), dtype=np.uint8)


def _open_array(path: Path) -> npt.NDArray[np.generic]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
        raise UserError(f"{path}: cannot be read as a numpy array ({error}); save it with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{path}: shape {getattr(array, 'shape', None)}; an array image must be (H, W, C)")
    return array


def _read_array_image(path: Path, rules: ReadingRules) -> UInt8Array:
    array = _open_array(path)
    if array.shape[2] != rules.channels:
        raise UserError(
            f"{path}: {array.shape[2]} channels, but data.channels={rules.channels}; set data.channels to match"
        )
    if array.dtype == np.uint8:
        return np.array(array, dtype=np.uint8)
    if array.dtype == np.uint16 and rules.sixteen_bit is not None:
        return _scaled_to_eight_bit(np.asarray(array, dtype=np.uint16), rules.sixteen_bit)
    raise UserError(
        f"{path}: values of type {array.dtype}; an array image must be uint8, or uint16 with data.sixteen_bit set to "
        f"{' or '.join(SIXTEEN_BIT_RULES)}"
    )
