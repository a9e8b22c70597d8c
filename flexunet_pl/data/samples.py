"""Find, pair by stem, read and check image and mask files."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair, Problem, collected
from flexunet_pl.data.image_files import limit_of, open_image, reading_errors, upright_size
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.inference import onnx_infer

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")
MASK_SUFFIXES = (".png", ".npz", ".bmp", ".tif", ".tiff")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
NO_MASK = "no mask with the stem"  # how the problem of such an image begins
SIXTEEN_BIT_RULES = ("full_range", "min_max")


@dataclass(frozen=True)
class ReadingRules:
    """How files become arrays: the same for training, testing and prediction.

    Attributes:
        channels: Channels of an image array.
        sixteen_bit: How 16-bit images become 8-bit: "full_range" (0..65535 -> 0..255), "min_max" (the image's own
            darkest and brightest value -> 0 and 255), or None, which refuses them.
        antialiased_masks: Whether colours between palette colours are moved to a neighbouring class.
        max_pixels: The most pixels of an image or mask; larger ones are refused before they are decoded. None takes
            the limit of the command, which is 100 million by default.
    """

    channels: int = 3
    sixteen_bit: str | None = None
    antialiased_masks: bool = False
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        """Raise UserError if a value is out of its range."""
        for key, value in (("channels", self.channels), ("max_pixels", limit_of(self.max_pixels))):
            if value < 1:
                raise UserError(f"data.{key}={value} must be at least 1")
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
        what = f"{NO_MASK} {stem!r} in {masks_dir}"
        problems.append(Problem(what, image_of[stem], "add it or move the image away"))
    for stem in sorted(mask_of.keys() - image_of.keys()):
        what = f"no image with the stem {stem!r} in {images_dir}"
        problems.append(Problem(what, mask_of[stem], "add it or move the mask away"))
    both = sorted(image_of.keys() & mask_of.keys())
    return [Pair(stem, image_of[stem], mask_of[stem]) for stem in both], problems


def read_image(path: Path, rules: ReadingRules) -> UInt8Array:
    """Read an image file as uint8 (H, W, C), 0..255, turned upright by its orientation.

    Grey and colour, palettes and alpha are converted to the requested number of channels (1: grey, 3: RGB, 4: RGBA);
    other numbers of channels come from .npy files (H, W, C).

    Raises:
        UserError: If the file cannot be read, has other channels, values other than unsigned ones of 8 bits, or of 16
            with a rule, or more than ``rules.max_pixels``.
    """
    if path.suffix.lower() == ".npy":
        with reading_errors():
            return onnx_infer.read_image(path, rules, limit_of(rules.max_pixels))
    with open_image(path, rules.max_pixels) as image:
        return onnx_infer.convert(image, rules, path)


def image_size(path: Path, max_pixels: int | None = None) -> tuple[int, int]:
    """Return the upright (height, width) of an image file without decoding it; raise UserError if it is no image."""
    if path.suffix.lower() == ".npy":
        return array_shape(path)[:2]
    with open_image(path, max_pixels) as image:
        return upright_size(image)


def has_sixteen_bits(path: Path, max_pixels: int | None = None) -> bool:
    """Return whether an image file has 16 bits a channel, without decoding it; raise UserError if it is no image."""
    if path.suffix.lower() == ".npy":
        return _open_array(path).dtype.itemsize == 2
    with open_image(path, max_pixels) as image:
        return onnx_infer.is_sixteen_bit(image, path)


def check_pairs(pairs: list[Pair], palette: Palette, rules: ReadingRules) -> tuple[list[Problem], dict[str, int]]:
    """Read every pair once; return the problems in order, and for each mask file how many blended pixels were moved."""

    def check(pair: Pair) -> tuple[list[Problem], int]:
        problems: list[Problem] = []
        moved = 0
        shapes: list[tuple[int, ...]] = []
        with collected(problems):
            shapes.append(read_image(pair.image, rules).shape[:2])
        with collected(problems):
            mask_index, moved = read_mask(pair.mask, palette, rules.antialiased_masks, rules.max_pixels)
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


def spread(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """Return at most ``most`` of the pairs, evenly spread over them."""
    return list(pairs[:: max(1, -(-len(pairs) // most))])


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


def array_shape(path: Path) -> tuple[int, int, int]:
    """Return the (height, width, channels) of an array image; raise UserError if it is none."""
    height, width, channels = _open_array(path).shape
    return int(height), int(width), int(channels)


def _open_array(path: Path) -> npt.NDArray[np.generic]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
        raise UserError(f"{path}: cannot be read as a numpy array ({error}); save it with numpy.save") from error
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{path}: shape {array.shape}; an array image must be (H, W, C)")
    return array
