"""The log that infer --log appends to: one image a line, as JSON, or as CSV with a header."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError

TIME_HINT = "such as 2026-05-31T07:15:00Z"
DECISIONS = ("OK", "NG")


@dataclass(frozen=True)
class LogEntry:
    """What is known of an image; all but the time may be missing.

    Attributes:
        time: When it was segmented, in UTC, which a time without a zone counts as.
        image: The file.
        model: The first digits of the SHA-256 of the model's checkpoint.
        decision: OK or NG.
        classes: Names of the classes of defects that the mask shows.
        scores: defect_probability, uncertainty, drift_score and other numbers, by name.
    """

    time: datetime
    image: str
    model: str | None
    decision: str | None
    classes: frozenset[str]
    scores: Mapping[str, float]

    @property
    def is_rejected(self) -> bool:
        """Whether the decision is NG; without a decision, whether the mask shows a defect."""
        return bool(self.classes) if self.decision is None else self.decision == "NG"


def read_log(path: Path) -> tuple[list[LogEntry], list[str]]:
    """Return the entries of a log by time, and a line on each line that could not be read, such as a half-written one.

    Raises:
        UserError: If the file cannot be read, or no line of it is an entry.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a log that infer --log writes") from error
    entries, problems = [], []
    for number, row in _rows(text):
        try:
            entries.append(_entry(row))
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{path}, line {number}: is no entry ({error})")
    if not entries:
        first = f"; {problems[0]}" if problems else ""
        raise UserError(f"{path}: holds no entry{first}; give a log that infer --log writes, or CSV with a column time")
    return sorted(entries, key=lambda entry: entry.time), problems


def _rows(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the number and the content of each line: of JSON, or of CSV if the first line is no JSON object."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if not first.lstrip().startswith("{") and "time" in next(csv.reader([first]), []):
        yield from enumerate(csv.DictReader(lines), 2)
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, line[:40]


def _entry(row: Any) -> LogEntry:
    if not isinstance(row, dict):
        raise TypeError(f"{row} is no JSON object")
    time = datetime.fromisoformat(str(row["time"])) if row.get("time") else None
    if time is None:
        raise ValueError(f"time is missing, {TIME_HINT}")
    decision = row.get("decision") or None
    if decision is not None and str(decision).upper() not in DECISIONS:
        raise ValueError(f"decision {decision!r} must be OK or NG")
    classes = row.get("classes") or ()
    if isinstance(classes, str):
        classes = [name.strip() for name in classes.split(",") if name.strip()]
    known = {"time", "image", "model", "decision", "classes"}
    return LogEntry(
        (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC),
        str(row.get("image") or ""),
        str(row["model"]) if row.get("model") else None,
        None if decision is None else str(decision).upper(),
        frozenset(map(str, classes)),
        {str(key): number for key, value in row.items() if key not in known and (number := _number(value)) is not None},
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
