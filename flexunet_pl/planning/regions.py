"""The size, thickness and direction of the regions of a mask."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects, label

from flexunet_pl.data.palette import UInt8Array

# Pixels that touch at a corner belong to one region, as a thin crack needs it.
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class RegionShape:
    """A connected region of one class, in pixels.

    Attributes:
        index: Class index.
        area: Number of pixels.
        width: Its thickness: that of the ellipse of its area and length.
        length: Length of the ellipse of its second moments.
        angle: Direction of its length in radians, counted from the x axis downwards, -pi/2..pi/2.
    """

    index: int
    area: int
    width: float
    length: float
    angle: float


def region_shapes(mask_index: UInt8Array, classes: int) -> Iterator[RegionShape]:
    """Yield the regions of the foreground classes 1..``classes`` - 1 of a mask uint8 (H, W)."""
    for index in range(1, classes):
        is_class = mask_index == index
        if not is_class.any():
            continue
        regions, _ = label(is_class, structure=EIGHT_NEIGHBOURS)
        for number, box in enumerate(find_objects(regions), start=1):
            rows, columns = np.nonzero(regions[box] == number)
            yield _shape(index, rows, columns)


def _shape(index: int, rows: np.ndarray, columns: np.ndarray) -> RegionShape:
    area = len(rows)
    # A pixel is a square of side 1, whose own variance is 1/12.
    vertical, horizontal = rows.var() + 1 / 12, columns.var() + 1 / 12
    mixed = float(((rows - rows.mean()) * (columns - columns.mean())).mean())
    spread = np.hypot((horizontal - vertical) / 2, mixed)
    length = 4 * float(np.sqrt((horizontal + vertical) / 2 + spread))
    return RegionShape(
        index=index,
        area=area,
        width=4 * area / (np.pi * length),
        length=length,
        angle=0.5 * float(np.arctan2(2 * mixed, horizontal - vertical)),
    )
