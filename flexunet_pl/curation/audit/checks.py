"""Audit a data set: inspect every file, then compare files, manifest and splits."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from scipy.cluster.hierarchy import DisjointSet

from flexunet_pl.core.console import count_python_warnings, progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair, Problem, collected
from flexunet_pl.curation.audit.inspection import NOTE, WARNING, Inspection, inspect
from flexunet_pl.curation.audit.leaks import Leaks, find_leaks
from flexunet_pl.curation.conversion import read_any_image
from flexunet_pl.curation.duplicates import Gallery, NearDuplicates, name_of_joined
from flexunet_pl.curation.looks import Looks
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE, Row, read_manifest
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import find_pairs
from flexunet_pl.data.sources import is_good_name, source_of

WORKERS = 2
# The split of a folder that has images and masks but no train, valid and test.
ALL = "all"
FEWEST_SOURCES = 3


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit.

    Attributes:
        root: Its folder.
        palette: What class is what.
        items: Every pair of image and mask.
        findings: Problems of single files, of the whole, and leaks.
        leaks: Sources in several splits.
        classes: For each split, for each class: images, pixels and regions.
        areas: For each class, how many regions have how many pixels.
    """

    root: Path
    palette: Palette
    items: list[Inspection]
    findings: list[Problem]
    leaks: Leaks
    classes: dict[str, dict[str, dict[str, int]]]
    areas: dict[str, Counter[int]]

    def count(self, severity: str) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)


def check_dataset(root: Path, palette: Palette, source_pattern: str | None, *, look: bool) -> AuditResult:
    """Inspect every file of a data set once, two at a time.

    Args:
        root: Folder with train, valid and test, or with images and masks.
        palette: What class is what.
        source_pattern: Regular expression with one group around the source id in a name, or None.
        look: Whether to search for near-duplicates.

    Raises:
        UserError: If there is no image in the folder.
    """
    findings: list[Problem] = []
    queue = find_all(root, findings)
    items: list[Inspection] = []
    with count_python_warnings(), Gallery() as gallery, ThreadPoolExecutor(WORKERS) as pool:
        inspected = pool.map(lambda place: inspect(root, place[0], place[1], palette, look), queue)
        for item, appearance in progress(inspected, "Reading images and masks", len(queue)):
            items.append(item)
            gallery.add(appearance, partial(read_any_image, root / item.file))
        rows = _manifest(root, findings)
        groups = _groups(items, rows, source_pattern)
        alike = _near_duplicates(gallery, items, groups, rows, root) if look else NearDuplicates([])
    findings += [finding for item in items for finding in item.findings]
    findings += _check_manifest(items, rows, root)
    classes = _count_classes(items, palette)
    findings += _check_masks(items, rows, palette) + _check_balance(items, classes, groups, palette)
    if alike.looks.look_alikes:
        findings.append(Problem(alike.looks.message, kind="look-alikes", severity=NOTE))
    fold_of = {row.name: row.fold for row in rows.values()}
    parts = [
        item.split if fold_of.get(item.name) is None else f"fold {fold_of[item.name]} of {item.split}" for item in items
    ]
    leaks = find_leaks(items, parts, groups, alike)
    return AuditResult(root, palette, items, findings + leaks.findings, leaks, classes, _count_areas(items, palette))


def _near_duplicates(
    gallery: Gallery, items: Sequence[Inspection], groups: Sequence[str], rows: Mapping[str, Row], root: Path
) -> NearDuplicates:
    """Search for near-duplicates; where prepare has compared images and judged their looks, only new ones are."""
    names = [item.name for item in items]
    looks = Looks.load(root) if rows else None
    if looks is None:
        return gallery.near_duplicates(names, groups)
    is_new = [item.file not in rows or item.sha256 != rows[item.file].sha256 for item in items]
    return gallery.new_duplicates(names, groups, is_new, looks)


def find_all(root: Path, findings: list[Problem]) -> list[tuple[str, Pair]]:
    """Return every pair with its split, problems of pairing in ``findings``; raise UserError if a folder is missing."""
    if not root.is_dir():
        raise UserError(f"{root}: this folder does not exist; check the path")
    folders = {split: root / split for split in SPLITS if (root / split / "images").is_dir()}
    if not folders and (root / "images").is_dir():
        folders = {ALL: root}
    if not folders:
        raise UserError(f"{root}: has neither train/images and train/masks nor images and masks; check the path")
    for folder in sorted(root.iterdir()):
        if folder.name not in folders and (folder / "images").is_dir():
            what, repair = "holds images but is no split, so nothing reads it", f"call it {', '.join(SPLITS)}"
            findings.append(Problem(what, folder, repair, kind="pairing", severity=WARNING, files=(folder.name,)))
    queue: list[tuple[str, Pair]] = []
    for split, folder in folders.items():
        try:
            pairs, problems = find_pairs(folder / "images", folder / "masks")
        except UserError as error:
            at_fault = folder / ("images" if (folder / "masks").is_dir() else "masks")
            findings.append(Problem(str(error), kind="pairing", files=(at_fault.relative_to(root).as_posix(),)))
            continue
        findings += [
            replace(problem, kind="pairing", files=(Path(problem.file or "").relative_to(root).as_posix(),))
            for problem in problems
        ]
        queue += [(split, pair) for pair in pairs]
    return queue


