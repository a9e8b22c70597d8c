"""Find leaks between splits: sources, copies and near-duplicates in several splits."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.cluster.hierarchy import DisjointSet

from flexunet_pl.core.types import Problem
from flexunet_pl.curation.audit.inspection import NOTE, WARNING, Inspection
from flexunet_pl.curation.duplicates import NearDuplicates
from flexunet_pl.data.layout import SPLITS


@dataclass(frozen=True)
class Leaks:
    """Sources in several splits.

    Attributes:
        findings: One for each, and for copies within a split.
        pairs: The two nearest files of each leak, by position, for pictures.
        shares: For each split, by the other splits: how many of its images have a relative there.
    """

    findings: list[Problem]
    pairs: list[tuple[int, int]]
    shares: dict[str, dict[str, int]]


def find_leaks(
    items: Sequence[Inspection], parts: Sequence[str], groups: Sequence[str], alike: NearDuplicates
) -> Leaks:
    """Find sources, copies and near-duplicates in several splits or folds.

    ``parts`` has the split or fold of each item, ``groups`` its group from manifest and name, and ``alike`` the pairs
    of positions of different groups that look alike.
    """
    findings: list[Problem] = []
    pairs: list[tuple[int, int]] = []
    for name, members in _by(groups).items():
        found = _first_in_each(members, parts)
        if len(found) > 1:
            listed = _listed([items[index].file for index in found])
            message = f"source {name!r} is in {_listed(sorted(parts[index] for index in found))}: {listed}"
            findings.append(Problem(message, kind="leak", files=tuple(items[index].file for index in members)))
            pairs.append((found[0], found[1]))
    reported = {items[index].file for pair in pairs for index in pair}
    for members in _by([item.sha256 for item in items]).values():
        files = [items[index].file for index in members]
        found = _first_in_each(members, parts)
        if len(found) > 1 and not reported.issuperset(files):
            message = f"one picture, byte for byte, is in two splits: {_listed(files)}"
            findings.append(Problem(message, kind="leak", files=tuple(files)))
            pairs.append((found[0], found[1]))
        elif len(found) == 1 and len(files) > 1:
            message = f"one picture, byte for byte, under {len(files)} names: {_listed(files)}; remove all but one"
            findings.append(Problem(message, kind="duplicate", severity=WARNING, files=tuple(files)))
    for members, values in _look_alikes(alike):
        files = [items[index].file for index in members]
        found = _first_in_each(members, parts)
        likeness = " and ".join(f"{value:.2f}" for value in sorted({min(values), max(values)}))
        alike_text = f"{_listed(files)} look alike ({likeness})"
        if all(items[index].sha256 == items[members[0]].sha256 for index in members):
            continue
        if len(found) > 1:
            findings.append(Problem(f"{alike_text} in different splits", kind="leak", files=tuple(files)))
            pairs.append((found[0], found[1]))
        else:
            findings.append(
                Problem(f"{alike_text} under different names", kind="near-duplicate", severity=NOTE, files=tuple(files))
            )
    return Leaks(findings, pairs, _shares(items, groups, alike))


def _look_alikes(alike: NearDuplicates) -> list[tuple[list[int], list[float]]]:
    """Return the positions, sorted, of pictures that lead to each other by pairs, and the likeness of these pairs."""
    joined = DisjointSet(position for pair in alike.pairs for position in pair[:2])
    for first, second, _ in alike.pairs:
        joined.merge(first, second)
    return sorted(
        (sorted(subset), [value for first, _, value in alike.pairs if first in subset]) for subset in joined.subsets()
    )


def _shares(items: Sequence[Inspection], groups: Sequence[str], alike: NearDuplicates) -> dict[str, dict[str, int]]:
    """Count, for each split, the images that have a relative in each other split."""
    copies = [f"copy {item.sha256}" for item in items]
    joined = DisjointSet([*groups, *copies])
    for group, copy in zip(groups, copies, strict=True):
        joined.merge(group, copy)
    for first, second, _ in alike.pairs:
        joined.merge(groups[first], groups[second])
    splits_of: dict[str, set[str]] = {}
    for item, group in zip(items, groups, strict=True):
        splits_of.setdefault(joined[group], set()).add(item.split)
    present = [split for split in SPLITS if any(item.split == split for item in items)]
    shares = {split: {other: 0 for other in present if other != split} for split in present}
    for item, group in zip(items, groups, strict=True):
        for other in splits_of[joined[group]] - {item.split}:
            shares[item.split][other] += 1
    return shares


def _by(keys: Sequence[str]) -> Mapping[str, list[int]]:
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        positions[key].append(position)
    return positions


def _first_in_each(members: Sequence[int], parts: Sequence[str]) -> list[int]:
    """Return the first of the ascending positions in each part."""
    return sorted({parts[index]: index for index in reversed(members)}.values())


def _listed(words: Sequence[str], most: int = 4) -> str:
    """Write "a", "a and b", "a, b and c", or, of more than ``most``, "a, b, c, d and 3 more"."""
    *start, last = words if len(words) <= most else [*words[:most], f"{len(words) - most} more"]
    return f"{', '.join(start)} and {last}" if start else last
