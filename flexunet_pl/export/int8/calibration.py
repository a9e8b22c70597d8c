"""Images to calibrate and verify an export with, at the working size, with masks where they exist."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, find_images, find_pairs, read_image
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.data.synthetic.dataset import draw_sample

DEMO_PICTURES = 2
SMALLEST_DEMO_SIDE = 16

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Image files, read one at a time.

    Attributes:
        files: Image files.
        mask_files: Their mask files, empty where there is no truth.
        palette: What class is what in the masks.
        sizing: The size the network works at.
        rules: How files become arrays.
    """

    files: Sequence[Path]
    mask_files: Sequence[Path]
    palette: Palette
    sizing: Sizing
    rules: ReadingRules

    @classmethod
    def in_folder(cls, folder: Path, palette: Palette, sizing: Sizing, rules: ReadingRules) -> "Pictures":
        """Find the pictures of a folder of images, or of a folder with ``images`` and ``masks``.

        Raises:
            UserError: If there are none, or images and masks do not pair.
        """
        images, masks = folder / "images", folder / "masks"
        if images.is_dir() and masks.is_dir():
            pairs, problems = find_pairs(images, masks)
            if problems:
                raise UserError(f"--calibration: {len(problems)} problems in {folder}, the first: {problems[0]}")
            return cls([pair.image for pair in pairs], [pair.mask for pair in pairs], palette, sizing, rules)
        if (folder / "valid" / "images").is_dir():
            raise UserError(f"--calibration {folder}: this is a data set; give one of its splits, {folder / 'valid'}")
        found = find_images(images if images.is_dir() else folder)
        return cls(found, [], palette, sizing, rules)

    @property
    def have_masks(self) -> bool:
        """Whether there is truth."""
        return bool(self.mask_files)

    def some(self, count: int) -> "Pictures":
        """Return at most ``count`` of the pictures, evenly spread over the folder."""
        places = np.linspace(0, len(self.files) - 1, min(count, len(self.files))).round().astype(int)
        masks = [self.mask_files[place] for place in places] if self.have_masks else []
        return replace(self, files=[self.files[place] for place in places], mask_files=masks)

    def every_second(self, first: int) -> "Pictures":
        """Return every second picture from ``first``, 0 or 1, on; the only picture there is, if there is one."""
        if len(self.files) == 1:
            return self
        return replace(self, files=self.files[first::2], mask_files=self.mask_files[first::2])

    def images(self) -> Iterator[UInt8Array]:
        """Yield each image uint8 (H, W, C) at the size the network works at."""
        for path in self.files:
            yield self.sizing.fit_image(read_image(path, self.rules))

    def masks(self) -> Iterator[UInt8Array]:
        """Yield each mask uint8 (H, W) at the size the network works at, 255 = ignore."""
        for path in self.mask_files:
            yield self.sizing.fit_mask(read_mask(path, self.palette, self.rules.antialiased_masks)[0])


def demo_images(size: tuple[int, int], channels: int) -> Iterator[UInt8Array]:
    """Yield synthetic images uint8 (H, W, C) of ``size`` (height, width), used where no images are given."""
    height, width = size
    drawn_size = (max(height, SMALLEST_DEMO_SIDE), max(width, SMALLEST_DEMO_SIDE))
    for source in range(DEMO_PICTURES):
        image, _ = draw_sample(drawn_size, source, variant=0, seed=0)
        yield image[:height, :width, np.arange(channels) % image.shape[2]]
