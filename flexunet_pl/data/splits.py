"""Assign groups (all images of one source) to splits or folds, stratified by class."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError

# The class of defect-free images, which are spread over the splits like any other class.
DEFECT_FREE = "(defect-free)"
# Where a class with too few sources for all splits goes: it must be learned first, then tested.
SPLIT_PRIORITY = ("train", "test", "valid")
# Swapping tries all pairs of groups; with more groups than this, moving single groups is fine enough.
MOST_GROUPS_TO_SWAP = 250
# A class missing where it has sources for every part outweighs any misfit of sizes; that outweighs a class of few
# sources missing where it should be; and that any unevenness.
WEIGHT_MISSING, WEIGHT_SIZE, WEIGHT_MISSING_RARE = 1e9, 1e6, 1e3
# Unevenness is a sum of squared shares: one image of a class of a hundred is 1e-4, and less is not worth a move.
LEAST_GAIN = 1e-4

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Images that must stay in one split.

    Attributes:
        name: Unique.
        images: How many images it has.
        classes: How many of them show each class; images without a defect count for DEFECT_FREE.
    """

    name: str
    images: int
    classes: Mapping[str, int] = field(default_factory=dict)


def make_groups(group_of: Mapping[str, str], classes_of: Mapping[str, Collection[str]]) -> list[Group]:
    """Return the groups, sorted by name, from the group and foreground classes (none: defect-free) of each file."""
    images = Counter(group_of.values())
    classes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for file, name in group_of.items():
        classes[name].update(classes_of[file] or [DEFECT_FREE])
    return [Group(name, images[name], classes[name]) for name in sorted(images)]


