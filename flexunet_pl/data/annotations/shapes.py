"""Annotated shapes, and the pixels they mark.

Coordinates are those of pixel edges: (0, 0) is the top left corner of the image, (0.5, 0.5) the centre of the first
pixel. A polygon marks the pixels whose centre is inside; one that is too thin for that marks those along its line.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
# The part of an image that holds an area: its first row, its first column, and bool (h, w), True where marked.
Window = tuple[int, int, BoolArray]

NOTHING: Window = (0, 0, np.zeros((0, 0), dtype=np.bool_))
# A pixel, and what reaches a pixel's centre from everywhere: a pixel's diagonal, rounded up.
THIN_PENS = (1.0, 1.4143)
# How far, in pixels, a polygon may be inside the ellipse it stands for.
ELLIPSE_TOLERANCE = 0.02


class Area(Protocol):
    """A part of an image."""

    def window(self, height: int, width: int) -> Window:
        """Return the pixels marked in an image of this size; what is outside the image is cut off."""
        ...


@dataclass(frozen=True)
class Polygon:
    """A polygon of one or several rings by the even-odd rule, so that a ring inside another one is a hole.

    Attributes:
        rings: The vertices (x, y) of each ring, float64 (N, 2), in pixels.
        relative: Whether x and y are shares of the image's width and height instead.
    """

    rings: tuple[FloatArray, ...]
    relative: bool = False

    def window(self, height: int, width: int) -> Window:
        """Return the pixels whose centre is inside; one on an edge belongs to the right or to the lower side."""
        scale = np.array([width, height]) if self.relative else 1
        starts = [ring * scale for ring in self.rings]
        found = self._inside(starts, height, width)
        if found[2].any():
            return found
        line = np.concatenate([starts[0], starts[0][:1]])
        thin, wide = (Stroke(line, pen).window(height, width) for pen in THIN_PENS)
        return thin if thin[2].any() else wide

    @staticmethod
    def _inside(starts: Sequence[FloatArray], height: int, width: int) -> Window:
        points = np.concatenate(starts)
        ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in starts])
        left, top = (int(value) for value in _first_centre(points.min(axis=0), width, height))
        right, bottom = (int(value) for value in _first_centre(points.max(axis=0), width, height))
        if right <= left or bottom <= top:
            return NOTHING
        return top, left, _even_odd(points - (left, top), ends - (left, top), bottom - top, right - left)


def _first_centre(point: FloatArray, width: int, height: int) -> FloatArray:
    """Return the first column and row whose centre is at (x, y) or after it, within the image."""
    return np.clip(np.ceil(point - 0.5), 0, (width, height))


def _even_odd(starts: FloatArray, ends: FloatArray, height: int, width: int) -> BoolArray:
    """Fill edges from ``starts`` to ``ends``, (N, 2): each row changes sides where an edge crosses its centre line."""
    (x0, y0), (x1, y1) = starts.T, ends.T
    first, last = (
        np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (np.minimum(y0, y1), np.maximum(y0, y1))
    )
    counts = last - first
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.asarray(np.cumsum(crossings[:, :-1], axis=1) % 2 == 1)


@dataclass(frozen=True)
class Runs:
    """A run-length encoded mask: lengths of runs of pixels that are unmarked, marked, unmarked and so on.

    Attributes:
        counts: The lengths, int64 (N,); their sum is height * width.
        height: Rows of the mask.
        width: Columns of the mask.
        top: The row of the image at which the mask begins.
        left: The column of the image at which the mask begins.
        by_column: Whether pixels follow each other down the columns, as in COCO, and not along the rows.
    """

    counts: IntArray
    height: int
    width: int
    top: int = 0
    left: int = 0
    by_column: bool = False

    def window(self, height: int, width: int) -> Window:
        """Return the marked pixels."""
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        mask = flat.reshape(self.width, self.height).T if self.by_column else flat.reshape(self.height, self.width)
        cut = mask[max(0, -self.top) : max(0, height - self.top), max(0, -self.left) : max(0, width - self.left)]
        return max(0, self.top), max(0, self.left), cut


@dataclass(frozen=True)
class Stroke:
    """A line through points, or a single point, drawn with a round pen.

    Attributes:
        points: The points (x, y), float64 (N, 2), in pixels.
        pen: Diameter of the pen in pixels.
    """

    points: FloatArray
    pen: float

    def window(self, height: int, width: int) -> Window:
        """Return the pixels whose centre is at most half the pen from the line."""
        reach = self.pen / 2
        left, top = (int(value) for value in _first_centre(self.points.min(axis=0) - reach, width, height))
        right, bottom = (int(value) for value in _first_centre(self.points.max(axis=0) + reach + 1, width, height))
        rows, columns = np.mgrid[top:bottom, left:right] + 0.5
        marked = np.zeros(rows.shape, dtype=np.bool_)
        ends = self.points[1:] if len(self.points) > 1 else self.points
        for (x0, y0), (x1, y1) in zip(self.points, ends, strict=False):
            squared = (x1 - x0) ** 2 + (y1 - y0) ** 2
            along = ((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / squared if squared else columns * 0
            along = along.clip(0, 1)
            marked |= np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0)) <= reach
        return top, left, marked


@dataclass(frozen=True)
class Shape:
    """What one annotation marks.

    Attributes:
        label: Name of its class, as the file has it.
        name: What errors call it, such as "annotation 17".
        areas: Its parts, of which it is the union.
    """

    label: str
    name: str
    areas: tuple[Area, ...]

    @property
    def is_empty(self) -> bool:
        """Whether it marks nothing anywhere, as a mask does from which everything was erased."""
        return all(isinstance(area, Runs) and not area.counts[1::2].any() for area in self.areas)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the shapes in it.

    Attributes:
        image: The image file.
        file: The file that holds the shapes.
        size: (height, width) for which the shapes are drawn, None where the file does not say.
        shapes: The shapes in the order in which they are painted: a later one covers an earlier one.
    """

    image: Path
    file: Path
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]

    def digest(self) -> str:
        """Return a hash of the shapes, the same in every process."""
        found = hashlib.sha256(repr(self.size).encode())
        for shape in self.shapes:
            found.update(repr((shape.label, shape.name)).encode(errors="backslashreplace"))
            for area in shape.areas:
                for field in dataclasses.fields(area):  # type: ignore[arg-type]  # all kinds of areas are dataclasses
                    value = getattr(area, field.name)
                    for part in value if isinstance(value, tuple) else (value,):
                        is_array = isinstance(part, np.ndarray)
                        found.update(part.tobytes() if is_array else repr(part).encode(errors="backslashreplace"))
        return found.hexdigest()


