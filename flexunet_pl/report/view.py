"""Numbers of scores.json as HTML. Each carries its key, a JSON pointer, so that page and file cannot differ."""

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from markupsafe import Markup, escape

from flexunet_pl.nn.metric_registry import number_text

Key = str | int


class ScoresView:
    """Reads scores.json for a template.

    Attributes:
        scores: The content of scores.json.
        start: The key that all keys given later are relative to.
    """

    def __init__(self, scores: Mapping[str, Any], start: Sequence[Key] = ()) -> None:
        """Read ``scores``; keys given later begin after ``start``."""
        self.scores = scores
        self.start = tuple(start)

    def at(self, *key: Key) -> "ScoresView":
        """Return a view with keys that are relative to ``key``."""
        return ScoresView(self.scores, [*self.start, *key])

    def get(self, *key: Key) -> Any:
        """Return the value under a key, None where a value on the way is None."""
        value: Any = self.scores
        for part in (*self.start, *key):
            if value is None:
                return None
            value = value[part]
        return value

    def number(self, *key: Key) -> Markup:
        """Return the number under a key as HTML."""
        text = number_text(self.get(*key))
        return Markup('<span data-key="{}">{}</span>').format(pointer(*self.start, *key), text)

    def interval(self, *key: Key) -> Markup:
        """Return an interval, [low, high], as HTML; n/a for None."""
        if self.get(*key) is None:
            return self.number(*key)
        return Markup('<span class="soft">{} to {}</span>').format(self.number(*key, 0), self.number(*key, 1))

    def note(self, text: str) -> Markup:
        """Return a metric's note as HTML, with the numbers it names as ``{key}``."""
        keys = {name for _, name, _, _ in Formatter().parse(text) if name}
        return escape(text).format(**{key: self.number(key) for key in keys})


def pointer(*key: Key) -> str:
    """Return a JSON pointer (RFC 6901), such as ``/classes/crack/dice``."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in key)
