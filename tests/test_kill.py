"""A few kills of the kill benchmark: a killed command loses nothing, and succeeds when it is started again."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_benchmarks import benchmark, counts_in, run_benchmark

kill: Any = benchmark("kill")


@pytest.mark.full
def test_killed_commands_lose_nothing_and_start_again() -> None:
    run = run_benchmark("kill", "--times", "5", "--seed", "3")
    assert run.returncode == 0, run.stdout + run.stderr
    assert counts_in(run.stdout) == dict.fromkeys(kill.SCENARIOS, 1) | {"**all**": 5}


def project(place: Path) -> Path:
    (place / "tmp").mkdir()
    (place / "project" / "out").mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(place / "project" / "out" / "mask.png")
    (place / "project" / "out" / "scores.json").write_text("{}")
    (place / "project" / "photo.csv").write_text("a,b\n1,2\n")
    return place / "project"


def test_what_is_whole_is_no_fault(tmp_path: Path) -> None:
    place = project(tmp_path)
    before = kill.inventory(place)
    (place / "out" / "scores.json").write_text('{"dice": 1}')
    assert kill.fault_in(place, before, "out") is None
    assert kill.left_over(place) == []


@pytest.mark.parametrize(
    ("name", "content", "outcome"),
    [
        pytest.param("out/mask.png", None, "lost", id="a file that is gone"),
        pytest.param("out/mask.png", b"\x89PNG\r\n", "damaged", id="half a picture"),
        pytest.param("out/scores.json", b'{"dice": ', "damaged", id="half a JSON"),
        pytest.param("out/new.csv", b"a,b\n1\n", "damaged", id="half a row"),
        pytest.param("out/page.html", b"<html><p>", "damaged", id="half a page"),
        pytest.param("out/check.json", json.dumps({"files": {"mask.png": "0"}}).encode(), "damaged", id="a bundle"),
        pytest.param("photo.csv", b"a,b\n", "inputs changed", id="an input"),
    ],
)
def test_each_fault_is_found(name: str, content: bytes | None, outcome: str, tmp_path: Path) -> None:
    place = project(tmp_path)
    before = kill.inventory(place)
    (place / name).unlink(missing_ok=True)
    if content is not None:
        (place / name).write_bytes(content)
    assert kill.fault_in(place, before, "out")[0] == outcome


def test_temporary_files_are_left_over(tmp_path: Path) -> None:
    place = project(tmp_path)
    (place / "out" / ".mask-1.png").touch()
    (tmp_path / "tmp" / "flexunet-1").mkdir()
    assert kill.left_over(place) == ["project/out/.mask-1.png", "tmp/flexunet-1"]


def test_the_table_counts_each_command_and_all() -> None:
    lines = kill.table({"fit": Counter({"whole": 2, "lost": 1, "ended before": 1}), "infer": Counter(whole=1)})
    assert lines.splitlines()[2] == "| fit | 3 | 1 | 2 | 1 | 0 | 0 | 0 | 0 |"
    assert lines.splitlines()[-1] == "| **all** | 4 | 1 | 3 | 1 | 0 | 0 | 0 | 0 |"
