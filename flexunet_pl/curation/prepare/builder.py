"""From what was found to a data set: check everything, group, split, write, tell."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_text
from flexunet_pl.curation.appearance import Appearance, appearance_of
from flexunet_pl.curation.conversion import Converter, read_any_image
from flexunet_pl.curation.duplicates import Gallery, Joined
from flexunet_pl.curation.palette_detection import with_ignore
from flexunet_pl.curation.prepare.grouping import Grouping, look_for_near_duplicates, source_ids, split_of_groups
from flexunet_pl.curation.prepare.options import Settings
from flexunet_pl.curation.prepare.output_folder import add_file, claim, raise_all, refuse_strangers
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
        torn: Groups that are in two splits, which only given splits can cause.
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


@dataclass(frozen=True)
class _Scan:
    """What one look at an image and its mask tells."""

    pixels: dict[str, int]
    appearance: Appearance | None
    moved: int


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
        palette_of: Makes the palette from that of an earlier run in ``out``, if any.
        settings: The rest.
        keep_splits: Whether every image stays in the split it was found in.

    Raises:
        UserError: If any file is not as it should be; then nothing is written.
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
        scans = _scan(found, converter, gallery if settings.near_duplicates != "off" else None, out)
        if settings.near_duplicates != "off":
            _show(kept, out, gallery)
        source_of, grouping = _group(found, kept, before, gallery, settings)
    pixels = {item.name: scan.pixels for item, scan in zip(found, scans, strict=True)}
    _check_marked(found, pixels, out)
    pixels |= {row.name: dict(row.pixels) for row in kept}
    rows = [
        Row(item.name + converter.suffix(item), source_of[item.name], "", pixels[item.name], item.split or "", "")
        for item in found
    ]
    rows, torn = _deal([*rows, *kept], before, grouping, settings, keep_splits=keep_splits)
    refuse_strangers(out, {row.name: row.split for row in rows})
    palette.save(out / PALETTE_FILE)
    row_of = {row.name: row for row in rows}
    written = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for row, is_new in pool.map(lambda item: _write(row_of[item.name], item, out, converter), found):
            row_of[row.name] = row
            written += is_new
    rows = sorted(row_of.values(), key=lambda row: row.file)
    write_manifest(out, rows)
    _record_near_duplicates(out / NEAR_DUPLICATES_FILE, grouping)
    return Outcome(
        rows,
        palette,
        grouping,
        torn,
        written,
        sum(scan.moved for scan in scans),
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


def _scan(found: Sequence[Found], converter: Converter, gallery: Gallery | None, out: Path) -> list[_Scan]:
    """Read everything once; raise all problems together."""

    def scan(item: Found) -> _Scan | str:
        try:
            image, mask_index, moved = converter.read(item)
        except UserError as error:
            return str(error)
        pixels = count_pixels(converter.sizing.fit_mask(mask_index), converter.palette)
        return _Scan(pixels, appearance_of(image) if gallery is not None else None, moved)

    scans: list[_Scan] = []
    problems: list[str] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for result in pool.map(scan, found):
            if isinstance(result, str):
                problems.append(result)
                continue
            if gallery is not None:
                gallery.add(result.appearance)
            scans.append(replace(result, appearance=None))
    raise_all(problems, out)
    return scans


def _check_marked(found: Sequence[Found], pixels: Mapping[str, Mapping[str, int]], out: Path) -> None:
    """Check that some mask of each folder of a class marks something; else it is no class of defects."""
    marked = {item.label: 0 for item in found if item.label}
    for item in found:
        if item.label:
            marked[item.label] += pixels[item.name][item.label]
    raise_all(
        [
            f"no mask of the class {label!r} marks a pixel; if its images have no defect, give --defect_free {label}"
            for label, count in marked.items()
            if not count
        ],
        out,
    )


def _show(kept: Sequence[Row], out: Path, gallery: Gallery) -> None:
    """Add the images of an earlier run to the gallery."""
    with ThreadPoolExecutor(WORKERS) as pool:
        for appearance in pool.map(lambda row: appearance_of(read_any_image(out / row.file)), kept):
            gallery.add(appearance)


def _group(
    found: Sequence[Found], kept: Sequence[Row], before: Sequence[Row], gallery: Gallery, settings: Settings
) -> tuple[dict[str, str], Grouping]:
    """Return the source of each name found, and the groups of all names: those found, then those kept."""
    source_of, group_of = source_ids(found, settings.source_pattern, settings.groups)
    joined = Joined([*group_of.values(), *(row.group for row in before)])
    for row in before:
        joined.join(row.group, group_of.get(row.name, row.group))
    names = [item.name for item in found] + [row.name for row in kept]
    group_of = {name: joined.top(group) for name, group in (group_of | {row.name: row.group for row in kept}).items()}
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


def _write(row: Row, item: Found, out: Path, converter: Converter) -> tuple[Row, bool]:
    """Write one image and its mask, and return its row with the checksum, and whether anything was new."""
    content, mask = converter.files(item)
    is_new = add_file(out / row.split / "masks" / f"{item.name}.png", mask)
    is_new |= add_file(out / row.file, content)
    return replace(row, sha256=sha256_of(out / row.file)), is_new
