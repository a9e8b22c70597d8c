"""Whether the direction of what an image shows means something, so that turning or flipping would destroy it."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.palette import UInt8Array
from flexunet_pl.planning.regions import RegionShape

# A surface has a direction if its gradients agree this much over all images, from 0 (any direction) to 1 (one alone).
LEAST_COHERENCE = 0.3
# A class has a direction if this many of its regions are elongated and agree this much.
FEWEST_REGIONS, LEAST_ELONGATED, LEAST_AGREEMENT = 5, 2.5, 0.8
# Radians within which two directions are the same.
SAME_DIRECTION = np.pi / 9


def surface_direction(images: Sequence[UInt8Array]) -> float:
    """Return how far gradients point in one direction over all images uint8 (H, W, C), from 0 to 1.

    It is the length of the mean of the structure tensors' directions, as complex numbers of the doubled angle (Bigun
    and Granlund, ICCV 1987).
    """
    vectors = [_direction(image) for image in images]
    return float(abs(np.mean(vectors))) if vectors else 0.0


def _direction(image: UInt8Array) -> complex:
    grey = image.astype(np.float32).mean(axis=2)
    if min(grey.shape) < 3:
        return 0j
    down, right = np.gradient(grey)
    total = float((down**2 + right**2).sum())
    return complex(float((right**2 - down**2).sum()), 2 * float((right * down).sum())) / total if total else 0j


def mirrored_classes(shapes: Mapping[int, Sequence[RegionShape]], change: str) -> tuple[int, int] | None:
    """Return two classes that a change of direction would exchange, None if there are none.

    Args:
        shapes: The regions of each class.
        change: ``flip`` (left and right, or top and bottom) or ``quarter`` (a turn by 90 degrees).
    """
    angles = {index: angle for index, found in shapes.items() if (angle := _common_angle(found)) is not None}
    for one, first in angles.items():
        changed = -first if change == "flip" else first + np.pi / 2
        for other, second in angles.items():
            if _apart(first, second) > SAME_DIRECTION >= _apart(changed, second):
                return one, other
    return None


def _common_angle(shapes: Sequence[RegionShape]) -> float | None:
    """Return the direction that the elongated regions of a class share, None if they share none."""
    angles: npt.NDArray[np.float64] = np.array(
        [shape.angle for shape in shapes if shape.length >= LEAST_ELONGATED * shape.width]
    )
    if len(angles) < max(FEWEST_REGIONS, len(shapes) / 2):
        return None
    mean = np.exp(2j * angles).mean()
    return float(np.angle(mean)) / 2 if abs(mean) >= LEAST_AGREEMENT else None


def _apart(one: float, other: float) -> float:
    """Return the angle between two directions, 0..pi/2."""
    return abs((one - other + np.pi / 2) % np.pi - np.pi / 2)
