"""A whole data set looked at: every file inspected, then what only shows when all are known."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.appearance import Appearance
from flexunet_pl.curation.audit.inspection import ERROR, NOTE, WARNING, Finding, Inspection, inspect
from flexunet_pl.curation.audit.leaks import Leaks, find_leaks
from flexunet_pl.curation.duplicates import Gallery, Joined, NearDuplicates
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE, Row, read_manifest
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import Pair, find_pairs
from flexunet_pl.data.sources import source_of

WORKERS = 2
# The split of a folder that has images and masks but no train, valid and test.
ALL = "all"
# Names of images that are known to show no defect.
GOOD_NAME = re.compile(r"(?:^|[_\W])(?:good|free|ok|normal|no_?defect|defect_?free)(?:[_\W\d]|$)", re.IGNORECASE)
FEWEST_SOURCES = 3


@dataclass(frozen=True)
class Survey:
    """What is known of a data set.

    Attributes:
        root: Its folder.
        palette: What class is what.
        items: Every pair of image and mask.
        findings: What is wrong with single files, with the whole, and what two splits share.
        leaks: What two splits share.
        classes: For each split, for each class: images, pixels and regions.
        areas: For each class, how many regions have how many pixels.
    """

    root: Path
    palette: Palette
    items: list[Inspection]
    findings: list[Finding]
    leaks: Leaks
    classes: dict[str, dict[str, dict[str, int]]]
    areas: dict[str, Counter[int]]

    def count(self, severity: str) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)


def survey(root: Path, palette: Palette, source_pattern: str | None, *, look: bool) -> Survey:
    """Look at every file of a data set once, two at a time.

    Args:
        root: Folder with train, valid and test, or with images and masks.
        palette: What class is what.
        source_pattern: Regular expression with one group around the source id in a name, or None.
        look: Whether near-duplicates are looked for.

    Raises:
        UserError: If there is no image in the folder.
    """
    findings: list[Finding] = []
    queue = find_all(root, findings)
    items: list[Inspection] = []
    with Gallery() as gallery, ThreadPoolExecutor(WORKERS) as pool:
        look_at = partial(_inspect, root, palette, look)
        for item, appearance in pool.map(look_at, queue):
            items.append(item)
            gallery.add(appearance)
        rows = _manifest(root, findings)
        groups = _groups(items, rows, source_pattern)
        alike = gallery.near_duplicates(groups) if look else NearDuplicates([], 0)
    findings += [finding for item in items for finding in item.findings]
    findings += _check_manifest(items, rows, root)
    classes = _count_classes(items, palette)
    findings += _check_masks(items, rows, palette) + _check_balance(items, classes, groups, palette)
    if alike.look_alikes:
        message = (
            f"{alike.look_alikes} images show things so alike in one pose that copies cannot be told from different "
            "parts; only practically identical ones count as near-duplicates"
        )
        findings.append(Finding("look-alikes", NOTE, message))
    fold_of = {row.name: row.fold for row in rows.values()}
    parts = [
        item.split if fold_of.get(item.name) is None else f"fold {fold_of[item.name]} of {item.split}" for item in items
    ]
    leaks = find_leaks(items, parts, groups, alike)
    return Survey(root, palette, items, findings + leaks.findings, leaks, classes, _count_areas(items, palette))


def find_all(root: Path, findings: list[Finding]) -> list[tuple[str, Pair]]:
    """Return every pair with its split; problems of pairing go to ``findings``.

    Raises:
        UserError: If there is neither a split nor images and masks.
    """
    if not root.is_dir():
        raise UserError(f"{root}: this folder does not exist; check the path")
    folders = {split: root / split for split in SPLITS if (root / split / "images").is_dir()}
    if not folders and (root / "images").is_dir():
        folders = {ALL: root}
    if not folders:
        raise UserError(f"{root}: has neither train/images and train/masks nor images and masks; check the path")
    for folder in sorted(root.iterdir()):
        if folder.name not in folders and (folder / "images").is_dir():
            message = f"{folder}: holds images but is no split, so nothing reads it; call it {', '.join(SPLITS)}"
            findings.append(Finding("pairing", WARNING, message, (folder.name,)))
    queue: list[tuple[str, Pair]] = []
    for split, folder in folders.items():
        try:
            pairs, problems = find_pairs(folder / "images", folder / "masks")
        except UserError as error:
            pairs, problems = [], [str(error)]
        findings += [Finding("pairing", ERROR, problem, _files_in(problem, root)) for problem in problems]
        queue += [(split, pair) for pair in pairs]
    return queue


def _inspect(root: Path, palette: Palette, look: bool, place: tuple[str, Pair]) -> tuple[Inspection, Appearance | None]:
    return inspect(root, place[0], place[1], palette, look=look)


def _files_in(problem: str, root: Path) -> tuple[str, ...]:
    """Return the file that a line of find_pairs begins with, relative to the root."""
    path = Path(problem.split(": ", 1)[0])
    return (path.relative_to(root).as_posix(),) if path.is_relative_to(root) else ()


def _manifest(root: Path, findings: list[Finding]) -> dict[str, Row]:
    """Return the rows of the manifest by file, none where there is no manifest."""
    if not (root / MANIFEST_FILE).is_file():
        return {}
    try:
        return {row.file: row for row in read_manifest(root)}
    except UserError as error:
        findings.append(Finding("manifest", ERROR, str(error), (MANIFEST_FILE,)))
        return {}


def _groups(items: Sequence[Inspection], rows: Mapping[str, Row], pattern: str | None) -> list[str]:
    """Return the group of each image: its source by name, joined with what the manifest knows of it."""
    sources = [source_of(item.name, pattern) for item in items]
    listed = [f"group {rows[item.file].group}" if item.file in rows else "" for item in items]
    joined = Joined([*(f"source {source}" for source in sources), *listed])
    for source, group in zip(sources, listed, strict=True):
        if group:
            joined.join(f"source {source}", group)
    name: dict[str, str] = {}
    for source in sorted(sources):
        name.setdefault(joined.top(f"source {source}"), source)
    return [name[joined.top(f"source {source}")] for source in sources]


def _check_manifest(items: Sequence[Inspection], rows: Mapping[str, Row], root: Path) -> list[Finding]:
    """Compare the folders with the manifest, if there is one."""
    if not rows:
        return []
    findings = []
    present = {item.file: item for item in items}
    for file in sorted(rows.keys() - present.keys()):
        if not (root / file).exists():
            findings.append(Finding("manifest", WARNING, f"{file}: is in {MANIFEST_FILE}, but not there", (file,)))
    for file, item in present.items():
        if file not in rows:
            message = f"{file}: is not in {MANIFEST_FILE}, so it was put here by other means"
            findings.append(Finding("manifest", WARNING, message, (file,)))
        elif item.sha256 != rows[file].sha256:
            message = f"{file}: is not the picture that {MANIFEST_FILE} describes (another checksum)"
            findings.append(Finding("manifest", WARNING, message, (file,)))
        elif item.pixels and any(rows[file].pixels.get(label) != count for label, count in item.pixels.items()):
            message = f"{item.mask}: has other pixels than {MANIFEST_FILE} says"
            findings.append(Finding("manifest", WARNING, message, (item.mask,)))
    return findings


def _check_masks(items: Sequence[Inspection], rows: Mapping[str, Row], palette: Palette) -> list[Finding]:
    """Find masks that mark nothing, though manifest or name promise a defect, or say nothing."""
    findings = []
    expected = []
    for item in items:
        if not item.pixels or item.areas:
            continue
        row = rows.get(item.file)
        known_good = GOOD_NAME.search(item.name) is not None if row is None else not row.classes
        named = next((label for label in palette.names[1:] if _says(item.name, label)), None)
        if known_good and named is None:
            expected.append(item.mask)
            continue
        reason = f"though its name says {named}" if named else "though nothing says it may"
        findings.append(Finding("empty", WARNING, f"{item.mask}: marks nothing, {reason}", (item.mask,)))
    if expected:
        message = f"{len(expected):,} masks mark nothing, as {'names say' if not rows else f'{MANIFEST_FILE} says'}"
        findings.append(Finding("empty", NOTE, message, tuple(expected)))
    return findings


def _says(name: str, word: str) -> bool:
    """Tell whether a name contains a word between underscores, digits and the like."""
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
) -> list[Finding]:
    """Find classes that are missing where they are needed."""
    findings = []
    for label in palette.names[1:]:
        shown = {split for split, table in classes.items() if table[label]["images"]}
        sources = len({group for item, group in zip(items, groups, strict=True) if label in item.areas})
        if not shown:
            findings.append(Finding("balance", WARNING, f"class {label!r} has no pixel anywhere"))
            continue
        for split in classes:
            if split in shown or split == ALL:
                continue
            message = f"class {label!r} has no pixel in {split}"
            if split == "train":
                findings.append(Finding("balance", WARNING, f"{message}, so it cannot be learned"))
            elif sources >= max(len(classes), FEWEST_SOURCES):
                findings.append(Finding("balance", WARNING, f"{message}, though it has {sources} sources"))
            else:
                only = f"it has {sources} source{'s'[: sources != 1]} only"
                findings.append(Finding("balance", NOTE, f"{message}; {only}"))
    return findings