def box_ring(left: float, top: float, right: float, bottom: float) -> FloatArray:
    """Return the corners of a rectangle, float64 (4, 2)."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def ellipse_ring(x: float, y: float, radius_x: float, radius_y: float) -> FloatArray:
    """Return vertices of an ellipse with axes along the image's, float64 (N, 2)."""
    radius = max(radius_x, radius_y)
    share = min(1.0, ELLIPSE_TOLERANCE / radius) if radius > ELLIPSE_TOLERANCE else 1.0
    count = max(16, math.ceil(math.pi / math.acos(1 - share)))
    angles = np.arange(count) * (2 * math.pi / count)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def turned(ring: FloatArray, x: float, y: float, degrees: float) -> FloatArray:
    """Return vertices (N, 2) turned clockwise, as seen in an image, around (x, y)."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved = ring - (x, y)
    return np.stack(
        [x + moved[:, 0] * cosine - moved[:, 1] * sine, y + moved[:, 0] * sine + moved[:, 1] * cosine], axis=1
    )


def runs_of(mask: BoolArray, by_column: bool = False) -> IntArray:
    """Return the lengths of the runs of a mask bool (H, W), unmarked first, int64 (N,); see :class:`Runs`."""
    flat = (mask.T if by_column else mask).reshape(-1)
    ends = np.concatenate([np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths = np.diff(ends, prepend=0)
    return np.concatenate([[0], lengths]) if flat.size and flat[0] else lengths
