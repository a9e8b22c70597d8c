"""Rows as CSV that reads back exactly, whatever is in a cell."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a header and rows as CSV with line feeds; cells with commas, quotes and line breaks are quoted."""
    text = io.StringIO()
    cells = [header, *rows]
    # csv does not quote a carriage return by itself, but reads it as the end of a row.
    has_returns = any("\r" in str(cell) for row in cells for cell in row)
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if has_returns else csv.QUOTE_MINIMAL)
    writer.writerows(cells)
    return text.getvalue()


def csv_of_maps(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows by column name as CSV; columns in the order they first occur, missing cells empty."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return csv_text(keys, ([row.get(key, "") for key in keys] for row in rows))
