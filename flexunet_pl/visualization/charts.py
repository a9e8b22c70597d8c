"""Charts as SVG inside a page: they take its colours, light or dark, and stay sharp on any screen."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44
DASHES = ("", "7 3", "2 3", "9 3 2 3")
COLORS = 6

# Told apart by people with any kind of colour vision (Okabe and Ito), on light and on dark paper.
STYLE = """
:root { --s0: #0072b2; --s1: #c25a00; --s2: #00805c; --s3: #b1568e; --s4: #2a8fc9; --s5: #8a6d00; }
@media (prefers-color-scheme: dark) { :root { --s0: #4aa8e0; --s1: #f0883e; --s2: #35c195; --s3: #dd94bf;
  --s4: #8ccdf2; --s5: #e3c13b; } }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 1rem; }
.chart { margin: 0; } .chart svg { width: 100%; height: auto; display: block; }
.chart figcaption { font-weight: 600; color: var(--ink); }
.chart text { font: 13px system-ui, sans-serif; fill: var(--soft); }
.chart .frame { fill: none; stroke: var(--line); } .chart .rule { stroke: var(--line); stroke-dasharray: 2 4; }
.chart polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; list-style: none; padding: 0; margin: 0; }
.legend svg { width: 28px; height: 10px; vertical-align: middle; margin-right: .3em; }
""" + "".join(f".s{number} {{ stroke: var(--s{number}); fill: var(--s{number}); }}\n" for number in range(COLORS))


class Line(NamedTuple):
    """A line through points (x, y), each with a dot where they are few."""

    name: str
    points: Sequence[Sequence[float]]


FIFTHS = tuple((step / 5, f"{step / 5:g}") for step in range(6))


class Axis(NamedTuple):
    """What is shown along an axis: from ``low`` to ``high``, with ticks (place, text)."""

    title: str
    low: float = 0.0
    high: float = 1.0
    ticks: Sequence[tuple[float, str]] = FIFTHS


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, *, diagonal: bool = False) -> str:
    """Return a chart as an HTML figure with a legend; ``diagonal`` adds a line from corner to corner."""
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(at_x: float, at_y: float) -> tuple[float, float]:
        across = LEFT + inner_width * (at_x - x.low) / (x.high - x.low)
        return round(across, 1), round(TOP + inner_height * (1 - (at_y - y.low) / (y.high - y.low)), 1)

    parts = [f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{inner_width}" height="{inner_height}"/>']
    for value, text in x.ticks:
        across, _ = place(value, y.low)
        parts.append(f'<line class="rule" x1="{across}" x2="{across}" y1="{TOP}" y2="{TOP + inner_height}"/>')
        parts.append(f'<text x="{across}" y="{TOP + inner_height + 16}" text-anchor="middle">{escape(text)}</text>')
    for value, text in y.ticks:
        _, down = place(x.low, value)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{LEFT + inner_width}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down + 4}" text-anchor="end">{escape(text)}</text>')
    middle = TOP + inner_height / 2
    parts.append(f'<text x="{LEFT + inner_width / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.title)}</text>')
    parts.append(
        f'<text transform="rotate(-90 13 {middle})" x="13" y="{middle}" text-anchor="middle">{escape(y.title)}</text>'
    )
    if diagonal:
        (x1, y1), (x2, y2) = place(x.low, y.low), place(x.high, y.high)
        parts.append(f'<line class="frame" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    for number, line in enumerate(lines):
        places = [place(*point) for point in line.points]
        mark = f'class="s{number % COLORS}"'
        path = " ".join(f"{across},{down}" for across, down in places)
        parts.append(f'<polyline {mark} style="fill:none" stroke-dasharray="{_dash(number)}" points="{path}"/>')
        if len(places) <= 20:
            parts += [f'<circle {mark} cx="{across}" cy="{down}" r="3"/>' for across, down in places]
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{drawing}{_legend(lines)}</figure>'


def charts(figures: Sequence[str]) -> str:
    """Return charts side by side, as many as the window is wide."""
    return '<div class="charts">\n' + "\n".join(figures) + "\n</div>"


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) < 2:
        return ""
    items = [
        f'<li><svg viewBox="0 0 28 10"><line class="s{number % COLORS}" stroke-width="3" '
        f'stroke-dasharray="{_dash(number)}" x1="0" x2="28" y1="5" y2="5"/></svg>{escape(line.name)}</li>'
        for number, line in enumerate(lines)
    ]
    return '<ul class="legend">' + "".join(items) + "</ul>"


def _dash(number: int) -> str:
    return DASHES[number // COLORS % len(DASHES)]
