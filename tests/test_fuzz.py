"""A few cases of the fuzz benchmark: damaged and hostile files end in a result or in one clear error."""

from typing import Any

import pytest
from test_benchmarks import benchmark, counts_in, run_benchmark

fuzz: Any = benchmark("fuzz")
QUICK = (
    *("palette", "mask", "npz", "image", "infer_image", "tiff", "onnx", "checkpoint", "safetensors", "pth", "keras"),
    *("hdf5", "manifest", "original"),
)
SLOW = ("config", "words", "commands", "names", "resume")  # each of these starts a command


@pytest.mark.parametrize(
    ("names", "cases"),
    [pytest.param(QUICK, 70, id="files"), pytest.param(SLOW, 50, marks=pytest.mark.full, id="commands")],
)
def test_damaged_files_give_one_error_each(names: tuple[str, ...], cases: int) -> None:
    run = run_benchmark("fuzz", "--cases", str(cases), "--seed", "7", "--only", ",".join(names))
    assert run.returncode == 0, run.stdout + run.stderr
    counts = counts_in(run.stdout)
    assert counts.pop("**all**") == cases
    assert {name: count > 0 for name, count in counts.items()} == dict.fromkeys(names, True)


def test_the_table_counts_each_target_and_all() -> None:
    counts = {"mask": fuzz.Counter(accepted=2, hang=1), "npz": fuzz.Counter(refused=1_000)}
    lines = fuzz.table(counts).splitlines()
    assert lines[2] == "| mask | 3 | 2 | 0 | 0 | 1 | 0 | 0 | 0 |"
    assert lines[-1] == "| **all** | 1,003 | 2 | 1,000 | 0 | 1 | 0 | 0 | 0 |"


def test_cases_are_spread_by_share_and_repeat() -> None:
    work = fuzz.spread(90, {"slow": 1, "quick": 8}, 5)
    assert sorted(work) == [("quick", n) for n in range(5, 85)] + [("slow", n) for n in range(5, 15)]
    assert work == fuzz.spread(90, {"slow": 1, "quick": 8}, 5)


@pytest.mark.parametrize(
    ("page", "found"),
    [
        pytest.param("<p>&lt;img src=x onerror=alert(1)&gt;</p>", False, id="escaped"),
        pytest.param("<p><img src=x onerror=alert(1)></p>", True, id="an event"),
        pytest.param('<a href=" javascript:alert(1)">x</a>', True, id="an address"),
        pytest.param("<script>alert(1)</script>", True, id="a script"),
    ],
)
def test_markup_from_names_is_found(page: str, found: bool) -> None:
    parser = fuzz.Markup()
    parser.feed(page)
    assert bool(parser.found) == found
