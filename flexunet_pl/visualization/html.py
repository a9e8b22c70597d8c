"""Render self-contained HTML pages from Jinja2 templates; nothing is loaded from anywhere.

Every value is escaped unless it is :class:`markupsafe.Markup`. Templates extend ``page.html.j2`` and use the macros of
``parts.html.j2``, both in the folder ``templates`` of this package.
"""

import base64
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp", b"GIF8": "image/gif"}


class Picture(NamedTuple):
    """The bytes of a PNG, JPEG, WebP or GIF file, and its caption."""

    content: bytes
    caption: str


def render(template: Path, **values: Any) -> str:
    """Return the page of a template file as text."""
    return _environment(template.parent).get_template(template.name).render(values)


@lru_cache
def _environment(folder: Path) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # a --help does not need it

    loader = FileSystemLoader([folder, Path(__file__).parent / "templates"])
    made = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    made.filters |= {"data_url": data_url, "cell": cell_text, "numeric_columns": numeric_columns, "swatch": swatch}
    return made


def data_url(content: bytes) -> str:
    """Return the bytes of a PNG, JPEG, WebP or GIF file as a data: address.

    Raises:
        ValueError: If the bytes are none of these.
    """
    kind = next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), None)
    if kind is None:
        raise ValueError(f"a picture must be PNG, JPEG, WebP or GIF; these bytes begin with {content[:4]!r}")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def swatch(color: Sequence[int]) -> Markup:
    """Return a small square in a colour (red, green, blue), 0..255, as HTML."""
    return Markup('<span class="swatch" style="background:rgb({} {} {})"></span>').format(*color)


def numeric_columns(rows: Sequence[Sequence[object]], count: int) -> list[bool]:
    """Return which of ``count`` columns of a table hold only numbers and None, and are aligned right."""
    return [
        bool(rows) and all(row[column] is None or isinstance(row[column], int | float) for row in rows)
        for column in range(count)
    ]


def cell_text(value: object) -> str | Markup:
    """Return a table's cell: n/a for None, thousands separated, floats with 4 digits."""
    if value is None:
        return "n/a"
    if isinstance(value, Markup):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
