"""Group images that must stay in one split: by source, CSV, earlier run and likeness."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.cluster.hierarchy import DisjointSet

from flexunet_pl.curation.duplicates import NearDuplicates, name_of_joined
from flexunet_pl.curation.looks import Looks
from flexunet_pl.curation.prepare.readers import Found
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.sources import look_up_groups, read_groups, source_of


@dataclass(frozen=True)
class Grouping:
    """Groups of images, and near-duplicates.

    Attributes:
        group_of: The group of each name.
        near_duplicates: Pairs of names that look alike though their groups differ, with their likeness 0..1.
        joined: Whether these pairs were made one group.
        looks: Whether looks tell the sources apart; None if that was not looked for.
    """

    group_of: dict[str, str]
    near_duplicates: list[tuple[str, str, float]]
    joined: bool
    looks: Looks | None


def source_ids(
    found: Sequence[Found], pattern: str | None, groups: Path | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the source and the group of each name, before near-duplicates are searched.

    Args:
        found: The images.
        pattern: Regular expression whose one group is the source id in a name; None takes off variant prefixes.
        groups: CSV with the columns file (relative to the prepared folder) and group; None takes the sources.

    Raises:
        UserError: If the pattern or the CSV does not cover every image.
    """
    source = {item.name: item.source if pattern is None else source_of(item.name, pattern) for item in found}
    if groups is None:
        return source, dict(source)
    listed = look_up_groups([item.origin for item in found], read_groups(groups), groups)
    # Variants of one source stay together even where the CSV separates them.
    joined = DisjointSet([*(f"name {one}" for one in source.values()), *(f"csv {group}" for group in listed.values())])
    for item in found:
        joined.merge(f"name {source[item.name]}", f"csv {listed[item.origin]}")
    name_of: dict[str, str] = {}
    for item in sorted(found, key=lambda item: item.name):
        name_of.setdefault(joined[f"name {source[item.name]}"], listed[item.origin])
    return source, {item.name: name_of[joined[f"name {source[item.name]}"]] for item in found}


def join_copies(names: Sequence[str], group_of: Mapping[str, str], digest_of: Mapping[str, str]) -> Grouping:
    """Join groups that have the same picture, pixel for pixel, whatever their names."""
    joined = DisjointSet(group_of[name] for name in names)
    first_of: dict[str, str] = {}
    copies = []
    for name in names:
        first = first_of.setdefault(digest_of[name], name)
        if joined.merge(group_of[first], group_of[name]):
            copies.append((first, name, 1.0))
    joined_name = name_of_joined(joined)
    return Grouping({name: joined_name[group_of[name]] for name in names}, copies, joined=True, looks=None)


def join_near_duplicates(names: Sequence[str], before: Grouping, result: NearDuplicates, *, join: bool) -> Grouping:
    """Add near-duplicates, positions in ``names``, to what was grouped before."""
    groups = [before.group_of[name] for name in names]
    joined = DisjointSet(groups)
    for first, second, _ in result.pairs if join else []:
        joined.merge(groups[first], groups[second])
    joined_name = name_of_joined(joined)
    pairs = [(names[first], names[second], value) for first, second, value in result.pairs]
    return Grouping(
        group_of={name: joined_name[group] for name, group in zip(names, groups, strict=True)},
        near_duplicates=[*before.near_duplicates, *pairs],
        joined=join,
        looks=result.looks,
    )


def split_of_groups(group_of: Mapping[str, str], split_of: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the split of each group that has members in one, and the groups whose members are in several.

    Of several splits the group gets the one with most members, of equal ones the first of train, valid, test.
    """
    counts: dict[str, Counter[str]] = {}
    for name, split in split_of.items():
        counts.setdefault(group_of[name], Counter())[split] += 1
    fixed = {
        group: max(SPLITS, key=lambda split: (members[split], -SPLITS.index(split)))
        for group, members in counts.items()
    }
    return fixed, sorted(group for group, members in counts.items() if len(members) > 1)
