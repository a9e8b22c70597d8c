"""File names that mean something to HTML are text in the pages."""

import shutil
from pathlib import Path

import pytest
from fuzz import Markup

from flexunet_pl.cli.main import main

NAMES = (
    "<img src=x onerror=alert(1)>",
    '"onmouseover="alert(1)',
    "<script>alert(1)<",
    "javascript:alert(1)",
    "'x'&lt;",
)


@pytest.fixture
def hostile_data(tiny_data: Path, tmp_path: Path) -> Path:
    for kind in ("images", "masks"):
        folder = tmp_path / "data" / "test" / kind
        folder.mkdir(parents=True)
        sources = sorted((tiny_data / "test" / kind).iterdir())
        for number, name in enumerate(NAMES):
            source = sources[number % len(sources)]
            shutil.copy(source, folder / f"{name}{source.suffix}")
    shutil.copy(tiny_data / "palette.yaml", tmp_path / "data" / "palette.yaml")
    return tmp_path / "data"


@pytest.mark.parametrize("command", ["report", "audit"])
def test_names_with_markup_are_escaped_in_the_page(
    command: str, hostile_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    words = [str(tiny_run), str(hostile_data)] if command == "report" else [str(hostile_data)]
    main([command, *words, "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / f"{command}.html").read_text()
    parser = Markup()
    parser.feed(page)
    assert parser.found == []
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
