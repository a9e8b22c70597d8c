"""Build a data set from the images found: check, group, split and write."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from scipy.cluster.hierarchy import DisjointSet

from flexunet_pl.core.console import count_python_warnings, progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_text
from flexunet_pl.core.types import Problem, raise_problems
from flexunet_pl.curation.appearance import Appearance, appearance_of
from flexunet_pl.curation.conversion import Converter, read_any_image
from flexunet_pl.curation.duplicates import Gallery, name_of_joined
from flexunet_pl.curation.palette_detection import with_ignore
from flexunet_pl.curation.prepare.grouping import Grouping, look_for_near_duplicates, source_ids, split_of_groups
from flexunet_pl.curation.prepare.options import Settings
from flexunet_pl.curation.prepare.output_folder import add_file, claim, refuse_unplanned_files
from flexunet_pl.curation.prepare.readers import Found
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.manifest import Row, count_pixels, sha256_of, write_manifest
from flexunet_pl.data.palette import Palette
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
    keep_splits: bool = False,
) -> Outcome:
    """Write a data set of the images found.

    Args:
        found: The images, each with a unique name.
        out: The data set's folder.
        palette_of: Makes the palette from the one of an earlier run in ``out``, if any.
        settings: The rest.
        keep_splits: Whether every image stays in the split it was found in.

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
        pixels, moved = _scan(found, converter, gallery if settings.near_duplicates != "off" else None, out)
        if settings.near_duplicates != "off":
            _add_kept(kept, out, gallery)
        source_of, grouping = _group(found, kept, before, gallery, settings)
    _check_marked(found, pixels, out)
    pixels |= {row.name: dict(row.pixels) for row in kept}
    rows = [
        Row(item.name + converter.suffix(item), source_of[item.name], "", pixels[item.name], item.split or "", "")
        for item in found
    ]
    rows, torn = _deal([*rows, *kept], before, grouping, settings, keep_splits=keep_splits)
    refuse_unplanned_files(out, {row.name: row.split for row in rows})
    palette.save(out / PALETTE_FILE)
    rows, written = _write_all(rows, found, out, converter)
    write_manifest(out, rows)
    _record_near_duplicates(out / NEAR_DUPLICATES_FILE, grouping)
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


def _record_near_duplicates(path: Path, grouping: Grouping) -> None:
    """Write the pairs that look alike as CSV, after those that an earlier run found."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ["first,second,likeness"]
    lines += [f"{first},{second},{value:.3f}" for first, second, value in grouping.near_duplicates]
    write_text(path, "\n".join(dict.fromkeys(lines)) + "\n")


def _check_folds(before: Sequence[Row], folds: int, out: Path) -> None:
    had = max((row.fold + 1 for row in before if row.fold is not None), default=0)
    if before and had != folds:
        raise UserError(f"folds={folds}: the data set in {out} was made with --folds {had}; give the same number")


def _scan(
    found: Sequence[Found], converter: Converter, gallery: Gallery | None, out: Path
) -> tuple[dict[str, dict[str, int]], int]:
    """Read everything once; return the class pixels of each name and the number of moved pixels.

    Raises all problems together.
    """

    def scan(item: Found) -> tuple[dict[str, int], Appearance | None, int] | Problem:
        try:
            image, mask_index, moved = converter.read(item)
        except UserError as error:
            return Problem(str(error))
        pixels = count_pixels(converter.sizing.fit_mask(mask_index), converter.palette)
        return pixels, appearance_of(image) if gallery is not None else None, moved

    pixels: dict[str, dict[str, int]] = {}
    all_moved = 0
    problems: list[Problem] = []
    with count_python_warnings(), ThreadPoolExecutor(WORKERS) as pool:
        results = progress(pool.map(scan, found), "Reading images and masks", len(found))
        for item, result in zip(found, results, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
                continue
            pixels[item.name], appearance, moved = result
            all_moved += moved
            if gallery is not None:
                gallery.add(appearance)
    raise_problems(problems, f"{out}: ", ", nothing was written")
    return pixels, all_moved


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


def _add_kept(kept: Sequence[Row], out: Path, gallery: Gallery) -> None:
    """Add the images of an earlier run to the gallery."""
    with ThreadPoolExecutor(WORKERS) as pool:
        for appearance in pool.map(lambda row: appearance_of(read_any_image(out / row.file)), kept):
            gallery.add(appearance)


def _group(
    found: Sequence[Found], kept: Sequence[Row], before: Sequence[Row], gallery: Gallery, settings: Settings
) -> tuple[dict[str, str], Grouping]:
    """Return the source of each name found, and the groups of all names: those found, then those kept."""
    source_of, group_of = source_ids(found, settings.source_pattern, settings.groups)
    joined = DisjointSet([*group_of.values(), *(row.group for row in before)])
    for row in before:
        joined.merge(row.group, group_of.get(row.name, row.group))
    names = [item.name for item in found] + [row.name for row in kept]
    joined_name = name_of_joined(joined)
    group_of |= {row.name: row.group for row in kept}
    group_of = {name: joined_name[group] for name, group in group_of.items()}
    if settings.near_duplicates == "off":
        return source_of, Grouping(group_of, [], joined=False, look_alikes=0)
    return source_of, look_for_near_duplicates(names, group_of, gallery, settings.near_duplicates == "join")


def _deal(
    rows: Sequence[Row], before: Sequence[Row], grouping: Grouping, settings: Settings, *, keep_splits: bool
) -> tuple[list[Row], list[str]]:
    """Fill in group, split and fold; rows of an earlier run keep their split. Return also the groups in two splits."""
    given = {row.name: row.split for row in (rows if keep_splits else before)}
    fixed, torn = split_of_groups(grouping.group_of, given)
    groups = make_groups(
        {row.name: grouping.group_of[row.name] for row in rows}, {row.name: row.classes for row in rows}
    )
    shares = {"train": 1 - settings.valid - settings.test, "valid": settings.valid, "test": settings.test}
    if settings.folds:
        shares = {"train": 1 - settings.test, "valid": 0.0, "test": settings.test}
    split_of = split_groups(groups, shares, settings.seed, fixed)
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


def _write_all(rows: Sequence[Row], found: Sequence[Found], out: Path, converter: Converter) -> tuple[list[Row], int]:
    """Write images and masks, and return the rows with checksums, sorted by file, and how many were new."""
    row_of = {row.name: row for row in rows}

    def write(item: Found) -> tuple[Row, bool]:
        row = row_of[item.name]
        content, mask = converter.files(item)
        is_new = add_file(out / row.split / "masks" / f"{item.name}.png", mask)
        is_new |= add_file(out / row.file, content)
        return replace(row, sha256=sha256_of(out / row.file)), is_new

    written = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for row, is_new in progress(pool.map(write, found), "Writing images and masks", len(found)):
            row_of[row.name] = row
            written += is_new
    return sorted(row_of.values(), key=lambda row: row.file), written
