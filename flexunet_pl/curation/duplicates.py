"""Find near-duplicate images: a perceptual hash proposes pairs, a correlation decides.

Exposure, a slightly other crop, size, mirroring and right-angle turns do not hide a picture from this search; a strong
warp or a free rotation does. The limits were chosen on the magnetic-tile pictures, see docs/data.md.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import DisjointSet

from flexunet_pl.curation.appearance import HASH_SIDE, ORIENTATIONS, Appearance, likeness

# Of 256 bits; unrelated pictures differ in 128 with a standard deviation of 8.
MOST_DIFFERENT_BITS = 80
LEAST_LIKENESS = 0.6
# Where parts lie in one pose, all pictures are alike though they show different parts. If alike pictures make one
# group out of this share of all groups (and more than so many), only practically identical ones count.
LARGEST_SHARE, LARGEST_COUNT = 0.25, 24
IDENTICAL_LIKENESS = 0.97
# The number of nearest candidates compared for each image.
CANDIDATES_EACH = 12
# Distances computed at a time, so that memory does not grow with the square of the pictures.
DISTANCES_AT_ONCE = 1 << 20

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of images that look alike.

    Attributes:
        pairs: (first, second, likeness 0..1) by position, sorted; first < second. Not every pair of alike pictures:
            enough of them to lead from each picture to all that are alike.
        look_alikes: How many pictures are so alike in pose that duplicates look the same as different parts.
    """

    pairs: list[tuple[int, int, float]]
    look_alikes: int


class Gallery(AbstractContextManager["Gallery"]):
    """The appearances of many pictures: hashes in memory (256 bytes each), thumbnails in a temporary file."""

    def __init__(self) -> None:
        """Open the temporary file, which vanishes with the gallery."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._bits: list[npt.NDArray[np.uint8]] = []
        self._places: list[tuple[int, tuple[int, ...], tuple[int, int]]] = []

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, appearance: Appearance | None) -> None:
        """Append a picture; None (one that could not be read) resembles nothing."""
        if appearance is None:
            appearance = Appearance(np.zeros((0, HASH_SIDE**2), dtype=bool), np.zeros((0, 0), dtype=np.uint8), (0, 0))
        self._bits.append(np.packbits(appearance.bits, axis=1))
        self._places.append((self._file.seek(0, 2), appearance.thumbnail.shape, appearance.size))
        self._file.write(appearance.thumbnail.tobytes())

    def near_duplicates(self, groups: Sequence[str]) -> NearDuplicates:
        """Find alike pictures of different groups; ``groups`` has the name of each picture's group."""
        found: dict[tuple[int, int], float] = {}
        joined = DisjointSet(groups)
        for first, second, orientation in self._candidates(groups):
            if not joined.connected(groups[first], groups[second]):
                value = likeness(self._appearance(first), self._appearance(second), orientation)
                if value >= LEAST_LIKENESS:
                    found[first, second] = value
                    joined.merge(groups[first], groups[second])
        crowded = _crowded(groups, joined)
        pairs = [
            (first, second, round(value, 3))
            for (first, second), value in sorted(found.items())
            if first not in crowded or value >= IDENTICAL_LIKENESS
        ]
        return NearDuplicates(pairs, len(crowded))

    def _appearance(self, index: int) -> Appearance:
        place, shape, size = self._places[index]
        self._file.seek(place)
        thumbnail = np.frombuffer(self._file.read(int(np.prod(shape))), dtype=np.uint8).reshape(shape)
        return Appearance(np.unpackbits(self._bits[index], axis=1).astype(bool), thumbnail, size)

    def _candidates(self, groups: Sequence[str]) -> list[tuple[int, int, int]]:
        """Return (first, second, orientation of the second) of different groups with near hashes, nearest first."""
        places = np.array([index for index, bits in enumerate(self._bits) if len(bits)], dtype=np.int64)
        if len(places) < 2:
            return []
        packed = np.stack([self._bits[index] for index in places])
        number = {group: value for value, group in enumerate(dict.fromkeys(groups))}
        ids = np.array([number[groups[index]] for index in places])
        first, second, orientation, distance = (np.concatenate(part) for part in zip(*_near(packed, ids), strict=True))
        order = np.lexsort((second, first, distance))
        columns = (places[first[order]], places[second[order]], orientation[order])
        return list(zip(*(column.tolist() for column in columns), strict=True))


def name_of_joined(joined: DisjointSet) -> dict[str, str]:
    """Return for each group the name of what it has become: the first of the joined names in alphabetical order."""
    return {group: min(subset) for subset in joined.subsets() for group in subset}


def _crowded(groups: Sequence[str], joined: DisjointSet) -> set[int]:
    """Return the positions of pictures whose joined group has too many parts to be one thing seen several times."""
    limit = max(LARGEST_COUNT, LARGEST_SHARE * len(set(groups)))
    large = {group for subset in joined.subsets() if len(subset) > limit for group in subset}
    return {position for position, group in enumerate(groups) if group in large}


def _near(packed: npt.NDArray[np.uint8], ids: Numbers) -> Iterator[tuple[Numbers, Numbers, Numbers, Numbers]]:
    """Yield (first, second, orientation, distance) of pairs first < second of different ids with near hashes.

    ``packed`` has the hashes in eight orientations, uint8 (N, 8, 32), ``ids`` the numbers of the groups (N).
    """
    upright = np.unpackbits(packed[:, 0], axis=1).astype(np.float32)
    total = upright.sum(axis=1)
    step = max(1, DISTANCES_AT_ONCE // len(packed))
    for start in range(0, len(packed), step):
        rows = np.arange(start, min(start + step, len(packed)))
        distance = np.full((len(rows), len(packed)), np.inf, dtype=np.float32)
        orientation = np.zeros(distance.shape, dtype=np.uint8)
        for number in range(ORIENTATIONS):
            turned = np.unpackbits(packed[:, number], axis=1).astype(np.float32)
            differing = total[rows, None] + turned.sum(axis=1) - 2 * (upright[rows] @ turned.T)
            orientation[differing < distance] = number
            np.minimum(distance, differing, out=distance)
        distance[(np.arange(len(packed)) <= rows[:, None]) | (ids[rows, None] == ids)] = np.inf
        kept = min(CANDIDATES_EACH, len(packed) - 1)
        columns = np.argpartition(distance, kept, axis=1)[:, :kept]
        row, column = np.nonzero(np.take_along_axis(distance, columns, axis=1) <= MOST_DIFFERENT_BITS)
        second = columns[row, column]
        yield rows[row], second, orientation[row, second].astype(np.int64), distance[row, second].astype(np.int64)
