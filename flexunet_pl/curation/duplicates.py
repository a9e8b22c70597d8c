"""Find near-duplicate images: a perceptual hash proposes pairs, a correlation decides.

Exposure, a slightly other crop, size, mirroring and right-angle turns do not hide a picture from this search; a strong
warp or a free rotation does. Where different sources look alike by nature, only copies count, which share their noise.
The limits were chosen on the data sets that docs/data.md names.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import DisjointSet

from flexunet_pl.curation.appearance import HASH_SIDE, ORIENTATIONS, Appearance, fine_likeness, likeness
from flexunet_pl.curation.looks import LEAST_LIKENESS, MOST_ALIKE, Looks, copy_limit, too_many
from flexunet_pl.data.palette import UInt8Array

# Of 256 bits; unrelated pictures differ in 128 with a standard deviation of 8.
MOST_DIFFERENT_BITS = 80
# The number of nearest candidates compared for each image, and in fine structure.
CANDIDATES_EACH, FINE_EACH = 12, 4
# How many pictures, and pairs of pictures, are sampled to see how alike different sources are.
SAMPLED_PICTURES, SAMPLED_PAIRS = 200, 200
# Distances computed at a time, so that memory does not grow with the square of the pictures.
DISTANCES_AT_ONCE = 1 << 20
# Images kept in memory while fine structure is compared.
IMAGES_IN_MEMORY = 64

# The orientation that undoes each of the eight: two of them are turns by 90 degrees, to the left and to the right.
INVERSE = np.array([0, 1, 2, 3, 4, 6, 5, 7])

Numbers = npt.NDArray[np.int64]


Candidate = tuple[int, int, int]  # first, second, orientation of the second
Read = Callable[[], UInt8Array]


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of images that look alike.

    Attributes:
        pairs: (first, second, likeness 0..1) by position, sorted; first < second. Not every pair of alike pictures:
            enough of them to lead from each picture to all that are alike.
        looks: Whether looks tell the sources apart, and what counts as alike.
    """

    pairs: list[tuple[int, int, float]]
    looks: Looks = field(default_factory=Looks)


