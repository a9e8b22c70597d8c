"""Build a data set from the images found: check, group, split and write."""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from scipy.cluster.hierarchy import DisjointSet

from flexunet_pl.core.console import count_python_warnings, progress
from flexunet_pl.core.csv_text import csv_text
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes
from flexunet_pl.core.types import Problem, raise_problems
from flexunet_pl.curation.appearance import Appearance, appearance_of
from flexunet_pl.curation.conversion import Converter, read_any_image
from flexunet_pl.curation.duplicates import Gallery, name_of_joined
from flexunet_pl.curation.looks import LOOKS_FILE, Looks
from flexunet_pl.curation.palette_detection import with_ignore
from flexunet_pl.curation.prepare.grouping import (
    Grouping,
    join_copies,
    join_near_duplicates,
    source_ids,
    split_of_groups,
)
from flexunet_pl.curation.prepare.options import Settings
from flexunet_pl.curation.prepare.output_folder import add_file, add_link, claim, refuse_unplanned_files
from flexunet_pl.curation.prepare.readers import Found
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.manifest import FILE_NAMES, Row, count_pixels, sha256_of, write_manifest
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.data.samples import has_sixteen_bits
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.data.splits import fold_groups, make_groups, split_groups

WORKERS = 2
NEAR_DUPLICATES_FILE = "near_duplicates.csv"


@dataclass(frozen=True)
class Outcome:
    """What was made.

    Attributes:
        rows: The manifest.
        palette: What class is what.
        grouping: Groups and near-duplicates, by name.
        torn: Groups that are in two splits, which happens only with given splits.
        written: How many new images were written.
        moved: How many blended mask pixels were moved to a neighbouring class.
        empty: Names of images in a class's folder whose mask marks nothing.
        deep: Names of images that still have 16 bits a channel.
    """

    rows: list[Row]
    palette: Palette
    grouping: Grouping
    torn: list[str]
    written: int
    moved: int
    empty: list[str]
    deep: list[str]


def build(
    found: Sequence[Found],
    out: Path,
    palette_of: Callable[[Palette | None], Palette],
    settings: Settings,
    *,
    kept_splits: Sequence[str] = (),
) -> Outcome:
    """Write a data set of the images found.

    Args:
        found: The images, each with a unique name.
        out: The data set's folder.
        palette_of: Makes the palette from the one of an earlier run in ``out``, if any.
        settings: The rest.
        kept_splits: Splits in which an image that was found there stays.

    Raises:
        UserError: If any file has a problem; then nothing is written.
    """
    before = claim(out, settings.update)
    _check_folds(before, settings.folds, out)
    palette = palette_of(Palette.load(out / PALETTE_FILE) if (out / PALETTE_FILE).exists() else None)
    sizing = Sizing(settings.size, settings.size, settings.resize)
    palette = with_ignore(palette) if settings.resize == "letterbox" else palette
    converter = Converter(palette, sizing, settings.antialiased_masks)
    own = {item.name for item in found}
    kept = [row for row in before if row.name not in own]
    with Gallery() as gallery:
        pixels, digest_of, moved = _scan(found, converter, gallery, out)
        digest_of |= _add_kept(kept, out, gallery)
        source_of, grouping = _group(found, before, digest_of, settings)
        if settings.near_duplicates != "off":
            grouping = _look(gallery, grouping, before, out, join=settings.near_duplicates == "join")
    _check_marked(found, pixels, out)
    pixels |= {row.name: dict(row.pixels) for row in kept}
    rows = [
        Row(item.name + converter.suffix(item), source_of[item.name], "", pixels[item.name], item.split or "", "")
        for item in found
    ]
    rows, torn = _deal([*rows, *kept], before, grouping, settings, kept_splits)
    refuse_unplanned_files(out, {row.name: row.split for row in rows})
    palette.save(out / PALETTE_FILE)
    rows, written = _write_all(rows, found, out, converter, link=settings.link)
    write_manifest(out, rows)
    _record_near_duplicates(out, grouping)
    return Outcome(
        rows,
        palette,
        grouping,
        torn,
        written,
        moved,
        [item.name for item in found if item.label and not pixels[item.name][item.label]],
        [item.name for item in found if settings.resize == "none" and has_sixteen_bits(item.image)],
    )


