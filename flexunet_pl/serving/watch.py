"""A watched folder: each image that arrives gets a mask, a JSON file and a line in a CSV, once."""

import contextlib
import csv
import fcntl
import io
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from flexunet_pl.core.console import note
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes, write_json
from flexunet_pl.core.ranges import Range, check_fields
from flexunet_pl.inference.onnx_infer import DEFAULT_MAX_PIXELS, InferenceError, Model, Tiling
from flexunet_pl.serving.answers import answer, picture, segment
from flexunet_pl.serving.arrivals import Arrivals
from flexunet_pl.serving.journal import Journal, Version

JOURNAL, LOCK, TABLE = ".journal.sqlite", ".lock", "results.csv"
MASKS, OVERLAYS, RESULTS = "masks", "overlays", "results"
FAILED = "failed"
COLUMNS = ("image", "results", "decision", "score", "classes", "uncertainty", "drift_score", "height", "width", "error")


@dataclass(frozen=True)
class Settings:
    """How a folder is watched.

    Attributes:
        interval: Seconds between two looks at the folder.
        settle: Seconds for which a file must stay as it is before it is taken for whole.
        patience: Seconds after which a file that cannot be read is taken for broken.
        route: Whether images move to the folders ok, ng and failed of the output.
        overlays: Whether overlays are written too.
        max_pixels: Most pixels of an image.
    """

    interval: Annotated[float, Range(0.01, 3600)] = 0.5
    settle: Annotated[float, Range(0, 3600)] = 1.0
    patience: Annotated[float, Range(0, 86_400)] = 30.0
    route: bool = False
    overlays: bool = False
    max_pixels: Annotated[int, Range(1, 1 << 40)] = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        """Check the values; UserError if one is out of its range."""
        check_fields(self, "--")


class Watch:
    """Segments what arrives in ``source`` into ``out``.

    For each image the results are written first, then its row in the journal is finished, then its line is added to
    the CSV and the image is moved. What a killed process left out is done by the next one, so that no image is lost
    and none has two lines.
    """

    def __init__(self, model: Model, source: Path, out: Path, settings: Settings, tiling: Tiling | None = None) -> None:
        """Use :func:`watching`, which keeps other processes from the same output."""
        self.model, self.source, self.out, self.settings, self.tiling = model, source, out, settings, tiling
        self.arrivals = Arrivals(source, settings.settle)
        self.journal = Journal(out / JOURNAL)
        self.counts = {"ok": 0, "ng": 0, FAILED: 0}

    def catch_up(self) -> None:
        """Finish what an earlier process has left: lines of the CSV, and moves."""
        table = self.out / TABLE
        whole = _line(COLUMNS) + "".join(_line(_columns(facts)) for facts in self.journal.answers())
        if not table.is_file() or table.read_bytes() != _encoded(whole):
            write_bytes(table, _encoded(whole))
        for version, name, place in self.journal.moves():
            self._move(version, name, place)

    def look(self) -> int:
        """Segment what has arrived since the last look; return how many images that were."""
        done = 0
        for version in self.arrivals.look(time.monotonic()):
            if not self.journal.is_done(version):
                done += self._take(version)
        return done

    def waiting(self) -> bool:
        """Return whether files are there that have no results yet."""
        return any(not self.journal.is_done(version) for version in self.arrivals.present())

    def _take(self, version: Version) -> bool:
        """Segment one file, unless it turns out not to be whole yet."""
        path = self.source / version.file
        try:
            content = path.read_bytes()
        except OSError:  # moved away meanwhile, or not readable for now
            return False
        if len(content) != version.size or self.arrivals.version_of(version.file) != version:
            return False
        facts: dict[str, Any] = {"image": version.file}
        try:
            found, image = segment(self.model, content, self.settings.max_pixels, self.tiling)
        except InferenceError as error:
            if self.arrivals.age(version, time.monotonic()) < self.settings.patience:
                return False
            name, place = self.journal.open(version), FAILED
            facts |= {"results": name, "error": str(error)}
        else:
            name = self.journal.open(version)
            facts = answer(version.file, found, self.model.labels) | {"results": name}
            place = "ng" if facts["decision"] == "NG" else "ok"
            write_bytes(self.out / MASKS / f"{name}.png", picture("mask", found, image, self.model.labels))
            if self.settings.overlays:
                drawn = picture("overlay", found, image, self.model.labels)
                write_bytes(self.out / OVERLAYS / f"{name}.png", drawn)
        write_json(self.out / RESULTS / f"{name}.json", facts)
        self.journal.finish(version, facts, place if self.settings.route else None)
        with (self.out / TABLE).open("ab") as stream:
            stream.write(_encoded(_line(_columns(facts))))
            stream.flush()
            os.fsync(stream.fileno())
        if self.settings.route:
            self._move(version, name, place)
        self.counts[place] += 1
        return True

    def _move(self, version: Version, name: str, place: str) -> None:
        """Move the image of a version, unless that was done or another file has its place."""
        path = self.source / version.file
        if self.arrivals.version_of(version.file) == version:
            target = self.out / place / f"{name}{path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(target)
            except OSError:  # another disk: copy whole, then remove
                write_bytes(target, path.read_bytes())
                shutil.copystat(path, target)
                path.unlink()
        self.journal.moved(version)


@contextlib.contextmanager
def watching(
    model: Model, source: Path, out: Path, settings: Settings, tiling: Tiling | None = None
) -> Iterator[Watch]:
    """Yield a watch that has caught up, alone in its output folder.

    Raises:
        UserError: If a folder is missing, lies in the other, or another process writes to ``out``.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; name the folder that images arrive in")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise UserError(f"{out}: lies in the watched folder {source}; choose a folder outside it for the results")
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{out}: another process writes its results there; choose another folder") from error
        watch = Watch(model, source, out, settings, tiling)
        try:
            watch.catch_up()
            yield watch
        finally:
            watch.journal.close()


def run(watch: Watch, once: bool = False) -> None:
    """Look again and again, or until nothing is left that has arrived or may still do so."""
    while True:
        if watch.look():
            note(", ".join(f"{count} {name}" for name, count in watch.counts.items() if count))
        elif once and not watch.waiting():
            return
        time.sleep(watch.settings.interval)


def _columns(facts: dict[str, Any]) -> list[Any]:
    cells = facts | {"classes": "; ".join(facts.get("classes") or [])}
    return ["" if cells.get(column) is None else cells[column] for column in COLUMNS]


def _line(values: Sequence[Any]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerow(values)
    return stream.getvalue()


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
