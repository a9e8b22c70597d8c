"""Unpack an archive beside itself."""

import contextlib
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import REPAIRS, atomic_folder

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
# Far beyond any data set for this program, and below what fills a disk by accident.
MOST_BYTES = 500 * 2**30
PROBLEMS = (
    *(OSError, EOFError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
)


def is_archive(path: Path) -> bool:
    """Return whether a path is a file with an archive's suffix."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def unpacked(path: Path) -> Path:
    """Return the folder of an archive's content, beside it and called as it; one that is there already is kept.

    The folder appears when all is unpacked. Members that lead out of it are refused, links left out.

    Raises:
        UserError: If the archive cannot be read, or its content is too large or not safe.
    """
    folder, suffix = folder_of(path), _suffix(path)
    if folder.is_dir():
        return folder
    with atomic_folder(folder) as temporary:
        inside = temporary / folder.name
        inside.mkdir()
        try:
            _unpack_zip(path, inside) if suffix == ".zip" else _unpack_tar(path, inside)
        except PROBLEMS as error:
            if isinstance(error, OSError) and error.errno in REPAIRS:  # such as a full disk
                raise
            raise UserError(
                f"{path}: cannot be unpacked ({' '.join(str(error).split())}); download it again, or unpack it "
                "yourself and give the folder"
            ) from error
        with contextlib.suppress(FileExistsError, OSError) if folder.is_dir() else contextlib.nullcontext():
            inside.rename(folder)  # unless another process was faster
    return folder


def folder_of(path: Path) -> Path:
    """Return the folder that an archive is unpacked to."""
    return path.with_name(path.name[: -len(_suffix(path))])


def _suffix(path: Path) -> str:
    return next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(suffix))


def _unpack_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        _check_size(path, sum(member.file_size for member in archive.infolist()))
        for member in archive.infolist():
            if not (folder / member.filename).resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{path}: its member {member.filename!r} leads out of the folder; do not trust this file"
                )
            archive.extract(member, folder)


def _unpack_tar(path: Path, folder: Path) -> None:
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile() or member.isdir() or member.islnk()]
        _check_size(path, sum(member.size for member in members))
        archive.extractall(folder, members=members, filter="data")


def _check_size(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(f"{path}: unpacks to {size:,} bytes, more than {MOST_BYTES:,}; unpack it yourself")
