"""The output folder of prepare: files are added, never overwritten or deleted."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes
from flexunet_pl.curation.looks import LOOKS_FILE
from flexunet_pl.data.layout import PALETTE_FILE, SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE, Row, read_manifest
from flexunet_pl.data.samples import IMAGE_SUFFIXES, MASK_SUFFIXES, files_in


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
    if others := [name for name in held if name not in (*SPLITS, PALETTE_FILE, LOOKS_FILE)]:
        raise UserError(
            f"{out}: --update true needs a prepared data set, but this holds {others[0]}; give a new folder"
        )
    return []


def refuse_unplanned_files(out: Path, planned: Mapping[str, str]) -> None:
    """Check that every file in ``out/SPLIT/{images,masks}`` has a planned name in its planned split.

    Args:
        out: The data set's folder.
        planned: The split of each name.

    Raises:
        UserError: If a file has none; a source in two splits, or an image without a line in the manifest, is no update.
    """
    unplanned = [
        path
        for split in SPLITS
        for part in ("images", "masks")
        if (out / split / part).is_dir()
        for path in files_in(out / split / part, (*IMAGE_SUFFIXES, *MASK_SUFFIXES))
        if planned.get(path.stem) != split
    ]
    if unplanned:
        raise UserError(
            f"{unplanned[0]}: this and {len(unplanned) - 1} more files are not where this run would put them (an "
            "interrupted run had other options, or the file is from elsewhere); repeat the first command with "
            "--update true, or give a new folder"
        )


def add_file(path: Path, content: bytes) -> bool:
    """Write a file atomically unless it is there with the same content (PNG: the same pixels); return whether it was.

    Raises:
        UserError: If another file is there under this name.
    """
    if not path.exists():
        write_bytes(path, content)
        return True
    if path.read_bytes() != content and not _same_pixels(path, content):
        raise UserError(f"{path}: is there already with other content, and is never overwritten; give a new folder")
    return False


def add_link(path: Path, target: Path) -> bool:
    """Make ``path`` a link to an image unless it is one already; return whether it was made.

    Where the file system or the user may not make symbolic links, it becomes a hard link.

    Raises:
        UserError: If something else is there under this name, or no link can be made.
    """
    target = target.resolve()
    if path.exists() and path.samefile(target):
        return False
    if path.exists() or path.is_symlink():
        raise UserError(
            f"{path}: is there already and is no link to {target}, and is never overwritten; give a new folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except OSError:
        try:
            path.hardlink_to(target)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be made a link to {target} ({error}); copy the images with `{PROGRAM} prepare`, and "
                "train with its folder"
            ) from error
    return True


def _same_pixels(path: Path, content: bytes) -> bool:
    """Return whether two PNGs have equal pixels; another encoder version writes other bytes."""
    try:
        with Image.open(path) as there, Image.open(io.BytesIO(content)) as new:
            return there.mode == new.mode and np.array_equal(np.asarray(there), np.asarray(new))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
