"""A data set made of a folder as it is: links to its images, masks in palette colours, and a manifest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_folder, write_json
from flexunet_pl.curation.prepare.builder import Outcome, build
from flexunet_pl.curation.prepare.detection import Contents
from flexunet_pl.curation.prepare.messages import notes_of
from flexunet_pl.curation.prepare.options import Settings
from flexunet_pl.data.layout import PALETTE_FILE, SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE
from flexunet_pl.data.palette import Palette

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
    files = _files(contents)
    palette = contents.palette_of(None).to_mapping()
    for root, origin in _candidates(src, views, folds):
        if origin is None:
            notes = _make(root, contents, folds)
            if notes is None:
                return view_of(src, contents, views, folds)  # another process was faster
        elif contents.has_colors and not _fits(root, palette):
            continue  # colours mean other things now, so this needs a view of its own
        elif origin["files"] == files and (root / MANIFEST_FILE).is_file():
            return View(root, [str(note) for note in origin["notes"]], is_new=False)
        elif not _has_only_grown(origin["files"], files):
            continue  # files have changed or gone
        else:
            notes = [*contents.notes, *notes_of(root, _build(root, contents, folds, update=True))]
        write_json(root / ORIGIN_FILE, {"folder": str(src.resolve()), "files": files, "notes": notes})
        return View(root, notes, is_new=True)
    raise UserError(f"{views}: holds {MOST_VIEWS} views of this folder; move some away")


def _make(root: Path, contents: Contents, folds: int) -> list[str] | None:
    """Build a view beside its place, and move it there when it is whole; return its notes, None if one is there."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(root) as temporary:
        inside = temporary / root.name
        try:
            outcome = _build(inside, contents, folds, update=False)
        except UserError as error:
            raise UserError(str(error).replace(str(inside), str(root))) from error
        try:
            inside.rename(root)
        except OSError:
            if root.is_dir():
                return None
            raise
    return [*contents.notes, *notes_of(root, outcome)]


def _has_only_grown(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    return before.items() <= now.items()


def _fits(root: Path, palette: Mapping[str, Sequence[int]]) -> bool:
    """Return whether a view reads colours as this palette does."""
    before = Palette.load(root / PALETTE_FILE).to_mapping()
    return all(before.get(name) == list(color) for name, color in palette.items())


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
            and {"notes", "files"} <= origin.keys()
            and origin.get("folder") == str(src.resolve())
        ):
            found.append((root, origin))
    return found


def _files(contents: Contents) -> dict[str, str]:
    """Return for each image what it is and the sizes and times of its files; and the groups, under an empty name."""
    found = {}
    for item in contents.found:
        statuses = [path.stat() for path in (item.image, item.mask) if path is not None]
        parts = [f"{status.st_size} {status.st_mtime_ns}" for status in statuses]
        parts += [] if item.annotated is None else [item.annotated.digest()]
        found[item.name] = " ".join([*parts, item.origin, str(item.label), item.source, str(item.split)])
    if contents.groups is not None:
        found[""] = hashlib.sha256(contents.groups.read_bytes()).hexdigest()
    return found
