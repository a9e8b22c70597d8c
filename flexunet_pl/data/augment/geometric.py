"""Flips and the geometric changes that keep straight lines straight."""

import math

import numpy as np

from flexunet_pl.data.augment.kinds import Flip, FloatArray, Homography, Planes, UInt8Array, register_transform
from flexunet_pl.data.augment.options import draw, draw_one, interval, number, numbers


@register_transform("hflip")
class HorizontalFlip(Flip):
    """Mirror left and right."""

    def flip(self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator) -> Planes:  # noqa: ARG002  nothing to draw
        """Reverse the columns."""
        return image[:, :, ::-1], mask[:, ::-1]


@register_transform("vflip")
class VerticalFlip(Flip):
    """Mirror top and bottom."""

    def flip(self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator) -> Planes:  # noqa: ARG002  nothing to draw
        """Reverse the rows."""
        return image[:, ::-1], mask[::-1]


@register_transform("right_angle")
class RightAngle(Flip):
    """Turn by 90, 180 or 270 degrees; by 180 where height and width differ, since the shape stays."""

    def flip(self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator) -> Planes:
        """Turn counter-clockwise by whole quarters."""
        height, width = mask.shape
        quarters = int(rng.integers(1, 4)) if height == width else 2
        return np.rot90(image, quarters, axes=(1, 2)), np.rot90(mask, quarters)


@register_transform("rotation")
class Rotation(Homography):
    """Turn counter-clockwise by one of ``angles``, or, if there are none, by up to ``limit`` degrees either way."""

    angles: tuple[float, ...] = numbers((), -360, 360, empty=True)
    limit: float = number(15, 0, 180)

    def matrix(self, height: int, width: int, rng: np.random.Generator) -> FloatArray:
        """Turn about the middle of the picture."""
        angle = draw_one(rng, self.angles) if self.angles else rng.uniform(-self.limit, self.limit)
        # At right angles the sine comes out as 1e-16 instead of 0; rounding keeps pixel centres on pixel centres.
        sine = round(math.sin(math.radians(angle)), 12)
        cosine = round(math.cos(math.radians(angle)), 12)
        return _about_middle(np.array([[cosine, -sine], [sine, cosine]]), height, width)


@register_transform("shrink")
class Shrink(Homography):
    """Shrink to one of the shares ``shrinks`` of the size, about the middle."""

    shrinks: tuple[float, ...] = numbers((0.8,), 0.05, 0.99)

    def matrix(self, height: int, width: int, rng: np.random.Generator) -> FloatArray:
        """Look farther out by the inverse of the drawn share."""
        return _about_middle(np.eye(2) / draw_one(rng, self.shrinks), height, width)


@register_transform("scale")
class Scale(Homography):
    """Enlarge by a factor of ``factor``, below 1 shrink, about the middle."""

    factor: tuple[float, float] = interval((0.8, 1.25), 0.05, 20)

    def matrix(self, height: int, width: int, rng: np.random.Generator) -> FloatArray:
        """Look at a window smaller by the drawn factor."""
        return _about_middle(np.eye(2) / draw(rng, self.factor), height, width)


@register_transform("shear")
class Shear(Homography):
    """Shift each column up or down in proportion to its distance from the middle, or each row sideways.

    The ratio of shift to distance is one of ``shears``, which move the columns as the original does, or, if there
    are none, up to ``limit`` either way, along rows or columns by chance.
    """

    shears: tuple[float, ...] = numbers((), -0.99, 0.99, empty=True)
    limit: float = number(0.1, 0, 2)

    def matrix(self, height: int, width: int, rng: np.random.Generator) -> FloatArray:
        """Undo the drawn shear."""
        if self.shears:
            ratio, columns = draw_one(rng, self.shears), True
        else:
            ratio, columns = rng.uniform(-self.limit, self.limit), rng.random() < 0.5
        linear = [[1, 0], [-ratio, 1]] if columns else [[1, -ratio], [0, 1]]
        return _about_middle(np.array(linear), height, width)


@register_transform("perspective")
class Perspective(Homography):
    """Move each corner by up to ``limit`` of the sides, in any direction.

    Below a quarter the four corners stay a convex quadrilateral, without which there is no picture.
    """

    limit: float = number(0.1, 0, 0.24)

    def matrix(self, height: int, width: int, rng: np.random.Generator) -> FloatArray:
        """Solve for the matrix that takes the four corners of the output to the drawn points of the source."""
        size = np.array([width - 1, height - 1], dtype=np.float64)
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
        moved = corners + rng.uniform(-self.limit, self.limit, (4, 2)) * size
        rows = []
        for (x, y), (u, v) in zip(corners, moved, strict=True):
            rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
            rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
        if size.min() == 0:
            return np.eye(3)
        entries = np.linalg.solve(np.array(rows), moved.reshape(-1))
        return np.append(entries, 1.0).reshape(3, 3)


def _about_middle(linear: FloatArray, height: int, width: int) -> FloatArray:
    """Return the (3, 3) matrix that applies the (2, 2) matrix ``linear`` about the middle of the picture."""
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle - linear @ middle
    return matrix
