"""What a watched folder has given so far: an SQLite file in which each image has one row, also after a kill."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError

OPEN, DONE = "open", "done"
TABLE = """
CREATE TABLE IF NOT EXISTS pieces (
    number INTEGER PRIMARY KEY,
    file BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    answer TEXT,
    place TEXT,
    done_at INTEGER,
    UNIQUE (file, size, mtime_ns)
)
"""


@dataclass(frozen=True)
class Version:
    """A file in the watched folder as it was seen: its path there, its bytes, and when it was written."""

    file: str
    size: int
    mtime_ns: int

    @property
    def key(self) -> tuple[bytes, int, int]:
        """Its columns; names of files are bytes, which need not be text."""
        return os.fsencode(self.file), self.size, self.mtime_ns


class Journal:
    """The rows of one output folder. A row is opened before its results are written and done after them."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            UserError: If it is no such file, or cannot be written.
        """
        self.path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(TABLE)
        except sqlite3.Error as error:
            raise UserError(f"{path}: cannot be used ({error}); choose another folder for the results") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def is_done(self, version: Version) -> bool:
        """Return whether this version of a file has its results."""
        row = self._database.execute(
            "SELECT state FROM pieces WHERE file = ? AND size = ? AND mtime_ns = ?",
            version.key,
        ).fetchone()
        return row is not None and row[0] == DONE

    def open(self, version: Version) -> str:
        """Return the name of the results of a version: the one it has, or the file's stem, made unique."""
        row = self._database.execute(
            "SELECT name FROM pieces WHERE file = ? AND size = ? AND mtime_ns = ?", version.key
        ).fetchone()
        if row is not None:
            return str(row[0])
        stem = str(Path(version.file).with_suffix("")).encode(errors="backslashreplace").decode()
        name, number = stem, 2
        while self._database.execute("SELECT 1 FROM pieces WHERE name = ? COLLATE NOCASE", (name,)).fetchone():
            name, number = f"{stem}-{number}", number + 1
        self._database.execute(
            "INSERT INTO pieces (file, size, mtime_ns, name, state) VALUES (?, ?, ?, ?, ?)", (*version.key, name, OPEN)
        )
        return name

    def finish(self, version: Version, answer: dict[str, Any], place: str | None) -> None:
        """Note that the results of a version are written, and the folder that its image moves to, None if it stays."""
        self._database.execute(
            "UPDATE pieces SET state = ?, answer = ?, place = ?, done_at = "
            "(SELECT COALESCE(MAX(done_at), 0) + 1 FROM pieces) WHERE file = ? AND size = ? AND mtime_ns = ?",
            (DONE, json.dumps(answer), place, *version.key),
        )

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield the answers in the order in which they were finished."""
        with contextlib.closing(
            self._database.execute("SELECT answer FROM pieces WHERE state = ? ORDER BY done_at", (DONE,))
        ) as rows:
            for (answer,) in rows:
                yield json.loads(answer)

    def moves(self) -> list[tuple[Version, str, str]]:
        """Return the versions whose image is to be moved, with the name of their results and the folder."""
        rows = self._database.execute(
            "SELECT file, size, mtime_ns, name, place FROM pieces WHERE state = ? AND place IS NOT NULL", (DONE,)
        )
        return [(Version(os.fsdecode(file), *rest), name, place) for file, *rest, name, place in rows]

    def moved(self, version: Version) -> None:
        """Note that the image is where it belongs."""
        self._database.execute(
            "UPDATE pieces SET place = NULL WHERE file = ? AND size = ? AND mtime_ns = ?",
            version.key,
        )
