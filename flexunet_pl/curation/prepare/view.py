"""A data set made of a folder as it is: links to its images, masks in palette colours, and a manifest."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_json
from flexunet_pl.curation.prepare.builder import Outcome, build
from flexunet_pl.curation.prepare.detection import Contents
from flexunet_pl.curation.prepare.messages import notes_of
from flexunet_pl.curation.prepare.options import Settings
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE

ORIGIN_FILE = "origin.json"
MOST_VIEWS = 1_000


@dataclass(frozen=True)
class View:
    """A data set that stands for a folder.

    Attributes:
        root: Its folder.
        notes: What making it found, a line each; as they were then where it was made earlier.
        is_new: Whether this call made or extended it.
    """

    root: Path
    notes: list[str]
    is_new: bool


def view_of(src: Path, contents: Contents, views: Path, folds: int = 0) -> View:
    """Return the view of a folder in ``views``, made if it is not there, and extended where the folder has grown.

    Sources are split by :func:`flexunet_pl.data.splits.split_groups`, or stay where the folder splits them. An image
    keeps its split for good, so test images stay test images when others are added.

    Args:
        src: The folder, of which nothing is copied or changed.
        contents: What :func:`flexunet_pl.curation.prepare.detection.read_any` found in it.
        views: The folder of all views.
        folds: If 2 or more, all but the test images are in folds instead of train and valid.

    Raises:
        UserError: If a file has a problem, or a view cannot be written.
    """
    listing = _listing(src, contents)
    for root, origin in _candidates(src, views, folds):
        if origin is not None and origin.get("listing") == listing and (root / MANIFEST_FILE).is_file():
            return View(root, [str(note) for note in origin["notes"]], is_new=False)
        try:
            outcome = _build(root, contents, folds, update=origin is not None)
        except UserError:
            if origin is None:
                raise
            continue  # files have changed or gone, so this needs a view of its own
        notes = [*contents.notes, *notes_of(root, outcome)]
        write_json(root / ORIGIN_FILE, {"folder": str(src.resolve()), "listing": listing, "notes": notes})
        return View(root, notes, is_new=True)
    raise UserError(f"{views}: holds {MOST_VIEWS} views of this folder; move some away")


def _build(root: Path, contents: Contents, folds: int, *, update: bool) -> Outcome:
    given = {item.split for item in contents.found}
    has_both = {"train", "valid"} <= given and not folds
    kept = SPLITS if has_both else ("test",) if "test" in given and len(given) > 1 else ()
    settings = Settings(
        link=True,
        update=update,
        antialiased_masks=True,
        groups=contents.groups,
        test=0.0 if kept else None,
        folds=folds,
    )
    return build(contents.found, root, contents.palette_of, settings, kept_splits=kept)


def _candidates(src: Path, views: Path, folds: int) -> list[tuple[Path, dict[str, Any] | None]]:
    """Return the views of this folder, and the first free name after them, with what each says of its origin."""
    found: list[tuple[Path, dict[str, Any] | None]] = []
    name = (src.resolve().name or "data") + (f"-{folds}-folds" if folds else "")
    for number in range(1, MOST_VIEWS + 1):
        root = views / (name if number == 1 else f"{name}-{number}")
        if not root.exists():
            return [*found, (root, None)]
        try:
            origin = json.loads((root / ORIGIN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if (
            isinstance(origin, dict)
            and isinstance(origin.get("notes"), list)
            and origin.get("folder") == str(src.resolve())
        ):
            found.append((root, origin))
    return found


def _listing(src: Path, contents: Contents) -> str:
    """Return a digest of names, sizes and times of all files, and of what is in other files of the folder."""
    lines = []
    for item in contents.found:
        for path in (item.image, item.mask):
            if path is not None:
                status = path.stat()
                lines.append(f"{os.path.relpath(path, src)} {status.st_size} {status.st_mtime_ns}")
        lines.append(f"{item.name} {item.label} {item.source} {item.split}")
    lines.append(json.dumps(contents.palette_of(None).to_mapping()))
    lines.append("" if contents.groups is None else contents.groups.read_text(encoding="utf-8", errors="replace"))
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
