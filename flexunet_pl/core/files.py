"""Atomic writes: write to a temporary file in the same folder, flush it to the disk, then rename."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError

# A temporary file names the machine and the process it belongs to, so that a later process can tell what is left over.
HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
TEMPORARY = re.compile(rf"\.tmp-{HOST}-(\d+)-[0-9a-f]+(\.\w*)?")

REPAIRS = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.EACCES: "choose another folder, or change its permissions",
    errno.EPERM: "choose another folder, or change its permissions",
    errno.EFBIG: "raise the limit on file sizes, or choose another folder",
    errno.EIO: "check the disk",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: "a file is in the place of a folder; move it, or choose another folder",
    errno.EEXIST: "a file is in the place of a folder; move it, or choose another folder",
    errno.EISDIR: "a folder is in the place of a file; move it, or choose another name",
}

_mine: dict[str, Path] = {}  # the names of this process's temporary files and folders, and what they stand for
_swept: set[Path] = set()  # folders that were cleared of left-over files


@contextlib.contextmanager
def atomic_path(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, with its suffix, and rename it to ``path`` when the block succeeds.

    The folder is created. If the block raises, the temporary file is removed and ``path`` stays as it was, so a
    check of the written file belongs inside the block. Files that a killed process left in the folder are removed.

    Args:
        path: The file to write.
        sync: Whether the file is on the disk, safe from a power failure, before the old one is replaced.

    Raises:
        UserError: If the folder or the file cannot be written: the disk is full, there is no permission ...
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_for(path, path.parent, path.suffix[:16])
        try:
            temporary.touch(exist_ok=False)
            yield temporary
            if sync:
                _flush(temporary)
            temporary.replace(path)
            if sync and os.name == "posix":
                _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            _mine.pop(temporary.name, None)


@contextlib.contextmanager
def atomic_folder(path: Path, within: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside the folder ``path``, or ``within`` it; what the block leaves there is removed.

    Raises:
        UserError: As :func:`atomic_path`.
    """
    with writing(path):
        if within:
            path.mkdir(parents=True, exist_ok=True)
        above = path if within else next(folder for folder in path.absolute().parents if folder.is_dir())
        temporary = _temporary_for(path, above)
        try:
            temporary.mkdir()
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            _mine.pop(temporary.name, None)


def scratch_folder() -> contextlib.AbstractContextManager[Path]:
    """Return a folder for the block, in the system's folder for temporary files."""
    return atomic_folder(Path(tempfile.gettempdir()), within=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a disk that is full or cannot be written to into a UserError that names ``path``."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise cannot_write(error, path) from error


def cannot_write(error: Exception, path: Path | None = None) -> Exception:
    """Return the UserError for an error of writing ``path``, or else of the file it names; other errors as they are."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"errno = (\d+)", str(error))):  # as h5py has it
        number = int(match[1])
    if number not in REPAIRS:
        return error
    somewhere = f"a temporary file in {tempfile.gettempdir()}, or the output of this command"
    place = Path(path if path is not None else getattr(error, "filename", None) or somewhere)
    for above in (place, *place.parents):
        if above.name in _mine:
            place = _mine[above.name] / place.relative_to(above)
    return UserError(f"{place}: cannot be written ({os.strerror(number)}); {REPAIRS[number]}")


def move_all(source: Path, target: Path, last: str) -> None:
    """Move the files of a folder, on the same disk, over those of another, with the one named ``last`` at the end."""
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    for name in sorted(files, key=lambda name: name == Path(last)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target / name)


def write_bytes(path: Path, content: bytes, sync: bool = True) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_path(path, sync) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8 with line feeds; stray bytes of file names are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically as indented JSON; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary_for(path: Path, folder: Path, suffix: str = "") -> Path:
    """Return a new temporary path in a folder, which is cleared of what dead processes left there."""
    if folder not in _swept:
        _swept.add(folder)
        for path in folder.iterdir():
            match = TEMPORARY.fullmatch(path.name)
            if match and path.name not in _mine and not _is_running(int(match[1])):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    temporary = folder / f".tmp-{HOST}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"
    _mine[temporary.name] = path
    return temporary


def _is_running(process: int) -> bool:
    if process == os.getpid():  # an earlier process had the same number, as in a restarted container
        return False
    if os.name != "posix":  # there is no harmless signal to ask with
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
