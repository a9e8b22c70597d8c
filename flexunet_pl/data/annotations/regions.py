"""Connected regions of predicted masks as polygons, with how well each polygon gives its region."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, binary_erosion, find_objects, label

from flexunet_pl.data.annotations.contours import outlines, simplified, smoothed
from flexunet_pl.data.annotations.shapes import BoolArray, FloatArray, Polygon
from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array

NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)
# How far, in pixels, a polygon may leave the outline; it is halved for a region that comes out worse than the limits.
TOLERANCE = 0.75
LEAST_TOLERANCE = 0.1
LEAST_IOU = 0.9


@dataclass(frozen=True)
class TracedRegion:
    """A connected region of one class (8-connected).

    Attributes:
        class_name: Name of the class.
        class_index: Index of the class in the palette.
        top: First row of its box.
        left: First column of its box.
        mask: Its pixels in the box, bool (h, w).
        rings: The simplified polygon, float64 (N, 2) each, in pixels of the image: the outside, then the holes.
        iou: Intersection over union of the rasterised polygon and the mask, 0..1.
        score: Mean probability of the predicted class, 0..1, where it is known.
    """

    class_name: str
    class_index: int
    top: int
    left: int
    mask: BoolArray
    rings: tuple[FloatArray, ...]
    iou: float
    score: float | None = None

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Its box (left, top, width, height) in pixels."""
        return self.left, self.top, self.mask.shape[1], self.mask.shape[0]

    def full_mask(self, size: tuple[int, int]) -> BoolArray:
        """Return the mask bool (H, W) in an image of this (height, width)."""
        whole = np.zeros(size, dtype=np.bool_)
        whole[self.top : self.top + self.mask.shape[0], self.left : self.left + self.mask.shape[1]] = self.mask
        return whole


@dataclass(frozen=True)
class PredictedImage:
    """An image with its predicted mask.

    Attributes:
        image: The image file.
        mask_index: Class indices uint8 (H, W).
        regions: The regions of all classes but the background, by class and from the top.
    """

    image: Path
    mask_index: UInt8Array
    regions: tuple[TracedRegion, ...]

    @property
    def size(self) -> tuple[int, int]:
        """The image's (height, width)."""
        return self.mask_index.shape[0], self.mask_index.shape[1]

    @property
    def score(self) -> float | None:
        """The mean score of the regions, weighted by area; None without regions or scores."""
        known = [(region.score, region.area) for region in self.regions if region.score is not None]
        return sum(score * area for score, area in known) / sum(area for _, area in known) if known else None


def find_regions(mask_index: UInt8Array) -> Iterator[tuple[int, tuple[slice, slice], BoolArray]]:
    """Yield (class index, box, mask in the box) of each 8-connected region of a mask uint8 (H, W), background apart."""
    for class_index in np.unique(mask_index).tolist():
        if class_index in (0, IGNORE_INDEX):
            continue
        labelled, _ = label(mask_index == class_index, structure=NEIGHBOURS)
        for number, box in enumerate(find_objects(labelled), start=1):
            yield class_index, box, labelled[box] == number


def region_scores(mask_index: UInt8Array, confidence: npt.NDArray[np.floating[Any]]) -> list[float]:
    """Return the mean of ``confidence`` (H, W) over each region, in the order of :func:`find_regions`."""
    return [float(confidence[box][mask].mean()) for _, box, mask in find_regions(mask_index)]


def trace(
    mask_index: UInt8Array, names: Sequence[str], scores: Sequence[float] | None = None
) -> tuple[TracedRegion, ...]:
    """Return the regions of a mask uint8 (H, W) with their polygons.

    Args:
        mask_index: Class indices.
        names: Names of the classes, background first.
        scores: A score for each region, in the order of :func:`find_regions`.
    """
    found = []
    for number, (class_index, box, mask) in enumerate(find_regions(mask_index)):
        rings, iou = polygon_of(mask)
        top, left = box[0].start, box[1].start
        moved = tuple(ring + np.array([left, top]) for ring in rings)
        score = None if scores is None else scores[number]
        found.append(TracedRegion(names[class_index], class_index, top, left, mask, moved, iou, score))
    return tuple(found)


def polygon_of(mask: BoolArray) -> tuple[tuple[FloatArray, ...], float]:
    """Return a simplified polygon of one region bool (h, w), and the IoU of its pixels with the region's.

    Only pixels at the edge differ: a marked one that has an unmarked neighbour, or an unmarked one that has a marked
    neighbour, of eight; and the IoU is at least LEAST_IOU.
    """
    exact = sorted((smoothed(ring) for ring in outlines(mask)), key=_signed_area, reverse=True)
    framed = np.pad(mask, 2)
    inside, outside = binary_erosion(framed, NEIGHBOURS), binary_dilation(framed, NEIGHBOURS)
    tolerance = TOLERANCE
    while tolerance >= LEAST_TOLERANCE:
        rings = tuple(simplified(ring, tolerance) for ring in exact)
        marked = _filled(rings, mask)
        iou = float((marked & framed).sum() / (marked | framed).sum())
        is_close = not (inside & ~marked).any() and not (marked & ~outside).any()
        if iou >= LEAST_IOU and is_close and all(len(ring) > 2 for ring in rings):
            return rings, iou
        tolerance /= 2
    rings = tuple(simplified(ring, 0.0) for ring in exact)
    marked = _filled(rings, mask)
    return rings, float((marked & framed).sum() / (marked | framed).sum())


def single_ring(rings: Sequence[FloatArray]) -> FloatArray:
    """Return one ring (N, 2) that marks what an outside and its holes do, for formats without holes.

    Each hole is joined to the nearest vertex by a cut of no width, there and back, which changes no pixel.
    """
    ring = rings[0]
    for hole in rings[1:]:
        squared = ((ring[:, None] - hole[None]) ** 2).sum(axis=2)
        own, other = (int(index) for index in np.unravel_index(int(squared.argmin()), squared.shape))
        ring = np.concatenate([ring[: own + 1], hole[other:], hole[: other + 1], ring[own:]])
    return ring


def _signed_area(ring: FloatArray) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _filled(rings: Sequence[FloatArray], mask: BoolArray) -> BoolArray:
    """Rasterise rings in a frame of 2 pixels around the mask's box."""
    whole = np.zeros((mask.shape[0] + 4, mask.shape[1] + 4), dtype=np.bool_)
    top, left, marked = Polygon(tuple(ring + 2 for ring in rings)).window(*whole.shape)
    whole[top : top + marked.shape[0], left : left + marked.shape[1]] = marked
    return whole
