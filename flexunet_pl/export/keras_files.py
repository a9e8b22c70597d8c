"""Open Keras files whoever wrote them: nothing is executed, unpacked to disk or followed into another file."""

import contextlib
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import h5py

from flexunet_pl.errors import UserError

MEBIBYTE = 2**20
# A FlexUNet of 16 levels has about 250 layers and a configuration of 300 kB.
MAX_LAYERS = 1000
MAX_TEXT_BYTES = 4 * MEBIBYTE
# Keras stores archive members uncompressed; trained weights hardly shrink when somebody packs them again.
MAX_EXPANSION = 2
ALWAYS_UNPACKED_BYTES = 64 * MEBIBYTE
ARCHIVE_START = b"PK\x03\x04"
CONFIG_MEMBER = "config.json"
WEIGHTS_MEMBER = "model.weights.h5"

Item: TypeAlias = h5py.Group | h5py.Dataset


@dataclass(frozen=True)
class KerasFile:
    """An open Keras file: the JSON of the model's configuration, where there is one, and the HDF5 with the weights.

    ``byte_count`` is the size of the HDF5; no sane set of weights in it is larger.
    """

    config: object | None
    weights: h5py.File
    byte_count: int


@contextlib.contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Open ``path``, a .keras archive or an HDF5 file; its content decides, not its name.

    Whatever h5py, zipfile or the reading code inside the block raise about a damaged file becomes a UserError.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a .keras, .weights.h5 or .h5 file")
    try:
        with path.open("rb") as stream:
            is_archive = stream.read(len(ARCHIVE_START)) == ARCHIVE_START
        if is_archive:
            with _open_archive(path) as keras_file:
                yield keras_file
        else:
            with h5py.File(path, "r") as weights:
                yield KerasFile(_config_in_attributes(weights, path), weights, path.stat().st_size)
    except UserError:
        raise
    except (
        # h5py raises nearly every kind of exception over damaged bytes, and so does code that walks foreign JSON.
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as a Keras file ({reason}); it is damaged, cut short or of another kind"
        ) from error


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[KerasFile]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) > MAX_LAYERS:
            raise UserError(f"{path} holds {len(names)} members; a .keras file holds three")
        for name in names:
            if ".." in PurePosixPath(name.replace("\\", "/")).parts or name.startswith(("/", "\\")) or ":" in name:
                raise UserError(
                    f"{path} holds a member called {name!r}, outside of the archive; such a file is refused"
                )
        config = _parse(_read_member(archive, CONFIG_MEMBER, MAX_TEXT_BYTES, path), path)
        limit = max(ALWAYS_UNPACKED_BYTES, MAX_EXPANSION * path.stat().st_size)
        content = _read_member(archive, WEIGHTS_MEMBER, limit, path)
        with io.BytesIO(content) as stream, h5py.File(stream, "r") as weights:
            yield KerasFile(config, weights, len(content))


def _read_member(archive: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    """Return the content of the one member ``name``, if it unpacks to ``limit`` bytes at most."""
    members = [member for member in archive.infolist() if member.filename == name]
    if len(members) != 1:
        found = ", ".join(archive.namelist()[:5])
        raise UserError(f"{path} holds {len(members)} members called {name}, a .keras file one; found: {found}")
    if members[0].flag_bits & 1:
        raise UserError(f"{path}: {name} is encrypted; save the model without a password")
    if members[0].file_size > limit:
        raise UserError(
            f"{path}: {name} claims to unpack to {members[0].file_size} bytes, at most {limit} are accepted here; "
            "Keras stores it uncompressed"
        )
    return archive.read(members[0])


def _config_in_attributes(file: h5py.File, path: Path) -> object | None:
    """Return the parsed model_config of a whole-model .h5, None for a file of weights only."""
    if "model_config" not in file.attrs:
        return None
    texts = read_texts(file, "model_config", path)
    if len(texts) != 1:
        raise UserError(f"{path}: model_config holds {len(texts)} texts, one is needed")
    return _parse(texts[0], path)


def _parse(text: str | bytes, path: Path) -> object:
    if len(text) > MAX_TEXT_BYTES:
        raise UserError(f"{path}: the model's configuration has {len(text)} bytes, at most {MAX_TEXT_BYTES} are read")
    try:
        config: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the model's configuration is no valid JSON: {error}") from error
    return config


def read_texts(item: Item, key: str, path: Path) -> list[str]:
    """Return the attribute ``key`` of ``item``, a text or a list of texts, as a list of str."""
    if key not in item.attrs:
        raise UserError(f"{path}: {item.name} has no attribute {key!r}; is this a Keras file?")
    attribute = item.attrs.get_id(key)
    # Keras writes an empty list as an empty array of numbers.
    if attribute.shape == (0,):
        return []
    if attribute.shape is None or len(attribute.shape) > 1 or h5py.check_string_dtype(attribute.dtype) is None:
        raise UserError(f"{path}: attribute {key!r} of {item.name} holds {attribute.dtype}, texts are needed")
    count = math.prod(attribute.shape)
    if count > MAX_LAYERS or count * attribute.dtype.itemsize > MAX_TEXT_BYTES:
        raise UserError(f"{path}: attribute {key!r} of {item.name} lists {count} texts, at most {MAX_LAYERS} are read")
    value = item.attrs[key]
    texts = value.tolist() if attribute.shape else [value]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def child(group: h5py.Group, name: str, path: Path) -> Item:
    """Return the group or dataset that lies at ``name`` (parts joined by "/") in ``group``, inside this very file.

    Soft and external links are refused: they may lead to other places and other files.
    """
    item: Item = group
    for part in name.split("/"):
        if part in ("", ".", "..") or not isinstance(item, h5py.Group):
            raise UserError(f"{path}: {name!r} is no place in {group.name}")
        link = item.get(part, getlink=True)
        if link is None:
            raise UserError(f"{path}: {item.name} lacks {part!r}")
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"{path}: {part!r} in {item.name} is a {type(link).__name__}, which is not followed")
        item = item[part]
    return item
