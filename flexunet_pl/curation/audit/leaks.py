"""What two splits know of each other: sources, copies and near-duplicates on both sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexunet_pl.curation.audit.inspection import ERROR, NOTE, WARNING, Finding, Inspection
from flexunet_pl.curation.duplicates import Joined, NearDuplicates
from flexunet_pl.data.layout import SPLITS


@dataclass(frozen=True)
class Leaks:
    """Sources that are on both sides of a split.

    Attributes:
        findings: One for each, and for copies within a split.
        pairs: The two nearest files of each leak, by position, to be shown.
        shares: For each split, by the other splits: how many of its images have a relative there.
    """

    findings: list[Finding]
    pairs: list[tuple[int, int]]
    shares: dict[str, dict[str, int]]


def find_leaks(
    items: Sequence[Inspection], parts: Sequence[str], groups: Sequence[str], alike: NearDuplicates
) -> Leaks:
    """Find what is on both sides.

    Args:
        items: The images.
        parts: The split of each, or its fold.
        groups: The group of each, from the manifest and its name.
        alike: Pairs of positions that look alike, of different groups.
    """
    findings: list[Finding] = []
    pairs: list[tuple[int, int]] = []
    for name, members in _by(groups).items():
        found = _first_in_each(members, parts)
        if len(found) > 1:
            listed = _listed([items[index].file for index in found])
            message = f"source {name!r} is in {_listed(sorted(parts[index] for index in found))}: {listed}"
            findings.append(_leak(message, [items[index].file for index in members]))
            pairs.append((found[0], found[1]))
    told = {items[index].file for pair in pairs for index in pair}
    for members in _by([item.sha256 for item in items]).values():
        files = [items[index].file for index in members]
        found = _first_in_each(members, parts)
        if len(found) > 1 and not told.issuperset(files):
            findings.append(_leak(f"one picture, byte for byte, is in two splits: {_listed(files)}", files))
            pairs.append((found[0], found[1]))
        elif len(found) == 1 and len(files) > 1:
            message = f"one picture, byte for byte, under {len(files)} names: {_listed(files)}; remove all but one"
            findings.append(Finding("duplicate", WARNING, message, tuple(files)))
    for members, values in _look_alikes(alike):
        files = [items[index].file for index in members]
        found = _first_in_each(members, parts)
        likeness = " and ".join(f"{value:.2f}" for value in sorted({min(values), max(values)}))
        alike_text = f"{_listed(files)} look alike ({likeness})"
        if all(items[index].sha256 == items[members[0]].sha256 for index in members):
            continue
        if len(found) > 1:
            findings.append(_leak(f"{alike_text} in different splits", files))
            pairs.append((found[0], found[1]))
        else:
            findings.append(Finding("near-duplicate", NOTE, f"{alike_text} under different names", tuple(files)))
    return Leaks(findings, pairs, _shares(items, groups, alike))


def _look_alikes(alike: NearDuplicates) -> list[tuple[list[int], list[float]]]:
    """Return the positions, sorted, of pictures that lead to each other by pairs, and the likeness of these pairs."""
    joined = Joined({f"{position:09}" for pair in alike.pairs for position in pair[:2]})
    for first, second, _ in alike.pairs:
        joined.join(f"{first:09}", f"{second:09}")
    members: dict[str, set[int]] = {}
    values: dict[str, list[float]] = {}
    for first, second, value in alike.pairs:
        top = joined.top(f"{first:09}")
        members.setdefault(top, set()).update((first, second))
        values.setdefault(top, []).append(value)
    return [(sorted(members[top]), values[top]) for top in sorted(members)]


def _shares(items: Sequence[Inspection], groups: Sequence[str], alike: NearDuplicates) -> dict[str, dict[str, int]]:
    """Count, for each split, the images that have a relative in each other split."""
    copies = [f"copy {item.sha256}" for item in items]
    joined = Joined([*groups, *copies])
    for group, copy in zip(groups, copies, strict=True):
        joined.join(group, copy)
    for first, second, _ in alike.pairs:
        joined.join(groups[first], groups[second])
    splits_of: dict[str, set[str]] = {}
    for item, group in zip(items, groups, strict=True):
        splits_of.setdefault(joined.top(group), set()).add(item.split)
    present = [split for split in SPLITS if any(item.split == split for item in items)]
    shares = {split: {other: 0 for other in present if other != split} for split in present}
    for item, group in zip(items, groups, strict=True):
        for other in splits_of[joined.top(group)] - {item.split}:
            shares[item.split][other] += 1
    return shares


def _leak(message: str, files: Sequence[str]) -> Finding:
    return Finding("leak", ERROR, message, tuple(files))


def _by(keys: Sequence[str]) -> Mapping[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, []).append(position)
    return positions


def _first_in_each(members: Sequence[int], parts: Sequence[str]) -> list[int]:
    """Return the first of the positions in each part."""
    first: dict[str, int] = {}
    for index in members:
        first.setdefault(parts[index], index)
    return list(first.values())


def _listed(words: Sequence[str], most: int = 4) -> str:
    """Write "a", "a and b", "a, b and c", or, of more than ``most``, "a, b, c, d and 3 more"."""
    *shown, last = words if len(words) <= most else [*words[:most], f"{len(words) - most} more"]
    return f"{', '.join(shown)} and {last}" if shown else last
