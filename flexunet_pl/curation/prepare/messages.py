"""Summaries that prepare prints."""

from collections.abc import Sequence
from pathlib import Path

from flexunet_pl.curation.prepare.builder import NEAR_DUPLICATES_FILE, Outcome
from flexunet_pl.curation.prepare.overview import STATISTICS_FILE, count_images, count_pixels_by_split, text_table
from flexunet_pl.data.manifest import Row
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.splits import DEFECT_FREE, absent_classes, make_groups


def content_lines(out: Path, rows: Sequence[Row], palette: Palette) -> list[str]:
    """Return the images and pixels of each class in each split as tables."""
    groups = len({row.group for row in rows})
    return [
        text_table(count_images(rows, palette), "images"),
        "",
        text_table(count_pixels_by_split(rows, palette), "pixels"),
        "",
        f"{len(rows)} images in {groups} groups; see {out / STATISTICS_FILE} and the sample sheets beside it",
    ]


def outcome_lines(out: Path, outcome: Outcome) -> list[str]:
    """Return the summary of a data set that was built, notes last."""
    return [
        *content_lines(out, outcome.rows, outcome.palette),
        f"{outcome.written} of the images are new",
        *(f"note: {note}" for note in notes_of(out, outcome)),
    ]


def notes_of(out: Path, outcome: Outcome) -> list[str]:
    """Return what a reader of the data set should know, a line each."""
    notes = []
    alike = outcome.grouping.near_duplicates
    if alike:
        first, second, value = alike[0]
        done = "their groups were joined" if outcome.grouping.joined else "they were left in their groups"
        notes.append(
            f"{len(alike)} pairs of images look alike under different names; {done}. First: {first} and {second} "
            f"({value:.2f}); all are in {out / NEAR_DUPLICATES_FILE}"
        )
    looks = outcome.grouping.looks
    if looks is not None:
        advice = (
            ". If a part was photographed several times, list its images with --groups" if looks.look_alikes else ""
        )
        notes.append(looks.message + advice)
    if outcome.torn:
        notes.append(
            f"{len(outcome.torn)} groups are in two splits, such as {outcome.torn[0]}: the scores of this data set "
            "will be too good; run `python -m flexunet_pl audit` on it"
        )
    if outcome.moved:
        which = "mask pixels of no class were moved to the nearest" if outcome.palette.nearest else ""
        notes.append(f"{outcome.moved:,} {which or 'blended mask pixels were moved to the class of a neighbour'}")
    if outcome.empty:
        notes.append(f"{len(outcome.empty)} masks of a class mark no pixel, such as {outcome.empty[0]}")
    if outcome.deep:
        notes.append(
            f"{len(outcome.deep)} images have 16 bits a channel, such as {outcome.deep[0]}; to train with them, set "
            "data.sixteen_bit to full_range or min_max"
        )
    return notes + _missing_classes(outcome)


def _missing_classes(outcome: Outcome) -> list[str]:
    """Return a note for each class that is missing in a split, saying why."""
    rows = outcome.rows
    split_of = {row.group: row.split for row in rows}
    groups = make_groups({row.name: row.group for row in rows}, {row.name: row.classes for row in rows})
    splits = list(dict.fromkeys(row.split for row in rows))
    notes = [
        f"{label} is missing in {split}, though it has a source for every split"
        for label, split in absent_classes(groups, split_of, splits)
    ]
    for label in [*outcome.palette.names[1:], DEFECT_FREE]:
        found = {split_of[group.name] for group in groups if label in group.classes}
        sources = sum(label in group.classes for group in groups)
        if 0 < sources < len(splits):
            one = "source" if sources == 1 else "sources"
            notes.append(f"{label} has {sources} {one} only, so it is in {' and '.join(sorted(found))} alone")
    return notes
