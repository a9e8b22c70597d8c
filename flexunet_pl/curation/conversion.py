"""Read masks of any form as class indices, and write them as palette colours, index images or one-hot arrays."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes
from flexunet_pl.core.types import collected, raise_problems
from flexunet_pl.curation.prepare.readers import NO_CLASS, Found
from flexunet_pl.data.annotations.raster import paint
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, Palette, UInt8Array
from flexunet_pl.data.samples import (
    LOSSY_SUFFIXES,
    MASK_SUFFIXES,
    ReadingRules,
    array_shape,
    by_stem,
    files_in,
    image_size,
    lossy_mask_problem,
    read_image,
    size_problems,
)
from flexunet_pl.data.sizing import Sizing

# Masks with soft edges: from this level on a pixel belongs to the defect.
MASK_THRESHOLD = 128


@dataclass(frozen=True)
class Converter:
    """Converts the files of a folder to files of a data set.

    Attributes:
        palette: What class is what.
        sizing: The size images and masks get; padding of masks is ignored, so the palette needs an ignore colour then.
        antialiased: Whether blended mask colours are moved to a neighbouring class.
    """

    palette: Palette
    sizing: Sizing
    antialiased: bool = False

    def read(self, found: Found) -> tuple[UInt8Array, UInt8Array, int]:
        """Return image uint8 (H, W, C), mask uint8 (H, W) of class indices, and how many blended pixels were moved.

        Raises:
            UserError: If a file cannot be read or resized, the two differ in size, or the mask contradicts its folder.
        """
        if self.sizing.rule != "none" and found.image.suffix.lower() == ".npy":
            raise UserError(f"{found.image}: an array image cannot be resized; prepare it with --resize none")
        image = read_any_image(found.image)
        mask_index, moved = self.read_mask(found, image.shape[:2])
        for problem in size_problems(found.image, image.shape[:2], mask_index.shape):
            raise UserError(str(problem))
        return image, mask_index, moved

    def read_mask(self, found: Found, size: tuple[int, ...]) -> tuple[UInt8Array, int]:
        """Read the mask of an image of this size (height, width); without a mask file all of it is background."""
        if found.annotated is not None:
            index_of = {name: index for index, name in enumerate(self.palette.names)}
            return paint(found.annotated, (size[0], size[1]), index_of), 0
        if found.mask is None:
            return np.zeros(size, dtype=np.uint8), 0
        if found.label is None:
            return read_class_mask(found.mask, self.palette, self.antialiased)
        marked = read_two_valued(found.mask)
        if found.label == NO_CLASS:
            if marked.any():
                raise UserError(
                    f"{found.mask}: marks {int(marked.sum())} pixels in a folder of images without defect; move the "
                    "image to its class"
                )
            return marked, 0
        return marked * np.uint8(self.palette.names.index(found.label)), 0

    def suffix(self, found: Found) -> str:
        """Return the suffix of the image's new file: its own unless it is resized."""
        return found.image.suffix.lower() if self.sizing.rule == "none" else ".png"

    def image_file(self, found: Found) -> bytes:
        """Return the bytes of the new image file, its own unless it is resized."""
        if self.sizing.rule == "none":
            return found.image.read_bytes()
        return png_bytes(self.sizing.fit_image(self.read(found)[0]))

    def mask_file(self, found: Found) -> bytes:
        """Return the bytes of the new mask file, in palette colours."""
        if self.sizing.rule == "none":
            mask_index, _ = self.read_mask(found, image_size(found.image))
        else:
            mask_index = self.read(found)[1]
        return png_bytes(self.palette.decode(self.sizing.fit_mask(mask_index)))


def read_any_image(path: Path) -> UInt8Array:
    """Read an image as uint8 (H, W, C), whatever its bits; the channels of an array file are its own, else three."""
    channels = 3
    if path.suffix.lower() == ".npy":
        channels = array_shape(path)[2]
    return read_image(path, ReadingRules(channels=channels, sixteen_bit="full_range"))


