"""The table of all images: sorted by any column, filtered by words and classes, each row with its picture."""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from flexunet_pl.report.format import Shown
from flexunet_pl.visualization.html import data_url

STYLE = """
.filters, .swatches { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; margin: .6rem 0; }
.filters input[type=search], .filters select { font: inherit; padding: .25rem .5rem; color: var(--ink);
  background: var(--paper); border: 1px solid var(--line); border-radius: 4px; max-width: 100%; }
.sortable th button { all: unset; cursor: pointer; font-weight: 600; }
.sortable th button:focus-visible { outline: 2px solid var(--link); }
.sortable th[aria-sort=ascending] button::after { content: " \\25b2"; }
.sortable th[aria-sort=descending] button::after { content: " \\25bc"; }
.sortable img { display: block; height: 48px; width: auto; max-width: 120px; border-radius: 3px; }
.sortable td { vertical-align: middle; } .sortable td.name { overflow-wrap: anywhere; min-width: 10rem; }
.images { max-height: 80vh; overflow: auto; } .images th { position: sticky; top: 0; z-index: 1; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const falls = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const isNumber = head.classList.contains("number");
    const rows = [...body.rows].map((row) => [row, value(row, column)]);
    rows.sort(([, one], [, other]) => {
      if (one === "" || other === "") return (one === "") - (other === "");
      const order = isNumber ? Number(one) - Number(other) : one.localeCompare(other, undefined, {numeric: true});
      return falls ? -order : order;
    });
    body.append(...rows.map(([row]) => row));
  }));
}
const filters = document.querySelector("form.filters");
if (filters) {
  const rows = [...document.querySelector("table.sortable").tBodies[0].rows];
  const [words, kind, wrong] = ["words", "kind", "wrong"].map((name) => filters.querySelector(`[name=${name}]`));
  const count = filters.querySelector("output");
  const apply = () => {
    const wanted = words.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const classes = row.dataset.classes.split("\\n");
      const fits = wanted.every((word) => row.dataset.words.includes(word))
        && (kind.value === "" || classes.includes(kind.value)) && (!wrong.checked || row.dataset.wrong === "1");
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} images`;
  };
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
"""


def image_table(
    shown: Shown,
    columns: Sequence[tuple[str, str]],
    classes: Sequence[str],
    panels: Sequence[str],
    small: Sequence[bytes],
) -> str:
    """Return the table with its filters.

    Args:
        shown: The scores; ``per_image`` is read.
        columns: Title of each column of numbers and its key in a row of ``per_image``.
        classes: Names of the foreground classes.
        panels: For each image the picture that its row leads to.
        small: For each image the bytes of a small JPEG, empty for none.
    """
    rows = shown.get("per_image")
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in classes)
    filters = (
        '<form class="filters"><label>Name or group <input type="search" name="words"></label>'
        f'<label>Class <select name="kind"><option value="">any</option>{options}</select></label>'
        '<label><input type="checkbox" name="wrong"> only with errors</label><output></output></form>'
    )
    has_groups = any(row["group"] is not None for row in rows)
    heads = ["<th>picture</th>", _head("image"), *([_head("group")] if has_groups else []), _head("classes")]
    heads += [_head(title, number=True) for title, _ in columns]
    lines = []
    for index, (row, panel, picture) in enumerate(zip(rows, panels, small, strict=True)):
        link = quote(panel)
        image = _small(picture, row["name"])
        cells = [
            f'<td><a href="{link}">{image}</a></td>',
            f'<td class="name"><a href="{link}">{escape(row["name"])}</a></td>',
        ]
        cells += [f"<td>{escape(row['group'] or '')}</td>"] if has_groups else []
        cells.append(f"<td>{escape(', '.join(row['classes']))}</td>")
        for _, key in columns:
            value = "" if row[key] is None else row[key]
            cells.append(f'<td class="number" data-sort="{value}">{shown.number("per_image", index, key)}</td>')
        words = f"{row['name']} {row['group'] or ''}".lower()
        marks = f'data-words="{escape(words)}" data-classes="{escape(chr(10).join(row["classes"]))}"'
        lines.append(f'<tr {marks} data-wrong="{int(_is_wrong(row))}">{"".join(cells)}</tr>')
    table = f'<table class="sortable"><thead><tr>{"".join(heads)}</tr></thead><tbody>\n' + "\n".join(lines)
    return f'{filters}<div class="scroll images">{table}\n</tbody></table></div>'


def _head(title: str, *, number: bool = False) -> str:
    mark = ' class="number"' if number else ""
    return f"<th{mark}><button>{escape(title)}</button></th>"


def _small(picture: bytes, name: str) -> str:
    if not picture:
        return "picture"
    return f'<img loading="lazy" alt="{escape(name)}" src="{data_url(picture)}">'


def _is_wrong(row: dict[str, object]) -> bool:
    return any(row.get(key) for key in ("missed", "invented", "wrong_class", "difference"))
