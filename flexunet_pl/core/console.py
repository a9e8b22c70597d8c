"""What commands print: results, notes, tables, progress bars, and what is repeated once with a count."""

import atexit
import contextlib
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

# rich takes 50 ms to import, so only a progress bar on a terminal imports it.

T = TypeVar("T")

_repeats: Counter[str] = Counter()
_first_lines: dict[str, tuple[str, str]] = {}  # by key: label and message


def say(*lines: str) -> None:
    """Print results to standard output."""
    # Names of files that are no UTF-8 would stop print.
    encoding = sys.stdout.encoding or "utf-8"
    text = "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)
    print(text, flush=True)  # noqa: T201  the one place that prints results


def note(*lines: str) -> None:
    """Print remarks to standard error."""
    print(*lines, sep="\n", file=sys.stderr)  # noqa: T201  the one place that prints remarks


def warn(message: str, key: str | None = None) -> None:
    """Print a warning to standard error; repetitions are only counted, for :func:`flush_warnings`.

    Args:
        message: One line.
        key: Warnings with the same key count as one; None takes the message.
    """
    if is_first(message, key, "warning: "):
        note(f"warning: {message}")


def is_first(message: str, key: str | None = None, label: str = "") -> bool:
    """Return whether to print a line; repetitions are only counted, for :func:`flush_warnings`.

    Of several processes of a run, only the first prints what all of them would.

    Args:
        message: One line.
        key: Lines with the same key count as one; None takes the message.
        label: What stands before it, such as "warning: ".
    """
    if not is_first_process():
        return False
    key = message if key is None else key
    if key in _first_lines:
        _repeats[key] += 1
        return False
    _first_lines[key] = label, message
    return True


def is_first_process() -> bool:
    """Return whether this is the only process of a run, or the first of several on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def flush_warnings() -> None:
    """Print one line for each repeated warning or line with its count, then forget all of them.

    The command line calls this at the end of a command; a process that ends without it does so at exit.
    """
    for key, count in _repeats.items():
        label, message = _first_lines[key]
        note(f"{label}{count} more like this: {message}")
    _repeats.clear()
    _first_lines.clear()


atexit.register(flush_warnings)


@contextlib.contextmanager
def count_python_warnings() -> Iterator[None]:
    """While the block runs, print Python's warnings through :func:`warn`; Pillow's are counted for each place."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\b")
        warnings.showwarning = lambda message, _category, file, line, *_: warn(str(message), f"{file}:{line}")
        yield


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns: text to the left, numbers to the right.

    A column with an int or float in any row is right-aligned; ints get thousands separators, floats 4 decimals.
    """
    body = [list(row) for row in rows]
    is_number = [any(isinstance(row[column], int | float) for row in body) for column in range(len(headers))]
    cells = [list(headers), *([_cell(value) for value in row] for row in body)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    formats = "  ".join(f"{{:{'>' if right else '<'}{width}}}" for right, width in zip(is_number, widths, strict=True))
    return "\n".join(formats.format(*row).rstrip() for row in cells)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` with a progress bar if standard error is a terminal, and silently elsewhere.

    Args:
        items: What to iterate over.
        description: Stands before the bar, such as "Reading images".
        total: The number of items; None takes ``len(items)``, or leaves it open where there is none.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description, total=total, console=Console(stderr=True), transient=True)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
