"""Charts for pages, drawn as SVG by the template: they take its colours, light or dark, and stay sharp."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

DASHES = ("", "7 3", "2 3", "9 3 2 3")
COLORS = 6  # as many as the style has: s0 to s5

FIFTHS = tuple((step / 5, f"{step / 5:g}") for step in range(6))


class Line(NamedTuple):
    """A line through points (x, y), each with a dot where they are few.

    Lines with the same ``style``, from 0, look alike in all charts; without one, the place in the chart decides.
    """

    name: str
    points: Sequence[Sequence[float]]
    style: int | None = None


class Axis(NamedTuple):
    """An axis from ``low`` to ``high``, with ticks (place, text)."""

    title: str
    low: float = 0.0
    high: float = 1.0
    ticks: Sequence[tuple[float, str]] = FIFTHS


@dataclass(frozen=True)
class Chart:
    """Lines over two axes; ``diagonal`` adds a line from corner to corner."""

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    diagonal: bool = False
    width: ClassVar = 460
    height: ClassVar = 320
    # Where the frame begins and ends.
    left: ClassVar = 52
    right: ClassVar = width - 12
    top: ClassVar = 12
    bottom: ClassVar = height - 44

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the position of a point in the drawing."""
        across = self.left + (self.right - self.left) * (x - self.x.low) / (self.x.high - self.x.low)
        down = self.bottom - (self.bottom - self.top) * (y - self.y.low) / (self.y.high - self.y.low)
        return round(across, 1), round(down, 1)

    def styles(self) -> list[tuple[int, str]]:
        """Return number of the colour, and dashes, of each line; dashes change where the colours repeat."""
        numbers = [place if line.style is None else line.style for place, line in enumerate(self.lines)]
        return [(number % COLORS, DASHES[number // COLORS % len(DASHES)]) for number in numbers]
