"""Numbers of scores.json as HTML. Each bears its key, a JSON pointer, so that page and file cannot tell differently."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Key = str | int


class Shown:
    """Shows what scores.json holds.

    Attributes:
        scores: The content of scores.json.
        start: The key that all keys asked for are relative to.
    """

    def __init__(self, scores: Mapping[str, Any], start: Sequence[Key] = ()) -> None:
        """Show ``scores``; keys given later begin after ``start``."""
        self.scores = scores
        self.start = tuple(start)

    def at(self, *key: Key) -> "Shown":
        """Return the same with keys that are relative to ``key``."""
        return Shown(self.scores, [*self.start, *key])

    def get(self, *key: Key) -> Any:
        """Return the value under a key, None where there is none."""
        value: Any = self.scores
        for part in (*self.start, *key):
            if value is None:
                return None
            value = value[part]
        return value

    def number(self, *key: Key) -> str:
        """Return the number under a key as HTML."""
        return f'<span data-key="{escape(pointer(*self.start, *key))}">{number_text(self.get(*key))}</span>'

    def interval(self, *key: Key) -> str:
        """Return an interval, [low, high], as HTML; nothing where there is none."""
        if self.get(*key) is None:
            return ""
        return f'<span class="soft">{self.number(*key, 0)} to {self.number(*key, 1)}</span>'


def pointer(*key: Key) -> str:
    """Return a JSON pointer (RFC 6901), such as ``/classes/crack/dice``."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in key)


def number_text(value: float | None) -> str:
    """Return a number as people read it: n/a for None, 4 decimals for what is not whole."""
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def grid(headers: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table of cells that are HTML already; the first column is text, all others are numbers."""

    def cells(tag: str, texts: Sequence[str]) -> str:
        marks = ["", *[' class="number"'] * (len(texts) - 1)]
        return "".join(f"<{tag}{mark}>{text}</{tag}>" for mark, text in zip(marks, texts, strict=True))

    head = cells("th", [escape(header) for header in headers])
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    mark = f' class="{kind}"' if kind else ""
    return f'<div class="scroll"><table{mark}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def cards(entries: Sequence[tuple[str, str, str]]) -> str:
    """Return figures in boxes side by side: what it is (text), the number and what goes with it (both HTML)."""
    boxes = [
        f'<div class="card"><div class="soft">{escape(what)}</div><div class="figure">{number}</div>'
        f"<div>{beside}</div></div>"
        for what, number, beside in entries
    ]
    return '<div class="cards">' + "\n".join(boxes) + "</div>"


def note(html: str, tone: str = "") -> str:
    """Return a paragraph of HTML; ``tone`` colours it: good, warn, bad or soft."""
    return f'<p class="{tone}">{html}</p>' if tone else f"<p>{html}</p>"