def _manifest(root: Path, findings: list[Problem]) -> dict[str, Row]:
    """Return the rows of the manifest by file, none where there is no manifest."""
    if not (root / MANIFEST_FILE).is_file():
        return {}
    with collected(findings, "manifest", (MANIFEST_FILE,)):
        return {row.file: row for row in read_manifest(root)}
    return {}


def _groups(items: Sequence[Inspection], rows: Mapping[str, Row], pattern: str | None) -> list[str]:
    """Return the group of each image: its source by manifest or name, joined with its group in the manifest."""
    # A source sorts before a group, so what they become bears the name of a source.
    sources = [
        f"1 {rows[item.file].source if pattern is None and item.file in rows else source_of(item.name, pattern)}"
        for item in items
    ]
    listed = [f"2 {rows[item.file].group}" if item.file in rows else "" for item in items]
    joined = DisjointSet([*sources, *listed])
    for source, group in zip(sources, listed, strict=True):
        if group:
            joined.merge(source, group)
    name_of = name_of_joined(joined)
    return [name_of[source].removeprefix("1 ") for source in sources]


def _check_manifest(items: Sequence[Inspection], rows: Mapping[str, Row], root: Path) -> list[Problem]:
    """Compare the folders with the manifest, if there is one."""
    if not rows:
        return []
    found: list[tuple[str, str]] = []
    present = {item.file: item for item in items}
    for file in sorted(rows.keys() - present.keys()):
        if not (root / file).exists():
            found.append((file, f"is in {MANIFEST_FILE}, but not there"))
    for file, item in present.items():
        if file not in rows:
            found.append((file, f"is not in {MANIFEST_FILE}, so it was put here by other means"))
        elif item.sha256 != rows[file].sha256:
            found.append((file, f"is not the picture that {MANIFEST_FILE} describes (another checksum)"))
        elif item.pixels and any(rows[file].pixels.get(label) != count for label, count in item.pixels.items()):
            found.append((item.mask, f"has other pixels than {MANIFEST_FILE} says"))
    return [Problem(what, file, kind="manifest", severity=WARNING, files=(file,)) for file, what in found]


def _check_masks(items: Sequence[Inspection], rows: Mapping[str, Row], palette: Palette) -> list[Problem]:
    """Find masks that mark nothing, unless manifest or name say that there is no defect."""
    findings = []
    expected = []
    for item in items:
        if not item.pixels or item.areas:
            continue
        row = rows.get(item.file)
        known_good = is_good_name(item.name) if row is None else not row.classes
        named = next((label for label in palette.names[1:] if _has_word(item.name, label)), None)
        if known_good and named is None:
            expected.append(item.mask)
            continue
        reason = f"though its name says {named}" if named else "though nothing says it may"
        findings.append(
            Problem(f"marks nothing, {reason}", item.mask, kind="empty", severity=WARNING, files=(item.mask,))
        )
    if expected:
        message = f"{len(expected):,} masks mark nothing, as {'names say' if not rows else f'{MANIFEST_FILE} says'}"
        findings.append(Problem(message, kind="empty", severity=NOTE, files=tuple(expected)))
    return findings


def _has_word(name: str, word: str) -> bool:
    """Return whether a name contains a word between underscores, digits and the like."""
    return re.search(rf"(?:^|[_\W]){re.escape(word)}(?:[_\W\d]|$)", name, re.IGNORECASE) is not None


def _count_classes(items: Sequence[Inspection], palette: Palette) -> dict[str, dict[str, dict[str, int]]]:
    splits = list(dict.fromkeys(item.split for item in items))
    table = {split: {name: {"images": 0, "pixels": 0, "regions": 0} for name in palette.names} for split in splits}
    for item in items:
        for label, pixels in item.pixels.items():
            if pixels and label in palette.names:
                cell = table[item.split][label]
                cell["images"] += 1
                cell["pixels"] += pixels
                cell["regions"] += len(item.areas.get(label, ()))
    return table


def _count_areas(items: Sequence[Inspection], palette: Palette) -> dict[str, Counter[int]]:
    areas: dict[str, Counter[int]] = {name: Counter() for name in palette.names[1:]}
    for item in items:
        for label, sizes in item.areas.items():
            areas[label].update(sizes)
    return areas


def _check_balance(
    items: Sequence[Inspection],
    classes: Mapping[str, Mapping[str, Mapping[str, int]]],
    groups: Sequence[str],
    palette: Palette,
) -> list[Problem]:
    """Find classes that are missing where they are needed."""
    findings = []
    for label in palette.names[1:]:
        splits = {split for split, table in classes.items() if table[label]["images"]}
        sources = len({group for item, group in zip(items, groups, strict=True) if label in item.areas})
        if not splits:
            findings.append(Problem(f"class {label!r} has no pixel anywhere", kind="balance", severity=WARNING))
            continue
        for split in classes:
            if split in splits or split == ALL:
                continue
            if split == "train":
                severity, reason = WARNING, ", so it cannot be learned"
            elif sources >= max(len(classes), FEWEST_SOURCES):
                severity, reason = WARNING, f", though it has {sources} sources"
            else:
                severity, reason = NOTE, f"; it has {sources} source{'s'[: sources != 1]} only"
            message = f"class {label!r} has no pixel in {split}{reason}"
            findings.append(Problem(message, kind="balance", severity=severity))
    return findings
