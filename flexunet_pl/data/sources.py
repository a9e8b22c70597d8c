"""Which source (photographed object) a file comes from: read from its name, from a pattern, or from a CSV."""

import csv
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from flexunet_pl.core.errors import UserError

_NUMBER = r"-?\d+(?:\.\d+)?"
# What the FlexUNet family's tools put before a source's name; each may stand before another one.
_VARIANT = re.compile(
    rf"""(?:
    (?:barr|pinc)distorted_{_NUMBER}_{_NUMBER}_{_NUMBER}_  # which centre, then radius and amount, or the centre's place
    | deformed_alpha_{_NUMBER}_sigmoid_{_NUMBER}_
    | distorted_{_NUMBER}_rsigma{_NUMBER}_sigma{_NUMBER}_
    | (?:h|v|hv)flipp?ed_                                  # one of the tools writes a single p
    | rotated_{_NUMBER}_
    | (?:shrinked|sheared)_(?:-?\d+\.\d+_|-?0_\d+_)?       # a ratio, its point often written as underscore
    | sharpened_{_NUMBER}_
    | brightened_{_NUMBER}_{_NUMBER}_
    | augmented_\d+_                                       # our own: a copy with all transforms of data.augment
    )(?=.)""",
    re.VERBOSE,
)


# Names of images that are known to show no defect.
_GOOD = re.compile(r"(?:^|[_\W])(?:good|free|ok|normal|no_?defect|defect_?free)(?:[_\W\d]|$)", re.IGNORECASE)


def is_good_name(stem: str) -> bool:
    """Return whether a file's name says that the image shows no defect, as ``good_12`` does."""
    return _GOOD.search(stem) is not None


def source_of(stem: str, pattern: str | None = None) -> str:
    """Return the id of the source that a file comes from.

    Args:
        stem: The file's name without suffix, such as ``hflipped_rotated_90_crack_16``.
        pattern: Regular expression with one group, searched in the stem, whose group is the source id. Without it
            the family's variant prefixes are taken off, however many: ``crack_16``.

    Raises:
        UserError: If the pattern is none, has not exactly one group, or does not match.
    """
    if pattern is not None:
        return _by_pattern(stem, pattern)
    while variant := _VARIANT.match(stem):
        stem = stem[variant.end() :]
    return stem


def _by_pattern(stem: str, pattern: str) -> str:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"source_pattern={pattern!r} is no regular expression ({error}); fix it") from error
    if expression.groups != 1:
        raise UserError(
            f"source_pattern={pattern!r} has {expression.groups} groups; it needs exactly one, around the part of the "
            "name that all pictures of a source share, such as '^(.*)_view[0-9]+$'"
        )
    match = expression.search(stem)
    if match is None or not match[1]:
        raise UserError(
            f"source_pattern={pattern!r} finds no source in the name {stem!r}; widen the pattern so that it matches "
            "every file"
        )
    return str(match[1])


def read_groups(path: Path) -> dict[str, str]:
    """Read a CSV with the columns ``file`` and ``group``: which group each file belongs to, keyed by file.

    Raises:
        UserError: If the file cannot be read, lacks a column, has an empty cell, or names a file twice with two groups.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # Spreadsheets write semicolons where the comma stands in numbers.
            delimiter = ";" if ";" in file.readline() else ","
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); give a file with the columns file,group") from error
    if not {"file", "group"} <= set(columns):
        raise UserError(f"{path}: has the columns {', '.join(columns) or 'none'}; it needs file and group")
    group_of: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        file_name, group = _composed(row["file"] or "").replace("\\", "/").removeprefix("./"), row["group"] or ""
        if not file_name or not group:
            raise UserError(f"{path}: line {number} has an empty cell; each line names a file and its group")
        if group_of.setdefault(file_name, group) != group:
            raise UserError(
                f"{path}: line {number} puts {file_name} into {group!r}, an earlier one into {group_of[file_name]!r}; "
                "a file has one group"
            )
    return group_of


def _composed(name: str) -> str:
    """Return a name with each umlaut as one character; some file systems take it apart into letter and dots."""
    return unicodedata.normalize("NFC", name)


def look_up_groups(files: Collection[str], group_of: dict[str, str], origin: Path) -> dict[str, str]:
    """Return the group of each file, found by its path, else by its bare name where all lines with it agree.

    Args:
        files: Paths relative to the folder that the CSV describes, with slashes.
        group_of: What :func:`read_groups` returned.
        origin: The CSV, for errors.

    Raises:
        UserError: If files are not in the CSV.
    """
    by_name: dict[str, set[str]] = {}
    for listed, group in group_of.items():
        by_name.setdefault(listed.rsplit("/", 1)[-1], set()).add(group)
    found: dict[str, str] = {}
    lost: list[str] = []
    for file in sorted(files):
        listed = _composed(file)
        candidates = {group_of[listed]} if listed in group_of else by_name.get(listed.rsplit("/", 1)[-1], set())
        if len(candidates) == 1:
            found[file] = next(iter(candidates))
        else:
            lost.append(file)
    if lost:
        raise UserError(
            f"{origin}: {len(lost)} of {len(files)} files have no line of their own, first: {', '.join(lost[:3])}; add "
            "them, with paths relative to the folder they are prepared from"
        )
    return found