class Gallery(AbstractContextManager["Gallery"]):
    """The appearances of many pictures: hashes in memory (256 bytes each), thumbnails in a temporary file."""

    def __init__(self) -> None:
        """Open the temporary file, which vanishes with the gallery."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._bits: list[npt.NDArray[np.uint8]] = []
        self._places: list[tuple[int, tuple[int, ...], tuple[int, int]]] = []
        self._read: list[Read] = []

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, appearance: Appearance | None, read: Read) -> None:
        """Append a picture; None (one that could not be read) resembles nothing. ``read`` returns it (H, W, C)."""
        if appearance is None:
            appearance = Appearance(np.zeros((0, HASH_SIDE**2), dtype=bool), np.zeros((0, 0), dtype=np.uint8), (0, 0))
        self._bits.append(np.packbits(appearance.bits, axis=1))
        self._places.append((self._file.seek(0, 2), appearance.thumbnail.shape, appearance.size))
        self._file.write(appearance.thumbnail.tobytes())
        self._read.append(read)

    def near_duplicates(self, names: Sequence[str], groups: Sequence[str]) -> NearDuplicates:
        """Find alike pictures of different groups, and judge whether looks tell these apart.

        Args:
            names: The unique name of each picture.
            groups: The name of each picture's group.
        """
        candidates = self._candidates(groups)
        found, joined = self._join(candidates, groups)
        clusters = [joined[group] for group in groups]
        nearest, similar = self._look_alikes(groups, clusters)
        everywhere = nearest >= MOST_ALIKE
        if everywhere:
            similar = set(range(len(groups)))
        pairs = [pair for pair in found if pair[0] not in similar]
        limit = self._copy_limit(groups, [index for index in sorted(similar) if len(self._bits[index])])
        pairs += self._copies([one for one in candidates if one[0] in similar], groups, limit)
        looks = Looks(round(nearest, 3), everywhere, frozenset(names[index] for index in similar), limit)
        return NearDuplicates(sorted(pairs), looks)

    def new_duplicates(
        self, names: Sequence[str], groups: Sequence[str], is_new: Sequence[bool], looks: Looks
    ) -> NearDuplicates:
        """Find pictures that resemble one of a different group, for pairs with a new one, judged as before."""
        candidates = self._candidates(groups, {index for index, new in enumerate(is_new) if new})
        resembling = [one for one in candidates if looks.resembles_others(names[one[0]], names[one[1]])]
        # What is like a look-alike is one, too.
        similar = {index for one in resembling if self._likeness(*one) >= LEAST_LIKENESS for index in one[:2]}
        copies = [one for one in candidates if one[0] in similar or one[1] in similar]
        found, _ = self._join([one for one in candidates if one[0] not in similar and one[1] not in similar], groups)
        return NearDuplicates(sorted([*found, *self._copies(copies, groups, looks.copy_likeness)]), looks)

    def _join(
        self, candidates: Sequence[Candidate], groups: Sequence[str]
    ) -> tuple[list[tuple[int, int, float]], DisjointSet]:
        """Return the pairs that look alike, and the groups that they join."""
        found = []
        joined = DisjointSet(groups)
        for first, second, orientation in candidates:
            if not joined.connected(groups[first], groups[second]):
                value = self._likeness(first, second, orientation)
                if value >= LEAST_LIKENESS:
                    found.append((first, second, round(value, 3)))
                    joined.merge(groups[first], groups[second])
        return found, joined

    def _look_alikes(self, groups: Sequence[str], clusters: Sequence[str]) -> tuple[float, set[int]]:
        """Return how alike a picture is to the nearest of another cluster, and the pictures in doubtful clusters."""
        parts: dict[str, set[str]] = {}
        for group, cluster in zip(groups, clusters, strict=True):
            parts.setdefault(cluster, set()).add(group)
        several = {cluster for cluster, members in parts.items() if len(members) > 1}
        step = max(1, len(groups) // SAMPLED_PICTURES)
        sampled = set(range(0, len(groups), step))
        wanted = sampled | {index for index, cluster in enumerate(clusters) if cluster in several}
        nearest = dict.fromkeys(wanted, 0.0)
        for first, second, orientation in self._candidates(clusters, wanted, most_bits=HASH_SIDE**2):
            value = self._likeness(first, second, orientation)
            for index in (first, second):
                if index in nearest:
                    nearest[index] = max(nearest[index], value)
        similar = set()
        for cluster in several:
            members = [index for index, other in enumerate(clusters) if other == cluster]
            close = float(np.median([nearest[index] for index in members])) >= MOST_ALIKE
            if close or too_many(len(parts[cluster]), len(set(groups))):
                similar |= set(members)
        return float(np.median([nearest[index] for index in sampled] or [0.0])), similar

    def _copy_limit(self, groups: Sequence[str], similar: Sequence[int]) -> float:
        """Return from which likeness of fine structure on look-alikes are copies, from pairs of different groups."""
        rng = np.random.default_rng(0)
        pairs = {
            (min(one), max(one))
            for one in (rng.integers(len(similar), size=(4 * SAMPLED_PAIRS, 2)).tolist() if similar else [])
        }
        different = [(similar[one], similar[two]) for one, two in sorted(pairs) if one != two]
        different = [pair for pair in different if groups[pair[0]] != groups[pair[1]]]
        rng.shuffle(different)
        image = lru_cache(IMAGES_IN_MEMORY)(lambda index: self._read[index]())
        return copy_limit(
            [
                fine_likeness(image(first), image(second), self._best_orientation(first, second))
                for first, second in different[:SAMPLED_PAIRS]
            ]
        )

    def _copies(
        self, candidates: Sequence[Candidate], groups: Sequence[str], limit: float
    ) -> list[tuple[int, int, float]]:
        """Return the pairs whose fine structure is alike, too; for each picture, the most alike pairs are compared."""
        image = lru_cache(IMAGES_IN_MEMORY)(lambda index: self._read[index]())
        valued = sorted(((self._likeness(*one), *one) for one in candidates), key=lambda one: (-one[0], one[1:]))
        compared = dict.fromkeys(range(len(groups)), 0)
        joined = DisjointSet(groups)
        found = []
        for value, first, second, orientation in valued:
            is_done = min(compared[first], compared[second]) >= FINE_EACH
            if is_done or value < LEAST_LIKENESS or joined.connected(groups[first], groups[second]):
                continue
            compared[first] += 1
            compared[second] += 1
            if fine_likeness(image(first), image(second), orientation) >= limit:
                found.append((first, second, round(value, 3)))
                joined.merge(groups[first], groups[second])
        return found

    def _likeness(self, first: int, second: int, orientation: int) -> float:
        return likeness(self._appearance(first), self._appearance(second), orientation)

    def _best_orientation(self, first: int, second: int) -> int:
        return max(range(ORIENTATIONS), key=lambda orientation: self._likeness(first, second, orientation))

    def _appearance(self, index: int) -> Appearance:
        place, shape, size = self._places[index]
        self._file.seek(place)
        thumbnail = np.frombuffer(self._file.read(int(np.prod(shape))), dtype=np.uint8).reshape(shape)
        return Appearance(np.unpackbits(self._bits[index], axis=1).astype(bool), thumbnail, size)

    def _candidates(
        self, groups: Sequence[str], rows: Set[int] | None = None, most_bits: int = MOST_DIFFERENT_BITS
    ) -> list[Candidate]:
        """Return pairs of different groups with near hashes, nearest first; with ``rows``, those of these pictures."""
        places = np.array([index for index, bits in enumerate(self._bits) if len(bits)], dtype=np.int64)
        if len(places) < 2:
            return []
        packed = np.stack([self._bits[index] for index in places])
        number = {group: value for value, group in enumerate(dict.fromkeys(groups))}
        ids = np.array([number[groups[index]] for index in places])
        wanted = np.array([place for place, index in enumerate(places) if rows is None or index in rows], dtype=int)
        if not len(wanted):
            return []
        near = _near(packed, ids, wanted, most_bits)
        first, second, orientation, distance = (np.concatenate(part) for part in zip(*near, strict=True))
        order = np.lexsort((second, first, distance))
        columns = (places[first[order]], places[second[order]], orientation[order])
        return list(dict.fromkeys(zip(*(column.tolist() for column in columns), strict=True)))


def name_of_joined(joined: DisjointSet) -> dict[str, str]:
    """Return for each group the name of what it has become: the first of the joined names in alphabetical order."""
    return {group: min(subset) for subset in joined.subsets() for group in subset}


def _near(
    packed: npt.NDArray[np.uint8], ids: Numbers, wanted: Numbers, most_bits: int
) -> Iterator[tuple[Numbers, Numbers, Numbers, Numbers]]:
    """Yield (first, second, orientation, distance) of the nearest pictures of other ids, first < second.

    ``packed`` has the hashes in eight orientations, uint8 (N, 8, 32), ``ids`` the numbers of the groups (N), and
    ``wanted`` the pictures whose nearest ones are searched.
    """
    upright = np.unpackbits(packed[:, 0], axis=1).astype(np.float32)
    total = upright.sum(axis=1)
    kept = min(CANDIDATES_EACH, len(packed) - 1)
    step = max(1, DISTANCES_AT_ONCE // len(packed))
    for start in range(0, len(wanted), step):
        rows = wanted[start : start + step]
        distance = np.full((len(rows), len(packed)), np.inf, dtype=np.float32)
        orientation = np.zeros(distance.shape, dtype=np.uint8)
        for number in range(ORIENTATIONS):
            turned = np.unpackbits(packed[:, number], axis=1).astype(np.float32)
            differing = total[rows, None] + turned.sum(axis=1) - 2 * (upright[rows] @ turned.T)
            orientation[differing < distance] = number
            np.minimum(distance, differing, out=distance)
        distance[ids[rows, None] == ids] = np.inf
        columns = np.argpartition(distance, kept, axis=1)[:, :kept]
        row, column = np.nonzero(np.take_along_axis(distance, columns, axis=1) <= most_bits)
        second = columns[row, column]
        found, turn, bits = rows[row], orientation[row, second].astype(np.int64), distance[row, second].astype(np.int64)
        # Swapped, the picture that was turned is upright: the turn has to be undone.
        swap = found > second
        turn[swap] = INVERSE[turn[swap]]
        yield np.where(swap, second, found), np.where(swap, found, second), turn, bits
