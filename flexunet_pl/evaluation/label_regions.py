"""Regions in which a label and a network contradict each other, sorted by what is wrong with the label.

Distances and areas here are in pixels at the size that the network saw.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects
from scipy.ndimage import label as connected

from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array
from flexunet_pl.evaluation.label_pixels import LabelledPixels, margins
from flexunet_pl.evaluation.regions import EIGHT_NEIGHBOURS

MISSING, INVENTED, WRONG_CLASS, LOOSE_EDGE = "missing defect", "invented defect", "wrong class", "loose edge"
KINDS = (MISSING, INVENTED, WRONG_CLASS, LOOSE_EDGE)
SMALLEST = 4  # pixels of a region worth a look
EDGE_BAND = 3  # pixels around a labelled defect in which a contradiction is about its edge
MOST_OF_REGION = 0.5
LEAST_SEEN = 0.1  # a label with less of it predicted as a defect of any class is invented
MARGIN_AROUND = 0.5  # of a region's side, in which its edge is looked for

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Contradiction:
    """A region where label and network disagree.

    Attributes:
        kind: One of ``KINDS``.
        labelled: Class index in the mask.
        suggested: Class index that the network is confident of.
        box: (x0, y0, x1, y1), x1 and y1 exclusive.
        area: Number of contradicting pixels.
        margin: Mean over them of the probability of the network's class minus that of the label, 0..1.
        distance: Mean distance between labelled and predicted outline; 0 unless the kind is LOOSE_EDGE.
    """

    kind: str
    labelled: int
    suggested: int
    box: tuple[int, int, int, int]
    area: int
    margin: float
    distance: float = 0.0


def labelled_regions(labelled: UInt8Array, num_classes: int) -> Iterator[tuple[int, tuple[slice, slice], Bools]]:
    """Yield class index, window and pixels bool (h', w') of each connected region of a foreground class.

    ``labelled`` is uint8 (h, w), 255 = ignore.
    """
    for index in range(1, num_classes):
        numbered, _ = connected(labelled == index, structure=EIGHT_NEIGHBOURS)
        for number, window in enumerate(find_objects(numbered), start=1):
            yield index, window, numbered[window] == number


def contradictions(pixels: LabelledPixels, suggested: UInt8Array) -> list[Contradiction]:
    """Return the regions in which an image's label is contradicted.

    A labelled region is of the *wrong class* if the network is confident of one other class in most of it, and
    *invented* if it predicts a defect in less than a tenth of it; few networks are as sure of background there as
    elsewhere, so the margin alone says how sure they are. Of any other region the outlines are compared. A confident
    defect on labelled background is *missing* unless most of it hugs a labelled defect.

    Args:
        pixels: Label and probabilities.
        suggested: What ``suggested_classes`` returns for them, uint8 (h, w).
    """
    predicted = np.where(pixels.labelled == IGNORE_INDEX, 0, pixels.levels.argmax(axis=2)).astype(np.uint8)
    by_confidence, by_prediction = margins(pixels, suggested), margins(pixels, predicted)
    found = []
    for index, window, region in labelled_regions(pixels.labelled, pixels.levels.shape[2]):
        if (area := int(region.sum())) < SMALLEST:
            continue
        votes = np.bincount(suggested[window][region], minlength=pixels.levels.shape[2])
        others = votes.copy()
        others[[0, index]] = 0
        seen = int((predicted[window][region] > 0).sum())
        if others.max() > MOST_OF_REGION * area:
            other = int(others.argmax())
            found.append(_contradiction(WRONG_CLASS, (index, other), window, region, suggested, by_confidence))
        elif seen < LEAST_SEEN * area:
            found.append(_contradiction(INVENTED, (index, 0), window, region, predicted, by_prediction))
        elif (edge := _edge(index, window, region, pixels.labelled, predicted, by_prediction)) is not None:
            found.append(edge)
    return found + _missing(pixels.labelled, suggested, by_confidence)


def _contradiction(
    kind: str,
    classes: tuple[int, int],
    window: tuple[slice, slice],
    region: Bools,
    suggested: UInt8Array,
    margin: npt.NDArray[np.float32],
) -> Contradiction:
    contradicted = region & (suggested[window] == classes[1])  # for INVENTED, what is predicted
    mean = float(margin[window][contradicted].mean())
    return Contradiction(kind, *classes, _box(window), int(contradicted.sum()), max(0.0, mean))


def _missing(labelled: UInt8Array, suggested: UInt8Array, margin: npt.NDArray[np.float32]) -> list[Contradiction]:
    """Return the confident defects on labelled background that are not about the edge of a labelled one."""
    unlabelled = (labelled == 0) & (suggested > 0)
    if not unlabelled.any():
        return []
    is_defect = (labelled > 0) & (labelled != IGNORE_INDEX)
    far = distance_transform_edt(~is_defect) > EDGE_BAND if is_defect.any() else np.ones(labelled.shape, dtype=bool)
    found = []
    numbered, _ = connected(unlabelled, structure=EIGHT_NEIGHBOURS)
    for number, window in enumerate(find_objects(numbered), start=1):
        region = numbered[window] == number
        area = int(region.sum())
        if area < SMALLEST or far[window][region].sum() <= MOST_OF_REGION * area:
            continue
        other = int(np.bincount(suggested[window][region]).argmax())
        mean = max(0.0, float(margin[window][region].mean()))
        found.append(Contradiction(MISSING, 0, other, _box(window), area, mean))
    return found


def _edge(
    index: int,
    window: tuple[slice, slice],
    region: Bools,
    labelled: UInt8Array,
    predicted: UInt8Array,
    margin: npt.NDArray[np.float32],
) -> Contradiction | None:
    """Compare the outline of a labelled region with that of what the network finds there, of any class.

    The distance is the mean over the pixels of both outlines of the distance to the other one (the average symmetric
    surface distance). None if they are equal, or the network finds nothing.
    """
    wide = tuple(_widened(part, side) for part, side in zip(window, labelled.shape, strict=True))
    own = np.zeros((wide[0].stop - wide[0].start, wide[1].stop - wide[1].start), dtype=bool)
    top, left = window[0].start - wide[0].start, window[1].start - wide[1].start
    own[top : top + region.shape[0], left : left + region.shape[1]] = region
    here = labelled[wide[0], wide[1]]
    others = (here > 0) & ~own  # other defects, and ignored pixels
    numbered, _ = connected((predicted[wide[0], wide[1]] > 0) & ~others, structure=EIGHT_NEIGHBOURS)
    touching = np.unique(numbered[own])
    seen = np.isin(numbered, touching[touching > 0])
    differs = own != seen
    if not seen.any() or not differs.any():
        return None
    distance = _mean_distance(_outline(own), _outline(seen))
    rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
    y0, x0 = wide[0].start + int(rows[0]), wide[1].start + int(columns[0])
    box = (x0, y0, wide[1].start + int(columns[-1]) + 1, wide[0].start + int(rows[-1]) + 1)
    mean = float(margin[wide[0], wide[1]][differs].mean())
    return Contradiction(LOOSE_EDGE, index, index, box, int(differs.sum()), max(0.0, mean), distance)


def _widened(part: slice, side: int) -> slice:
    around = max(2 * EDGE_BAND, round((part.stop - part.start) * MARGIN_AROUND))
    return slice(max(0, part.start - around), min(side, part.stop + around))


def _outline(region: Bools) -> Bools:
    """Return the pixels of a region with a neighbour outside; the end of the window is no outline."""
    return np.asarray(region & ~binary_erosion(region, border_value=1))


def _mean_distance(one: Bools, other: Bools) -> float:
    """Return the mean distance of both outlines to each other; 0 if one of them has no pixel."""
    if not one.any() or not other.any():
        return 0.0
    to_other, to_one = distance_transform_edt(~other)[one], distance_transform_edt(~one)[other]
    return float(np.concatenate([to_other, to_one]).mean())


def _box(window: tuple[slice, slice]) -> tuple[int, int, int, int]:
    rows, columns = window
    return columns.start, rows.start, columns.stop, rows.stop
