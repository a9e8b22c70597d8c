"""Open untrusted Keras files: nothing is executed, and no link to another file is followed."""

import contextlib
import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import scratch_folder
from flexunet_pl.keras import contents as keras_contents
from flexunet_pl.keras.contents import MAX_LAYERS, MAX_TEXT_BYTES

MEBIBYTE = 2**20
# Keras stores archive members uncompressed; trained weights hardly shrink when somebody packs them again.
MAX_EXPANSION = 2
ALWAYS_UNPACKED_BYTES = 64 * MEBIBYTE
# zipfile unpacks these in chunks; bzip2 and LZMA may need gigabytes at once.
BOUNDED_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1
ARCHIVE_START = b"PK\x03\x04"
CONFIG_MEMBER = "config.json"
WEIGHTS_MEMBER = "model.weights.h5"
LISTING_SCRIPT = Path(keras_contents.__file__)
# Listing the largest network takes 0.1 s of processor time; on a busy machine the wall time is longer.
COMPUTING_SECONDS = 5
TIMEOUT_SECONDS = 120
# What zipfile raises over damaged bytes, and code that walks foreign JSON.
DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class KerasFile:
    """An open Keras file.

    Attributes:
        config: The parsed JSON of the model's configuration; None in a file of weights only.
        layout: "names" or "classes", see keras_contents.
        layers: The layers with weights, as keras_contents lists them.
        hdf5: The HDF5 file that the weights' offsets count in.
    """

    config: object | None
    layout: str
    layers: list[dict[str, Any]]
    hdf5: Path


@contextlib.contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Open ``path``, a .keras archive or an HDF5 file; its content decides, not its name.

    Whatever zipfile or the reading code inside the block raise about a damaged file becomes a UserError.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a .keras, .weights.h5 or .h5 file")
    try:
        with path.open("rb") as stream:
            is_archive = stream.read(len(ARCHIVE_START)) == ARCHIVE_START
        with _unpacked(path) if is_archive else contextlib.nullcontext((None, path)) as (config, hdf5):
            answer = _list_contents(hdf5, path)
            if answer["config"] is not None:
                config = _parse(answer["config"], path)
            yield KerasFile(config, answer["layout"], answer["layers"], hdf5)
    except UserError:
        raise
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} cannot be read as a Keras file ({reason}); it is damaged, truncated or of another kind"
        ) from error


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[tuple[object, Path]]:
    """Yield the parsed configuration in the archive ``path`` and its HDF5, unpacked under a name of our own."""
    with zipfile.ZipFile(path) as archive, scratch_folder() as folder:
        names = archive.namelist()
        if len(names) > MAX_LAYERS:
            raise UserError(f"{path} holds {len(names)} members; a .keras file holds three")
        for name in names:
            if ".." in PurePosixPath(name.replace("\\", "/")).parts or name.startswith(("/", "\\")) or ":" in name:
                raise UserError(f"{path} holds a member called {name!r}, which points out of the archive")
        # Without a number, read() unpacks at once whatever a member holds, beyond the size that it claims.
        with archive.open(_member(archive, CONFIG_MEMBER, MAX_TEXT_BYTES, path)) as packed:
            config = _parse(packed.read(MAX_TEXT_BYTES), path)
        limit = max(ALWAYS_UNPACKED_BYTES, MAX_EXPANSION * path.stat().st_size)
        hdf5 = folder / WEIGHTS_MEMBER
        with archive.open(_member(archive, WEIGHTS_MEMBER, limit, path)) as packed, hdf5.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, MEBIBYTE)
        yield config, hdf5


def _member(archive: zipfile.ZipFile, name: str, limit: int, path: Path) -> zipfile.ZipInfo:
    """Return the one member ``name``, if it claims to unpack to ``limit`` bytes at most; zipfile unpacks no more."""
    members = [member for member in archive.infolist() if member.filename == name]
    if len(members) != 1:
        found = ", ".join(archive.namelist()[:5])
        raise UserError(f"{path} holds {len(members)} members called {name}, a .keras file one; found: {found}")
    if members[0].flag_bits & ENCRYPTED or members[0].compress_type not in BOUNDED_COMPRESSIONS:
        raise UserError(f"{path}: {name} is encrypted or packed by another method than deflate; Keras does neither")
    if (size := members[0].file_size) > limit:
        claim = f"{name} claims to unpack to {size} bytes, at most {limit} are accepted here"
        raise UserError(f"{path}: {claim}; Keras stores it uncompressed")
    return members[0]


def _parse(text: str | bytes, path: Path) -> object:
    try:
        config: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the model's configuration is no valid JSON: {error}") from error
    return config


def run_listing(hdf5: Path) -> subprocess.CompletedProcess[bytes]:
    """Run keras_contents over the file ``hdf5`` in a process of its own; subprocess.TimeoutExpired if it hangs."""
    # -P keeps the script's folder, which is called keras, off the import path.
    command = [sys.executable, "-P", str(LISTING_SCRIPT), str(hdf5.absolute()), str(COMPUTING_SECONDS)]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)


def _list_contents(hdf5: Path, path: Path) -> dict[str, Any]:
    """Return what keras_contents lists for the file ``hdf5``; ``path`` is its name in messages."""
    try:
        listing = run_listing(hdf5)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{path} is damaged: the HDF5 library hangs on it") from error
    if listing.returncode != 0:
        last_words = listing.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        code = f"exit code {listing.returncode}{': ' if last_words else ''}{last_words}"
        raise UserError(f"{path} is damaged: the HDF5 library crashes over it or does not come to an end ({code})")
    answer: dict[str, Any] = json.loads(listing.stdout)
    if "error" in answer:
        raise UserError(f"{path}: {answer['error']}")
    return answer
