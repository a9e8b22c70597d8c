"""manifest.csv: source, classes, split and fold of each image of a prepared data set."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.csv_text import csv_text
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.palette import IGNORE_INDEX, IGNORE_NAME, Palette, UInt8Array

MANIFEST_FILE = "manifest.csv"
PIXELS = "pixels_"
FILE_NAMES = "surrogateescape"  # names that are no UTF-8 keep their bytes
COLUMNS = ("file", "source", "group", "classes", "split", "fold", "sha256")


@dataclass(frozen=True)
class Row:
    """One image of a prepared data set.

    Attributes:
        file: The image's path relative to the data set's root, with slashes.
        source: Id of the photographed object, from the file's name, a pattern or a CSV.
        group: What must stay in one split: one source, or several that look alike.
        pixels: Number of mask pixels of each class, "ignore" too where the palette has it.
        split: train, valid or test.
        sha256: Of the image file.
        fold: Number of the fold, from 0, where the data set has folds and the image is not in the test split.
    """

    file: str
    source: str
    group: str
    pixels: Mapping[str, int] = field(hash=False)
    split: str
    sha256: str
    fold: int | None = None

    @property
    def name(self) -> str:
        """The stem that image and mask share."""
        return Path(self.file).stem

    @property
    def classes(self) -> tuple[str, ...]:
        """The foreground classes that have pixels, in the palette's order."""
        labels = list(self.pixels)
        return tuple(label for label in labels[1:] if label != IGNORE_NAME and self.pixels[label])


def count_pixels(mask_index: UInt8Array, palette: Palette) -> dict[str, int]:
    """Return the number of pixels of each class of a mask uint8 (H, W), in the palette's order, ignore last."""
    counts = np.bincount(mask_index.reshape(-1), minlength=IGNORE_INDEX + 1)
    pixels = {name: int(counts[index]) for index, name in enumerate(palette.names)}
    return pixels if palette.ignore is None else pixels | {IGNORE_NAME: int(counts[IGNORE_INDEX])}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(root: Path, rows: Sequence[Row]) -> None:
    """Write ``root/manifest.csv``, sorted by file, atomically."""
    labels = list(dict.fromkeys(label for row in rows for label in row.pixels))
    cells = []
    for row in sorted(rows, key=lambda row: row.file):
        fold = "" if row.fold is None else row.fold
        start = [row.file, row.source, row.group, ";".join(row.classes), row.split, fold, row.sha256]
        cells.append([*start, *(row.pixels.get(label, 0) for label in labels)])
    text = csv_text([*COLUMNS, *(PIXELS + label for label in labels)], cells)
    write_bytes(root / MANIFEST_FILE, text.encode(errors=FILE_NAMES))


def read_manifest(root: Path) -> list[Row]:
    """Read ``root/manifest.csv``; raise UserError if it is missing, lacks a column or has a value of another kind."""
    path = root / MANIFEST_FILE
    try:
        with path.open(newline="", encoding="utf-8", errors=FILE_NAMES) as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); write it with `python -m flexunet_pl prepare`") from error
    if lost := [column for column in COLUMNS if column not in columns]:
        raise UserError(f"{path}: lacks the columns {', '.join(lost)}; write it with `python -m flexunet_pl prepare`")
    labels = [column.removeprefix(PIXELS) for column in columns if column.startswith(PIXELS)]
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(_row(line, labels))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: line {number} is no line of a manifest ({error}); fix it") from error
    return rows


def folds_of(root: Path) -> list[int]:
    """Return the numbers of the folds of a data set, sorted; none if it has no folds, or no manifest."""
    if not (root / MANIFEST_FILE).is_file():
        return []
    return sorted({row.fold for row in read_manifest(root) if row.fold is not None})


def fold_members(root: Path, fold: int) -> tuple[list[str], list[str]]:
    """Return which files train and which validate in a fold: two lists of paths relative to ``root``, sorted.

    A data set made with folds keeps every image but the test split's under ``train/``; the manifest's column ``fold``
    says in which fold an image validates. In all others it trains.

    Raises:
        UserError: If the manifest cannot be read, has no folds, or not this one.
    """
    rows = [row for row in read_manifest(root) if row.fold is not None]
    known = sorted({row.fold for row in rows if row.fold is not None})
    if fold not in known:
        has = f"folds {known[0]} to {known[-1]}" if known else "no folds"
        raise UserError(f"data.fold={fold}: {root / MANIFEST_FILE} has {has}; prepare the data set with --folds")
    return (sorted(row.file for row in rows if row.fold != fold), sorted(row.file for row in rows if row.fold == fold))


def pixel_table(rows: Sequence[Row], palette: Palette) -> npt.NDArray[np.int64]:
    """Return the pixels of each class in each image as int64 (N, K), columns in the palette's order."""
    table = [[row.pixels.get(name, 0) for name in palette.names] for row in rows]
    return np.array(table, dtype=np.int64).reshape(len(rows), len(palette))


def _row(line: Mapping[str, str], labels: Sequence[str]) -> Row:
    pixels = {label: int(line[PIXELS + label]) for label in labels}
    split = line["split"]
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; choose from {', '.join(SPLITS)}")
    fold = int(line["fold"]) if line["fold"] else None
    return Row(line["file"], line["source"], line["group"], pixels, split, line["sha256"], fold)
