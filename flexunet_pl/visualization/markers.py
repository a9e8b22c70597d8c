"""Find defects that are too small to be seen in a picture, and mark where they are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from flexunet_pl.visualization.pictures import BAND, UInt8Array

# A region is tiny if its longest side is at most this share of the picture's longest side: 10 pixels of 330.
TINY_SHARE = 0.03
MOST_MARKERS = 12
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


class Spot(NamedTuple):
    """The bounding box of a tiny region, in pixels of the image."""

    top: int
    left: int
    height: int
    width: int

    @property
    def center(self) -> tuple[float, float]:
        """The middle, (row, column)."""
        return self.top + self.height / 2, self.left + self.width / 2

    @property
    def side(self) -> int:
        """The longest side."""
        return max(self.height, self.width)


def find_spots(
    truth: UInt8Array | None, predicted: UInt8Array | None, share: float = TINY_SHARE, most: int = MOST_MARKERS
) -> list[Spot]:
    """Return the tiny regions (8-connectivity) of an image, those that matter most first, at most ``most``.

    Missed regions of the truth come first, then others of the truth, then false positives, which touch no region of the
    truth; of one kind, the largest comes first. Classes are not told apart: neighbours of two classes are one region.

    Args:
        truth: Class indices uint8 (H, W), 0 = background, 255 = ignore; None where there is no truth.
        predicted: Class indices uint8 (H, W); None where there is no prediction.
        share: A region is tiny up to this share of the longest side of the image.
        most: The largest number of spots.
    """
    spots: list[Spot] = []
    defect = None if truth is None else _foreground(truth)
    if defect is not None:
        found = _tiny(defect, share, most)
        is_missed = [predicted is not None and not predicted[_window(one)].any() for one in found]
        spots += sorted(found, key=lambda one: not is_missed[found.index(one)])
    if predicted is not None and len(spots) < most:
        marked = _foreground(predicted)
        if truth is not None:
            marked &= truth != 255
        spots += _tiny(marked, share, most, clear_of=defect)
    return spots[:most]


def _foreground(mask_index: UInt8Array) -> npt.NDArray[np.bool_]:
    return np.asarray((mask_index != 0) & (mask_index != 255))


def _window(spot: Spot) -> tuple[slice, slice]:
    return slice(spot.top, spot.top + spot.height), slice(spot.left, spot.left + spot.width)


def _tiny(
    marked: npt.NDArray[np.bool_], share: float, most: int, clear_of: npt.NDArray[np.bool_] | None = None
) -> list[Spot]:
    """Return the boxes of tiny regions of a bool (H, W), the largest area first; none that touches ``clear_of``."""
    labels, count = ndimage.label(marked, structure=_EIGHT_NEIGHBOURS)
    if not count:
        return []
    areas = np.zeros(count + 1, dtype=np.int64)
    for start in range(0, len(labels), BAND):  # numpy.bincount takes 8 bytes a pixel
        areas += np.bincount(labels[start : start + BAND].reshape(-1), minlength=count + 1)
    boxes = ndimage.find_objects(labels)
    limit = share * max(marked.shape)
    spots: list[Spot] = []
    for index in np.argsort(-areas[1:], kind="stable").tolist():
        rows, columns = boxes[index]
        spot = Spot(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        if spot.side > limit or (clear_of is not None and clear_of[rows, columns].any()):
            continue
        spots.append(spot)
        if len(spots) == most:
            break
    return spots


def mark(rgb: UInt8Array, spots: Sequence[Spot], scale: float = 1.0, numbered: int = 0) -> UInt8Array:
    """Draw a ring around each spot: white with a black edge, which shows on any surface.

    Args:
        rgb: uint8 (H, W, 3), the image scaled by ``scale``.
        spots: Spots in pixels of the image itself.
        scale: Pixels of ``rgb`` for each pixel of the image.
        numbered: The first so many get their number, from 1.

    Returns:
        uint8 (H, W, 3).
    """
    if not spots:
        return rgb
    picture = Image.fromarray(rgb)
    draw = ImageDraw.Draw(picture)
    side = max(rgb.shape[:2])
    line = _line_width(side)
    edge = max(1, line // 2)
    font = ImageFont.load_default(size=max(11, side // 22))
    for number, spot in enumerate(spots, 1):
        y, x = (place * scale for place in spot.center)
        radius = ring_radius(spot, scale, side)
        for reach, width, color in ((radius + edge, line + 2 * edge, "black"), (radius, line, "white")):
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=color, width=width)
        if number <= numbered:
            is_left = x + radius + side / 15 > rgb.shape[1]
            at = (x - radius - 2 * line if is_left else x + radius + 2 * line, min(max(y, side / 40), rgb.shape[0]))
            draw.text(
                at, str(number), "white", font, anchor="rm" if is_left else "lm", stroke_width=2, stroke_fill="black"
            )
    return np.asarray(picture)


def ring_radius(spot: Spot, scale: float, side: int) -> float:
    """Return the outer radius of a spot's white ring in a picture of longest side ``side``; the spot is inside."""
    return max(4.0 * _line_width(side), side / 40, 0.71 * spot.side * scale + 3 * _line_width(side))


def _line_width(side: int) -> int:
    """Return the width of a ring's white line, which is still seen where a page shows the picture at a third."""
    return max(1, round(side / 150))
