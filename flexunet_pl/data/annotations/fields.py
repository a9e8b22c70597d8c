"""Values of annotation files, checked: errors name the file, the annotation, the value, the rule and the repair."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.annotations.shapes import FloatArray

# A coordinate beyond is no place in any image.
FARTHEST = 1e7
MOST_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Place:
    """Where in a file a value stands.

    Attributes:
        file: The file.
        name: What stands there, such as "annotation 17".
    """

    file: Path
    name: str = ""

    def at(self, name: str) -> "Place":
        """Return another place in the same file."""
        return Place(self.file, name)

    def fail(self, what: str, repair: str) -> NoReturn:
        """Raise the UserError that says what is wrong here, and how to repair it."""
        raise UserError(f"{self.file}: {self.name}{': ' if self.name else ''}{what}; {repair}")

    def mapping(self, value: object, key: str) -> Mapping[str, Any]:
        """Return a value that must be an object with keys."""
        if not isinstance(value, dict):
            self.fail(f"{key} is {shown(value)}, but must be an object", "export the annotations again")
        return value

    def items(self, value: object, key: str) -> list[Any]:
        """Return a value that must be a list."""
        if not isinstance(value, list):
            self.fail(f"{key} is {shown(value)}, but must be a list", "export the annotations again")
        return value

    def label(self, value: object, key: str = "label") -> str:
        """Return a value that must name a class."""
        if not isinstance(value, str) or not value.strip():
            self.fail(f"{key} is {shown(value)}, but must name a class", "give the shape a label")
        return value.strip()

    def text(self, value: object, key: str) -> str:
        """Return a value that must be text."""
        if not isinstance(value, str) or not value:
            self.fail(f"{key} is {shown(value)}, but must be text", "export the annotations again")
        return value

    def number(self, value: object, key: str) -> float:
        """Return a value that must be a coordinate or a length; numbers in text, as XML has them, are read."""
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # else it raises
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= FARTHEST:
            self.fail(
                f"{key} is {shown(value)}, but must be a number from -{FARTHEST:,.0f} to {FARTHEST:,.0f}",
                "correct or delete the shape",
            )
        return number

    def size(self, value: object, key: str) -> int:
        """Return a value that must be a whole number of pixels, 1 or more."""
        number = self.number(value, key)
        if number < 1 or number != int(number):
            self.fail(f"{key} is {shown(value)}, but must be a whole number, 1 or more", "export the annotations again")
        return int(number)

    def ring(self, value: object, key: str, least: int = 3) -> FloatArray:
        """Return a list of points [x, y], or of numbers x, y, x, y ..., as float64 (N, 2)."""
        items = self.items(value, key)
        if items and not isinstance(items[0], list | tuple):
            if len(items) % 2:
                self.fail(f"{key} has {len(items)} numbers, but x and y come in pairs", "draw the shape again")
            items = list(zip(items[::2], items[1::2], strict=True))
        points = []
        for item in items:
            if not isinstance(item, list | tuple) or len(item) != 2:
                self.fail(f"{key} holds {shown(item)}, but a point is [x, y]", "draw the shape again")
            points.append((self.number(item[0], key), self.number(item[1], key)))
        if len(points) < least:
            self.fail(
                f"{key} has {len(points)} points, but needs {least} or more", "draw the shape again, or delete it"
            )
        return np.array(points, dtype=np.float64).reshape(-1, 2)


def shown(value: object) -> str:
    """Return a value as an error shows it, in one line of limited length."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
