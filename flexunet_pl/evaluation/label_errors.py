"""Rank the labels of a data set that a cross-validated model contradicts with confidence."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.sizing import resize_nearest
from flexunet_pl.evaluation.held_out import HeldOut, predictions
from flexunet_pl.evaluation.label_pixels import (
    LabelledPixels,
    SelfConfidence,
    as_levels,
    confident_joint,
    mask_quality,
    suggested_classes,
)
from flexunet_pl.evaluation.label_regions import INVENTED, LOOSE_EDGE, Contradiction, contradictions, labelled_regions

MOST_OF_IMAGE = 50  # findings of one image
FEWEST_REGIONS = 5  # of a class with an own typical edge and size
SMALL_QUARTILE = 25  # regions as large as this percentile of the labelled ones count fully


@dataclass(frozen=True)
class LabelFinding:
    """A place in a mask that needs a look.

    Attributes:
        image: Image file, relative to the data set.
        mask: Mask file, relative to the data set.
        kind: missing defect, invented defect, wrong class or loose edge.
        labelled: Name of the class in the mask.
        suggested: Name of the class that the model is confident of; of a loose edge the labelled one.
        box: (x0, y0, x1, y1) in pixels of the image, x1 and y1 exclusive.
        area: Contradicting pixels, at the image's own size.
        score: 0..1; see :func:`score_of`.
        margin: Mean probability of the suggested class minus that of the label, 0..1.
        distance: Mean distance of the outlines in pixels of the image, None unless the edge is loose.
    """

    image: str
    mask: str
    kind: str
    labelled: str
    suggested: str
    box: tuple[int, int, int, int]
    area: int
    score: float
    margin: float
    distance: float | None = None


@dataclass(frozen=True)
class CheckedMask:
    """One image: file relative to the data set, quality of the whole mask 0..1, and the score of its worst finding."""

    image: str
    quality: float
    score: float
    findings: int


@dataclass(frozen=True)
class LabelCheck:
    """The result of a check.

    Attributes:
        findings: All of them, the worst first.
        images: All checked images, by their worst finding, then by the quality of the mask.
        thresholds: How sure the model is of each class where the mask has it: the mean probability, by name.
        joint: Pixels by label and confident suggestion, K rows of K.
        note: Which images were not checked and why, empty if all were.
        stored: Where the predictions are, by image.
    """

    findings: list[LabelFinding]
    images: list[CheckedMask]
    thresholds: dict[str, float]
    joint: list[list[int]]
    note: str
    stored: Mapping[str, Path]


class Typical:
    """What labelled regions of the set are usually like, by class index: area and distance of edges."""

    def __init__(self) -> None:
        """Start without regions."""
        self._areas: defaultdict[int, list[float]] = defaultdict(list)
        self._distances: defaultdict[int, list[float]] = defaultdict(list)

    def add_areas(self, index: int, areas: Iterable[float]) -> None:
        """Count labelled regions of a class by their area."""
        self._areas[index] += areas

    def add_distance(self, index: int, distance: float) -> None:
        """Count the edge of a labelled region of a class."""
        self._distances[index].append(distance)

    def small_area(self, index: int) -> float:
        """Return the lower quartile of the areas of a class, of all classes where it has few regions."""
        return float(np.percentile(_of_class(self._areas, index), SMALL_QUARTILE))

    def distance(self, index: int) -> float:
        """Return the median distance of the edges of a class, of all classes where it has few."""
        return float(np.median(_of_class(self._distances, index)))


def score_of(one: Contradiction, typical: Typical) -> float:
    """Return how much a contradiction needs a look, 0..1.

    For a loose edge at a mean distance d: margin * (1 - d_0 / d), 0 at and below the set's typical distance d_0. For
    all other kinds: margin * sqrt(min(1, area / a_0)), with a_0 for the area of a small labelled region of the class.
    """
    if one.kind == LOOSE_EDGE:
        usual = typical.distance(one.labelled)
        return one.margin * (1 - usual / one.distance) if one.distance > usual else 0.0
    index = one.labelled if one.kind == INVENTED else one.suggested
    return one.margin * float(np.sqrt(min(1.0, one.area / typical.small_area(index))))


def check_labels(held_out: HeldOut, data: Path, palette: Palette, scratch: Path) -> LabelCheck:
    """Compare every mask with the prediction of a network that has not trained on it.

    Memory does not grow with the number of images; predictions wait in the folder ``scratch``.

    Raises:
        UserError: If a file cannot be read, sizes differ, or a network has other classes than the palette.
    """
    stored: dict[str, Path] = {}
    confidence, typical, count = SelfConfidence(len(palette)), Typical(), len(held_out.pairs)
    for number, (pair, found) in enumerate(progress(predictions(held_out, palette), "Predicting", count)):
        if found.probabilities is None:
            raise ValueError("a network gives probabilities")
        mask_index, _ = read_mask(pair.mask, palette, antialiased=True)
        if mask_index.shape != found.image.shape[:2]:
            sizes = " and ".join(f"{height} x {width}" for height, width in (found.image.shape[:2], mask_index.shape))
            raise UserError(f"{pair.image}: image and mask differ in size (height x width: {sizes}); mend this first")
        height, width = mask_index.shape
        labelled = resize_nearest(mask_index, found.probabilities.shape[:2])
        pixels = LabelledPixels(labelled, as_levels(found.probabilities), (height, width))
        confidence.add(pixels)
        for index, _, region in labelled_regions(labelled, len(palette)):
            typical.add_areas(index, [float(region.sum())])
        stored[pair.image.relative_to(data).as_posix()] = store(pixels, scratch / f"{number}.npz")
    return _ranked(held_out, data, palette, stored, confidence.thresholds, typical)


def _ranked(
    held_out: HeldOut,
    data: Path,
    palette: Palette,
    stored: Mapping[str, Path],
    thresholds: npt.NDArray[np.float64],
    typical: Typical,
) -> LabelCheck:
    joint = np.zeros((len(palette), len(palette)), dtype=np.int64)
    raw: list[tuple[Pair, tuple[float, float], list[Contradiction], float]] = []
    for pair in progress(held_out.pairs, "Comparing", len(held_out.pairs)):
        pixels = load(stored[pair.image.relative_to(data).as_posix()])
        suggested = suggested_classes(pixels, thresholds)
        joint += confident_joint(pixels.labelled, suggested, len(palette))
        found = contradictions(pixels, suggested)
        for one in found:
            if one.kind == LOOSE_EDGE:
                typical.add_distance(one.labelled, one.distance)
        height, width = pixels.labelled.shape
        raw.append((pair, (pixels.size[0] / height, pixels.size[1] / width), found, mask_quality(pixels)))
    findings: list[LabelFinding] = []
    images: list[CheckedMask] = []
    for pair, scale, found, quality in raw:
        scored = ((score_of(one, typical), one) for one in found)
        mine = [_finding(pair, data, palette, scale, score, one) for score, one in scored if round(score, 4) > 0]
        mine = sorted(mine, key=_order)[:MOST_OF_IMAGE]
        findings += mine
        worst = mine[0].score if mine else 0.0
        images.append(CheckedMask(pair.image.relative_to(data).as_posix(), round(quality, 4), worst, len(mine)))
    return LabelCheck(
        findings=sorted(findings, key=_order),
        images=sorted(images, key=lambda one: (-one.score, one.quality, one.image)),
        thresholds={name: round(float(value), 4) for name, value in zip(palette.names, thresholds, strict=True)},
        joint=joint.tolist(),
        note=held_out.note,
        stored=stored,
    )


def _finding(
    pair: Pair, data: Path, palette: Palette, scale: tuple[float, float], score: float, one: Contradiction
) -> LabelFinding:
    down, across = scale
    x0, y0, x1, y1 = one.box
    box = (int(x0 * across), int(y0 * down), int(np.ceil(x1 * across)), int(np.ceil(y1 * down)))
    return LabelFinding(
        image=pair.image.relative_to(data).as_posix(),
        mask=pair.mask.relative_to(data).as_posix(),
        kind=one.kind,
        labelled=palette.names[one.labelled],
        suggested=palette.names[one.suggested],
        box=box,
        area=max(1, round(one.area * down * across)),
        score=round(score, 4),
        margin=round(one.margin, 4),
        distance=round(one.distance * float(np.sqrt(down * across)), 2) if one.kind == LOOSE_EDGE else None,
    )


def _order(one: LabelFinding) -> tuple[Any, ...]:
    return -one.score, one.image, one.box, one.kind


def _of_class(values: Mapping[int, Sequence[float]], index: int) -> Sequence[float]:
    """Return the values of a class, or of all classes if it has few; 1 if there is none at all."""
    own = values.get(index, ())
    if len(own) >= FEWEST_REGIONS:
        return own
    return [value for part in values.values() for value in part] or [1.0]


def store(pixels: LabelledPixels, path: Path) -> Path:
    """Write label and probabilities of an image to a file, which takes about a twentieth of the array."""
    np.savez_compressed(path, labelled=pixels.labelled, levels=pixels.levels, size=np.array(pixels.size))
    return path


def load(path: Path) -> LabelledPixels:
    """Read what :func:`store` wrote."""
    with np.load(path, allow_pickle=False) as content:
        height, width = content["size"].tolist()
        return LabelledPixels(content["labelled"], content["levels"], (height, width))
