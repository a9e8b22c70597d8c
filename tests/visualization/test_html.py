"""Pages: everything is escaped, and nothing is loaded from elsewhere."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from flexunet_pl.visualization.charts import Axis, Chart, Line
from flexunet_pl.visualization.html import Picture, cell_text, data_url, numeric_columns, render

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "test.html.j2"
    path.write_text(
        '{% extends "page.html.j2" %}{% import "parts.html.j2" as parts %}{% block content %}'
        "{{ parts.values(headers, rows) }}{{ parts.bullets(lines, 2) }}{{ parts.figure(picture) }}"
        "{{ parts.chart(chart) }}{% endblock %}"
    )
    return path


def test_text_cannot_become_html(template: Path) -> None:
    evil = "<script>alert('1')</script>"
    chart = Chart(evil, [Line(evil, [(0, 0), (1, 1)]), Line("b", [])], Axis(evil), Axis("y", ticks=[(0, evil)]))
    values = {"headers": [evil], "rows": [[evil]], "lines": [evil] * 3, "picture": Picture(PNG, evil), "chart": chart}
    text = render(template, title=evil, **values)
    assert "<script" not in text
    escaped = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"
    # Title and heading, header and cell, two bullets, picture twice, chart: title twice, x axis, tick, legend.
    assert text.count(escaped) == 2 + 2 + 2 + 2 + 5
    assert "and 1 more" in text
    assert Markup("<b>") in render(template, title="", **values | {"rows": [[Markup("<b>")]]})


def test_a_value_that_is_missing_is_an_error(template: Path) -> None:
    with pytest.raises(UndefinedError, match="headers"):
        render(template, title="")


def test_numbers_are_aligned_right_and_short() -> None:
    rows: list[list[object]] = [["a", 12345, 0.51234], ["b", None, 12345.6]]
    assert numeric_columns(rows, 3) == [False, True, True]
    assert numeric_columns([], 2) == [False, False]
    assert [[cell_text(value) for value in row] for row in rows] == [["a", "12,345", "0.5123"], ["b", "n/a", "12,346"]]


def test_points_of_a_chart_are_placed_between_the_ends_of_its_axes() -> None:
    chart = Chart("", [], Axis("x", 1, 3), Axis("y", 0, 10))
    assert chart.place(1, 0) == (chart.left, chart.bottom)
    assert chart.place(3, 10) == (chart.right, chart.top)
    assert chart.place(2, 5) == ((chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2)


def test_only_pictures_are_embedded() -> None:
    assert data_url(PNG).startswith("data:image/png;base64,")
    with pytest.raises(ValueError, match="must be PNG, JPEG, WebP or GIF"):
        data_url(b"<svg>")