def _record_near_duplicates(out: Path, grouping: Grouping) -> None:
    """Write the pairs that look alike as CSV, after those of an earlier run, and how they were told apart as JSON."""
    path = out / NEAR_DUPLICATES_FILE
    before: list[tuple[str, ...]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8", errors=FILE_NAMES) as file:
            before = [tuple(row) for row in csv.reader(file)][1:]
    found = [(first, second, f"{value:.3f}") for first, second, value in grouping.near_duplicates]
    text = csv_text(("first", "second", "likeness"), dict.fromkeys([*before, *found]))
    write_bytes(path, text.encode(errors=FILE_NAMES))
    if grouping.joined and grouping.looks is not None:
        grouping.looks.save(out)
    else:
        # Nothing was joined by its looks, so an audit has to compare all images.
        (out / LOOKS_FILE).unlink(missing_ok=True)


def _check_folds(before: Sequence[Row], folds: int, out: Path) -> None:
    had = max((row.fold + 1 for row in before if row.fold is not None), default=0)
    if before and had != folds:
        raise UserError(f"folds={folds}: the data set in {out} was made with --folds {had}; give the same number")


def _scan(
    found: Sequence[Found], converter: Converter, gallery: Gallery, out: Path
) -> tuple[dict[str, dict[str, int]], dict[str, str], int]:
    """Read everything once; return the class pixels and the digest of each name, and the number of moved pixels.

    Raises all problems together.
    """

    def scan(item: Found) -> tuple[dict[str, int], str, Appearance, int] | Problem:
        try:
            image, mask_index, moved = converter.read(item)
        except UserError as error:
            return Problem(str(error))
        pixels = count_pixels(converter.sizing.fit_mask(mask_index), converter.palette)
        return pixels, _digest(converter.sizing.fit_image(image)), appearance_of(image), moved

    pixels: dict[str, dict[str, int]] = {}
    digest_of: dict[str, str] = {}
    all_moved = 0
    problems: list[Problem] = []
    with count_python_warnings(), ThreadPoolExecutor(WORKERS) as pool:
        results = progress(pool.map(scan, found), "Reading images and masks", len(found))
        for item, result in zip(found, results, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
                continue
            pixels[item.name], digest_of[item.name], appearance, moved = result
            all_moved += moved
            gallery.add(appearance, partial(read_any_image, item.image))
    raise_problems(problems, f"{out}: ", ", nothing was written")
    return pixels, digest_of, all_moved


def _digest(image: UInt8Array) -> str:
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()


def _check_marked(found: Sequence[Found], pixels: Mapping[str, Mapping[str, int]], out: Path) -> None:
    """Check that each class has a mask that marks a pixel; else its images show no defect."""
    labels = dict.fromkeys(item.label for item in found if item.label)
    marked = {item.label for item in found if item.label and pixels[item.name][item.label]}
    empty = [
        Problem(
            f"no mask of the class {label!r} marks a pixel",
            repair=f"if its images have no defect, give --defect_free {label}",
        )
        for label in labels
        if label not in marked
    ]
    raise_problems(empty, f"{out}: ", ", nothing was written")


def _add_kept(kept: Sequence[Row], out: Path, gallery: Gallery) -> dict[str, str]:
    """Add the images of an earlier run to the gallery, and return their digests by name."""

    def read(row: Row) -> tuple[Appearance, str]:
        image = read_any_image(out / row.file)
        return appearance_of(image), _digest(image)

    digest_of = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for row, (appearance, digest) in zip(kept, pool.map(read, kept), strict=True):
            gallery.add(appearance, partial(read_any_image, out / row.file))
            digest_of[row.name] = digest
    return digest_of


def _group(
    found: Sequence[Found], before: Sequence[Row], digest_of: Mapping[str, str], settings: Settings
) -> tuple[dict[str, str], Grouping]:
    """Return the source of each name found, and the groups of all names, in the order of ``digest_of``."""
    source_of, group_of = source_ids(found, settings.source_pattern, settings.groups)
    joined = DisjointSet([*group_of.values(), *(row.group for row in before)])
    for row in before:
        joined.merge(row.group, group_of.get(row.name, row.group))
    joined_name = name_of_joined(joined)
    group_of = {row.name: row.group for row in before} | group_of
    return source_of, join_copies(list(digest_of), {name: joined_name[group_of[name]] for name in digest_of}, digest_of)


def _look(gallery: Gallery, grouping: Grouping, before: Sequence[Row], out: Path, *, join: bool) -> Grouping:
    """Search for near-duplicates; what an earlier run has compared stays as that run has judged it."""
    names = list(grouping.group_of)
    groups = list(grouping.group_of.values())
    looks = Looks.load(out) if before else None
    if looks is None:
        result = gallery.near_duplicates(names, groups)
    else:
        known = {row.name for row in before}
        result = gallery.new_duplicates(names, groups, [name not in known for name in names], looks)
    return join_near_duplicates(names, grouping, result, join=join)


def _deal(
    rows: Sequence[Row], before: Sequence[Row], grouping: Grouping, settings: Settings, kept_splits: Sequence[str]
) -> tuple[list[Row], list[str]]:
    """Fill in group, split and fold; rows of an earlier run keep their split. Return also the groups in two splits."""
    given = {row.name: row.split for row in rows if row.split in kept_splits} | {row.name: row.split for row in before}
    fixed, torn = split_of_groups(grouping.group_of, given)
    groups = make_groups(
        {row.name: grouping.group_of[row.name] for row in rows}, {row.name: row.classes for row in rows}
    )
    split_of = split_groups(groups, settings.shares, settings.seed, fixed)
    fold_of: dict[str, int] = {}
    if settings.folds:
        folded = [group for group in groups if split_of[group.name] != "test"]
        fold_before = {grouping.group_of[row.name]: row.fold for row in before if row.fold is not None}
        fold_of = fold_groups(folded, settings.folds, settings.seed, fold_before)
    dealt = []
    for row in rows:
        group = grouping.group_of[row.name]
        split = given.get(row.name, split_of[group])
        fold = fold_of.get(group) if split != "test" else None
        dealt.append(replace(row, file=f"{split}/images/{Path(row.file).name}", group=group, split=split, fold=fold))
    return dealt, torn


def _write_all(
    rows: Sequence[Row], found: Sequence[Found], out: Path, converter: Converter, *, link: bool
) -> tuple[list[Row], int]:
    """Write images and masks, and return the rows with checksums, sorted by file, and how many were new."""
    row_of = {row.name: row for row in rows}

    def write(item: Found) -> tuple[Row, bool]:
        row = row_of[item.name]
        is_new = add_file(out / row.split / "masks" / f"{item.name}.png", converter.mask_file(item))
        if link:
            is_new |= add_link(out / row.file, item.image)
        else:
            is_new |= add_file(out / row.file, converter.image_file(item))
        return replace(row, sha256=sha256_of(out / row.file)), is_new

    written = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for row, is_new in progress(pool.map(write, found), "Writing images and masks", len(found)):
            row_of[row.name] = row
            written += is_new
    return sorted(row_of.values(), key=lambda row: row.file), written
