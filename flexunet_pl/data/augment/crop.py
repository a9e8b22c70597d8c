"""Choose the training crop; pad images smaller than it."""

from dataclasses import dataclass

import numpy as np

from flexunet_pl.data.augment.kinds import Planes, UInt8Array
from flexunet_pl.data.augment.options import number, switch
from flexunet_pl.data.palette import IGNORE_INDEX


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: UInt8Array, mask: UInt8Array) -> Planes:
        """Return views of the rectangle of image (C, H, W) and mask (H, W)."""
        rows, columns = slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        return image[:, rows, columns], mask[rows, columns]


@dataclass(frozen=True)
class Crop:
    """Choose the crop: anywhere, or, with probability ``foreground_share``, about a pixel that is not background.

    That pixel is in the middle half of the crop, as far as the edges of the picture allow. With ``class_balanced``
    a class is drawn first, each of those present as likely as the others, then one of its pixels; else every
    foreground pixel is as likely as any other.
    """

    foreground_share: float = number(0.5, 0, 1)
    class_balanced: bool = switch(default=True)

    def window(self, mask: UInt8Array, height: int, width: int, rng: np.random.Generator) -> Window:
        """Draw a window of ``height`` x ``width`` within ``mask`` uint8 (H, W), which is at least as large."""
        spare_rows, spare_columns = mask.shape[0] - height, mask.shape[1] - width
        if spare_rows == 0 and spare_columns == 0:
            return Window(0, 0, height, width)
        pixel = self._foreground_pixel(mask, rng) if rng.random() < self.foreground_share else None
        if pixel is None:
            top, left = int(rng.integers(spare_rows + 1)), int(rng.integers(spare_columns + 1))
        else:
            top = _start(pixel[0], height, spare_rows, rng)
            left = _start(pixel[1], width, spare_columns, rng)
        return Window(top, left, height, width)

    def _foreground_pixel(self, mask: UInt8Array, rng: np.random.Generator) -> tuple[int, int] | None:
        """Draw (row, column) of a foreground pixel, or None if there is none."""
        if self.class_balanced:
            classes = foreground_classes(mask)
            if not len(classes):
                return None
            wanted = mask == rng.choice(classes)
        else:
            wanted = (mask > 0) & (mask != IGNORE_INDEX)
        places = np.flatnonzero(wanted)
        if not len(places):
            return None
        row, column = divmod(int(places[rng.integers(len(places))]), mask.shape[1])
        return row, column


def foreground_classes(mask: UInt8Array) -> UInt8Array:
    """Return the class indices that occur in ``mask`` (H, W), background 0 and ignore 255 left out, ascending."""
    counts = np.bincount(mask.reshape(-1), minlength=IGNORE_INDEX + 1)
    counts[[0, IGNORE_INDEX]] = 0
    return np.flatnonzero(counts).astype(np.uint8)


def padded(image: UInt8Array, mask: UInt8Array, height: int, width: int) -> Planes:
    """Pad right and bottom to at least ``height`` and ``width``: the image repeats its edge, the mask is 255 there."""
    down, across = max(0, height - mask.shape[0]), max(0, width - mask.shape[1])
    if not down and not across:
        return image, mask
    return (
        np.pad(image, ((0, 0), (0, down), (0, across)), mode="edge"),
        np.pad(mask, ((0, down), (0, across)), constant_values=IGNORE_INDEX),
    )


def _start(position: int, size: int, spare: int, rng: np.random.Generator) -> int:
    """Draw where a window of ``size`` starts so that ``position`` falls into its middle half, within 0..``spare``."""
    before = int(rng.integers(size // 4, size - size // 4))
    return min(max(position - before, 0), spare)
