"""The shell of a self-contained HTML page: style, tables, embedded pictures. Nothing is loaded from anywhere.

The functions return pieces of HTML; all text they are given is escaped. :func:`page` makes a document of them.
"""

import base64
from collections.abc import Sequence
from html import escape

SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp", b"GIF8": "image/gif"}

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --ink: #1d1f21; --soft: #62666b; --line: #d9dbde; --band: #f0f1f2;
  --good: #0a7d4f; --warn: #9a5b00; --bad: #b3261e; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --paper: #17181a; --ink: #e6e7e8; --soft: #9fa4aa; --line: #3a3d41;
  --band: #222427; --good: #4cc38a; --warn: #e8a33d; --bad: #ff7b72; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p, ul { margin: .5rem 0; max-width: 75ch; }
ul { padding-left: 1.3rem; }
a { color: var(--link); }
code { background: var(--band); border-radius: 3px; padding: 0 .25em; font-size: .9em; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--band); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
figure { margin: .6rem 0; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px;
  background: #fff; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .2rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: .8rem; }
.gallery figure { margin: 0; }
.badge { font-weight: 600; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.soft { color: var(--soft); }
"""


def page(title: str, pieces: Sequence[str], style: str = "", script: str = "") -> str:
    """Return a whole HTML document with a heading and the given pieces of HTML, and more style and a script if any."""
    behaviour = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(pieces)
        + f"\n{behaviour}</body>\n</html>\n"
    )


def section(title: str, pieces: Sequence[str]) -> str:
    """Return a section with a heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(pieces) + "\n</section>"


def heading(text: str) -> str:
    """Return a heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, tone: str = "") -> str:
    """Return a paragraph; ``tone`` colours it: good, warn, bad or soft."""
    return f'<p class="{escape(tone)}">{escape(text)}</p>' if tone else f"<p>{escape(text)}</p>"


def bullets(lines: Sequence[str], most: int | None = None) -> str:
    """Return a list of lines, at most ``most`` of them and how many more there are."""
    shown = list(lines) if most is None else list(lines[:most])
    more = len(lines) - len(shown)
    items = [f"<li>{escape(line)}</li>" for line in shown]
    if more:
        items.append(f'<li class="soft">and {more:,} more</li>')
    return "<ul>\n" + "\n".join(items) + "\n</ul>"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; numbers stand right-aligned, None becomes n/a, and a wide table scrolls by itself."""
    numeric = [
        bool(rows) and all(row[column] is None or isinstance(row[column], int | float) for row in rows)
        for column in range(len(headers))
    ]

    def cells(tag: str, texts: Sequence[str]) -> str:
        marks = [' class="number"' if is_number else "" for is_number in numeric]
        return "".join(f"<{tag}{mark}>{escape(text)}</{tag}>" for mark, text in zip(marks, texts, strict=True))

    lines = [f"<tr>{cells('td', [_text(value) for value in row])}</tr>" for row in rows]
    head = f"<thead><tr>{cells('th', headers)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"


def picture(content: bytes, caption: str) -> str:
    """Return a figure with an embedded picture; ``content`` is the bytes of a PNG, JPEG, WebP or GIF file.

    Raises:
        ValueError: If the bytes are none of these.
    """
    label = escape(caption)
    image = f'<img loading="lazy" alt="{label}" src="{data_url(content)}">'
    return f"<figure>{image}<figcaption>{label}</figcaption></figure>"


def data_url(content: bytes) -> str:
    """Return the bytes of a PNG, JPEG, WebP or GIF file as an address that holds them.

    Raises:
        ValueError: If the bytes are none of these.
    """
    kind = next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), None)
    if kind is None:
        raise ValueError(f"a picture must be PNG, JPEG, WebP or GIF; these bytes begin with {content[:4]!r}")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def gallery(figures: Sequence[str]) -> str:
    """Return figures side by side, as many as the window is wide."""
    return '<div class="gallery">\n' + "\n".join(figures) + "\n</div>"


def _text(value: object) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