def split_groups(
    groups: Sequence[Group], fractions: Mapping[str, float], seed: int, fixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Assign groups to splits.

    In this order: no split is empty, and every class with as many groups as there are splits is in each of them; the
    number of images is met within the size of the largest group; a class with fewer groups is in the first of train,
    test, valid; the images of every class are shared out in the same proportion.

    Args:
        groups: Each with a unique name.
        fractions: The share of images of each split, such as {"train": 0.6, "valid": 0.2, "test": 0.2}; they sum to
            1, and a split with share 0 stays empty.
        seed: Chooses among equally good ways.
        fixed: Groups whose split is given.

    Returns:
        The split of each group.

    Raises:
        UserError: If the fractions are out of range.
    """
    if any(share < 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        shares = ", ".join(f"{split} {share:g}" for split, share in fractions.items())
        raise UserError(f"fractions of the splits: {shares}; each must be 0 or more and their sum 1")
    parts = [split for split, share in fractions.items() if share > 0]
    parts += sorted({split for split in (fixed or {}).values() if split not in parts})
    priority = sorted(parts, key=lambda part: (SPLIT_PRIORITY.index(part) if part in SPLIT_PRIORITY else 9, part))
    assignment = _Assignment(
        groups, [fractions.get(part, 0.0) for part in parts], [parts.index(part) for part in priority]
    )
    return _named(assignment, parts, seed, fixed or {})


def fold_groups(
    groups: Sequence[Group], folds: int, seed: int, fixed: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Assign groups to ``folds`` parts of equal size, numbered from 0, under the rules of :func:`split_groups`.

    Raises:
        UserError: If there are fewer than two folds, or fewer groups than folds.
    """
    if folds < 2 or folds > len(groups):
        raise UserError(
            f"folds={folds} with {len(groups)} sources outside the test split; choose 2 to {max(2, len(groups))} folds"
        )
    assignment = _Assignment(groups, [1 / folds] * folds, list(range(folds)), only_full=True)
    known = {name: str(fold) for name, fold in (fixed or {}).items() if fold < folds}
    fold_of = _named(assignment, [str(fold) for fold in range(folds)], seed, known)
    return {name: int(fold) for name, fold in fold_of.items()}


def absent_classes(groups: Sequence[Group], part_of: Mapping[str, str], parts: Sequence[str]) -> list[tuple[str, str]]:
    """Return every (class, part) such that the class has a group for each part and is missing in this one."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for group in groups:
        for label in group.classes:
            found[label].add(part_of[group.name])
    sources = Counter(label for group in groups for label in group.classes)
    return [
        (label, part)
        for label in sorted(found)
        for part in parts
        if part not in found[label] and sources[label] >= len(parts)
    ]


def _named(assignment: "_Assignment", parts: Sequence[str], seed: int, fixed: Mapping[str, str]) -> dict[str, str]:
    fixed_parts = {index: parts.index(fixed[name]) for index, name in enumerate(assignment.names) if name in fixed}
    assignment.greedy(np.random.default_rng(seed), fixed_parts)
    assignment.improve(frozenset(fixed_parts))
    return {name: parts[int(part)] for name, part in zip(assignment.names, assignment.part_of, strict=True)}


class _Assignment:
    """Groups being assigned: rows are groups sorted by name, columns are classes and, last, all images."""

    def __init__(
        self, groups: Sequence[Group], shares: Sequence[float], priority: list[int], *, only_full: bool = False
    ) -> None:
        ordered = sorted(groups, key=lambda group: group.name)
        self.names = [group.name for group in ordered]
        labels = sorted({label for group in ordered for label in group.classes})
        columns = [[group.classes.get(label, 0) for label in labels] + [group.images] for group in ordered]
        self.counts: Floats = np.array(columns, dtype=np.float64).reshape(len(ordered), len(labels) + 1)
        self.shows = self.counts[:, :-1] > 0
        self.target: Floats = np.outer(shares, self.counts.sum(axis=0))
        self.scale = np.maximum(self.counts.sum(axis=0), 1)
        self.largest = self.counts[:, -1].max(initial=0)
        self.required: Floats = np.zeros_like(self.target)
        for column, sources in enumerate((self.counts > 0).sum(axis=0)):
            if sources >= len(shares):
                self.required[:, column] = WEIGHT_MISSING
            elif not only_full:
                self.required[priority[: int(sources)], column] = WEIGHT_MISSING_RARE
        self.part_of = np.full(len(ordered), -1)

    def greedy(self, rng: np.random.Generator, fixed: Mapping[int, int]) -> None:
        """Assign class by class, the one with the fewest groups first, to the part that needs it most."""
        held = np.zeros_like(self.target)
        waiting = np.ones(len(self.names), dtype=bool)

        def give(index: int, part: int) -> None:
            self.part_of[index] = part
            held[part] += self.counts[index]
            waiting[index] = False

        for index, part in fixed.items():
            give(index, part)
        shuffled = rng.permutation(len(self.names))
        while waiting.any():
            left = self.shows[waiting].sum(axis=0)
            column = int(np.where(left > 0, left, np.inf).argmin()) if left.any() else -1
            of_class = waiting & (self.shows[:, column] if column >= 0 else True)
            queue = sorted(shuffled[of_class[shuffled]], key=lambda index: -self.counts[index, -1])
            for place, index in enumerate(queue):
                need = self.target - held
                urgent = need[:, column].copy()
                if column >= 0:
                    lacking = (self.required[:, column] > 0) & (held[:, column] == 0)
                    if lacking.sum() >= len(queue) - place:
                        urgent[~lacking] = -np.inf
                give(int(index), int(np.lexsort((need[:, -1], urgent))[-1]))

    def improve(self, fixed: frozenset[int]) -> None:
        """Move or swap groups while that lowers the cost."""
        free = np.array([index not in fixed for index in range(len(self.names))], dtype=bool)
        while free.any() and len(self.target) > 1 and (self._move(free) or self._swap(free)):
            pass

    def _move(self, free: npt.NDArray[np.bool_]) -> bool:
        held, cost = self._state()
        part_of = self.part_of
        leaving = self._cost(part_of, held[part_of] - self.counts) - cost[part_of]
        gain = np.stack(
            [
                leaving + self._cost(np.full_like(part_of, part), held[part] + self.counts) - cost[part]
                for part in range(len(held))
            ],
            axis=1,
        )
        gain[np.arange(len(part_of)), part_of] = np.inf
        gain[~free] = np.inf
        index, part = np.unravel_index(int(gain.argmin()), gain.shape)
        if gain[index, part] >= -LEAST_GAIN:
            return False
        self.part_of[index] = part
        return True

    def _swap(self, free: npt.NDArray[np.bool_]) -> bool:
        if len(self.names) > MOST_GROUPS_TO_SWAP:
            return False
        held, cost = self._state()
        best, pair = -LEAST_GAIN, (-1, -1)
        for one in np.flatnonzero(free):
            others = np.flatnonzero(free & (self.part_of != self.part_of[one]))
            others = others[others > one]
            if not len(others):
                continue
            here, there = np.full(len(others), self.part_of[one]), self.part_of[others]
            change = self.counts[others] - self.counts[one]
            gain = self._cost(here, held[here] + change) - cost[here]
            gain += self._cost(there, held[there] - change) - cost[there]
            if gain.min() < best:
                best, pair = float(gain.min()), (int(one), int(others[gain.argmin()]))
        if pair[0] < 0:
            return False
        self.part_of[list(pair)] = self.part_of[list(pair)[::-1]]
        return True

    def _state(self) -> tuple[Floats, Floats]:
        """Return what each part holds (P, K + 1) and what it costs (P)."""
        held = np.zeros_like(self.target)
        np.add.at(held, self.part_of, self.counts)
        return held, self._cost(np.arange(len(held)), held)

    def _cost(self, parts: npt.NDArray[np.int64], held: Floats) -> Floats:
        """Return the cost (N) of parts (N), numbers of parts, that hold ``held`` (N, K + 1)."""
        off = held - self.target[parts]
        missing = (self.required[parts] * (held < 0.5)).sum(axis=1)
        misfit = np.maximum(np.abs(off[:, -1]) - self.largest, 0) / self.scale[-1]
        uneven: Floats = ((off / self.scale) ** 2).sum(axis=1)
        uneven += missing + misfit * WEIGHT_SIZE
        return uneven
