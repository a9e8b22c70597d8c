"""The folder that prepare fills: never emptied, never overwritten, only added to."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE, Row, read_manifest
from flexunet_pl.data.samples import IMAGE_SUFFIXES, MASK_SUFFIXES

MOST_PROBLEMS = 30


def claim(out: Path, update: bool) -> list[Row]:
    """Check that ``out`` may be filled and return the manifest of what an earlier run put there.

    Raises:
        UserError: If it is a file, or holds anything and ``update`` is not set, or is no prepared data set.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, but a data set needs a folder; give another path")
    held = sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) if out.is_dir() else []
    if not held:
        return []
    if not update:
        raise UserError(
            f"{out}: is not empty (it holds {held[0]}); give a new folder, or --update true to add what is "
            "missing to the data set in it"
        )
    if MANIFEST_FILE in held:
        return read_manifest(out)
    # An interrupted first run leaves images and masks, but its manifest is written last.
    if strange := [name for name in held if name not in (*SPLITS, "palette.yaml")]:
        raise UserError(
            f"{out}: --update true needs a prepared data set, but this holds {strange[0]}; give a new folder"
        )
    return []


def refuse_strangers(out: Path, planned: Mapping[str, str]) -> None:
    """Check that every file in ``out/SPLIT/{images,masks}`` has a planned name in its planned split.

    Args:
        out: The data set's folder.
        planned: The split of each name.

    Raises:
        UserError: If a file has none; a source in two splits, or an image without a line in the manifest, is no update.
    """
    strangers = [
        path
        for split in SPLITS
        for part in ("images", "masks")
        if (out / split / part).is_dir()
        for path in sorted((out / split / part).iterdir())
        if path.suffix.lower() in (*IMAGE_SUFFIXES, *MASK_SUFFIXES)
        and not path.name.startswith(".")
        and planned.get(path.stem) != split
    ]
    if strangers:
        raise UserError(
            f"{strangers[0]}: this and {len(strangers) - 1} more files are not where this run would put them (an "
            "interrupted run had other options, or the file is from elsewhere); repeat the first command with "
            "--update true, or give a new folder"
        )


def add_file(path: Path, content: bytes) -> bool:
    """Write a file atomically unless it is there with the same content (for a PNG: the same pixels).

    Returns:
        Whether it was written.

    Raises:
        UserError: If another file is there under this name.
    """
    if not path.exists():
        write_bytes(path, content)
        return True
    if path.read_bytes() != content and not _same_pixels(path, content):
        raise UserError(f"{path}: is there already with other content, and is never overwritten; give a new folder")
    return False


def _same_pixels(path: Path, content: bytes) -> bool:
    """Tell whether two PNGs show the same; another version of the encoder writes other bytes."""
    try:
        with Image.open(path) as there, Image.open(io.BytesIO(content)) as new:
            return there.mode == new.mode and np.array_equal(np.asarray(there), np.asarray(new))
    except (OSError, SyntaxError, ValueError):
        return False


def raise_all(problems: Sequence[str], where: Path) -> None:
    """Raise one error with the problems, if there are any.

    Raises:
        UserError: The list, of at most ``MOST_PROBLEMS``.
    """
    if problems:
        lines = [f"  {number}. {problem}" for number, problem in enumerate(problems[:MOST_PROBLEMS], start=1)]
        if len(problems) > MOST_PROBLEMS:
            lines.append(f"  and {len(problems) - MOST_PROBLEMS} more")
        listed = "\n".join(lines)
        raise UserError(f"{where}: {len(problems)} problem{'s'[: len(problems) > 1]}, nothing was written:\n{listed}")