def read_class_mask(path: Path, palette: Palette, antialiased: bool) -> tuple[UInt8Array, int]:
    """Read a mask as :func:`read_mask` does; its errors name the option of prepare, not the key of a config."""
    try:
        return read_mask(path, palette, antialiased)
    except UserError as error:
        raise UserError(str(error).replace("set data.antialiased_masks: true", "give --antialiased_masks")) from error


def read_two_valued(path: Path) -> UInt8Array:
    """Read a mask that marks one class as uint8 (H, W), 1 where marked.

    A pixel is as bright as its brightest channel, times its opacity. Of two levels the brighter one marks; of several,
    as soft edges have them, those of 128 and more; a mask of a single level marks all of the picture or nothing.

    Raises:
        UserError: If the file cannot be read, or is too dark to say what it marks.
    """
    rgba = read_image(path, ReadingRules(channels=4, sixteen_bit="min_max")).astype(np.uint16)
    level = rgba[..., :3].max(axis=2) * rgba[..., 3] // 255
    levels = np.flatnonzero(np.bincount(level.reshape(-1), minlength=256))
    threshold = MASK_THRESHOLD
    if levels[-1] < MASK_THRESHOLD:
        if len(levels) > 2 or (len(levels) == 1 and levels[0] > 1):
            raise UserError(
                f"{path}: its brightest pixel has {levels[-1]} of 255, too dark to mark anything; paint the "
                "defect white and everything else black, or, if the levels are classes, use prepare pairs"
            )
        threshold = max(1, int(levels[-1]))
    return np.asarray(level >= threshold, dtype=np.uint8)


def png_bytes(pixels: UInt8Array) -> bytes:
    """Return the bytes of a PNG of pixels uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()


def _index_file(mask_index: UInt8Array, palette: Palette) -> tuple[str, bytes]:
    image = Image.fromarray(mask_index).convert("P")
    image.putpalette(palette.flat())
    file = io.BytesIO()
    image.save(file, format="PNG")
    return ".png", file.getvalue()


def _array_file(mask_index: UInt8Array, palette: Palette) -> tuple[str, bytes]:
    """One-hot (H, W, K); a mask with ignored pixels, which have no class, as indices (H, W)."""
    file = io.BytesIO()
    if (mask_index == IGNORE_INDEX).any():
        np.savez_compressed(file, mask=mask_index)
    else:
        np.savez_compressed(file, mask=np.eye(len(palette), dtype=np.uint8)[mask_index])
    return ".npz", file.getvalue()


MASK_FORMATS: dict[str, Callable[[UInt8Array, Palette], tuple[str, bytes]]] = {
    "color": lambda mask_index, palette: (".png", png_bytes(palette.decode(mask_index))),
    "index": _index_file,
    "npz": _array_file,
}


def convert_masks(src: Path, out: Path, palette: Palette, target: str, antialiased: bool) -> tuple[int, int]:
    """Write every mask in ``src`` into ``out`` in another form; a file that is there already is left alone.

    Returns:
        How many masks were written, and how many blended pixels were moved to a neighbouring class.

    Raises:
        UserError: If a mask cannot be read with this palette; nothing is written before all could be.
    """
    masks = files_in(src, MASK_SUFFIXES)
    if not masks:
        raise UserError(f"{src}: no mask ({', '.join(MASK_SUFFIXES)}) in this folder; check the path")
    problems = [lossy_mask_problem(path) for path in files_in(src, LOSSY_SUFFIXES)]
    by_stem(masks, problems)
    moved = 0
    for path in progress(masks, "Reading masks"):
        with collected(problems):
            moved += read_class_mask(path, palette, antialiased)[1]
    raise_problems(problems, after=", nothing was written")
    written = 0
    for path in progress(masks, "Writing masks"):
        suffix, content = MASK_FORMATS[target](read_mask(path, palette, antialiased)[0], palette)
        goal = out / f"{path.stem}{suffix}"
        if not goal.exists():
            write_bytes(goal, content)
            written += 1
    return written, moved
