"""Pictures for an export to be tried on, at the size the network works at, with masks where there are some."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import Pair, ReadingRules, find_images, find_pairs, read_image
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.data.synthetic.dataset import draw_sample

DEMO_PICTURES = 2
SMALLEST_DEMO_SIDE = 16

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Files of pictures, read one at a time.

    Attributes:
        pairs: Image files, with mask files if there is truth.
        palette: What class is what in the masks.
        sizing: The size the network works at.
        rules: How files become arrays.
    """

    pairs: Sequence[Pair]
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
            return cls(pairs, palette, sizing, rules)
        if (folder / "valid" / "images").is_dir():
            raise UserError(f"--calibration {folder}: this is a data set; give one of its splits, {folder / 'valid'}")
        found = find_images(images if images.is_dir() else folder)
        return cls([Pair(path.stem, path, None) for path in found], palette, sizing, rules)

    @property
    def have_masks(self) -> bool:
        """Whether there is truth."""
        return all(pair.mask is not None for pair in self.pairs)

    def some(self, count: int) -> "Pictures":
        """Return at most ``count`` of the pictures, evenly spread over the folder."""
        places = np.linspace(0, len(self.pairs) - 1, min(count, len(self.pairs))).round().astype(int)
        return replace(self, pairs=[self.pairs[place] for place in places])

    def every_second(self, first: int) -> "Pictures":
        """Return every second picture from ``first``, 0 or 1, on; the only picture there is, if there is one."""
        return self if len(self.pairs) == 1 else replace(self, pairs=self.pairs[first::2])

    def images(self) -> Iterator[UInt8Array]:
        """Yield each image uint8 (H, W, C) at the size the network works at."""
        for pair in self.pairs:
            yield self.sizing.fit_image(read_image(pair.image, self.rules))

    def masks(self) -> Iterator[UInt8Array]:
        """Yield each mask uint8 (H, W) at the size the network works at, 255 = ignore."""
        for pair in self.pairs:
            if pair.mask is not None:
                yield self.sizing.fit_mask(read_mask(pair.mask, self.palette, self.rules.antialiased_masks)[0])


def demo_images(size: tuple[int, int], channels: int) -> Iterator[UInt8Array]:
    """Yield made-up images uint8 (H, W, C) of ``size`` (height, width), for those who have no others at hand."""
    height, width = size
    drawn_size = (max(height, SMALLEST_DEMO_SIDE), max(width, SMALLEST_DEMO_SIDE))
    for source in range(DEMO_PICTURES):
        image, _ = draw_sample(drawn_size, source, variant=0, seed=0)
        yield image[:height, :width, np.arange(channels) % image.shape[2]]
