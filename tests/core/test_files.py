"""A file appears whole or not at all."""

from pathlib import Path

import pytest

from flexunet_pl.core.files import atomic_path, write_json, write_text


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.json"
    write_json(path, {"dice": 1})
    before = path.read_bytes()

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == path.parent
            assert temporary.suffix == ".json"
            raise RuntimeError("the check failed")

    with pytest.raises(RuntimeError, match="the check failed"):
        fail()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "scores.json", {"dice": float("nan")})
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_text_do_not_stop_a_page(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "caf\udce9 \u00e9")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "caf\\udce9 \u00e9"
