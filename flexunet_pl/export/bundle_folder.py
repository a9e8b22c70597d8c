"""The folder of a bundle, which appears whole or not at all."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_folder
from flexunet_pl.data.manifest import sha256_of

LABELS, CHECK = "labels.json", "check.json"


def refuse_foreign_folder(out: Path) -> None:
    """Raise UserError if the place for a bundle is a file, or a folder with files but no bundle."""
    repair = "give another folder, or move this one away"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, but a bundle is a folder; {repair}")
    if out.is_dir() and any(out.iterdir()) and not _is_bundle(out):
        raise UserError(f"{out}: holds files but no bundle ({LABELS} of flexunet_pl), so nothing is written; {repair}")


@contextlib.contextmanager
def bundle_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder on the same disk, whose files go to ``out`` when the block succeeds.

    An older bundle in ``out`` is replaced as a whole, file by file: its own files that the new one lacks are removed,
    other files stay. If the block raises, ``out`` stays as it was, or absent. UserError as ``refuse_foreign_folder``.
    """
    refuse_foreign_folder(out)
    with atomic_folder(out) as temporary:
        yield temporary
        refuse_foreign_folder(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir() and any(out.iterdir()):
            _replace(out, temporary)
        else:
            temporary.replace(out)


def _replace(out: Path, new: Path) -> None:
    """Move the files of ``new`` over the bundle in ``out``, the report last: a folder with a report is complete."""
    old_names = _read(out / CHECK).get("files", {})
    (out / CHECK).unlink(missing_ok=True)
    names = {path.name for path in new.iterdir()}
    for name in sorted(names, key=lambda name: name == CHECK):
        (new / name).replace(out / name)
    for name in old_names.keys() - names:
        # The list may be foreign: it never leads out of the folder, and a file that has changed since stays.
        path = out / name
        if Path(name).name == name and path.is_file() and sha256_of(path) == old_names[name]:
            path.unlink()


def _is_bundle(folder: Path) -> bool:
    return {"format", "classes", "checkpoint_sha256"} <= _read(folder / LABELS).keys()


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, empty if there is none or it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
