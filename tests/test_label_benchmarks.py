"""The benchmarks of labels: planted errors, precision and recall at k, and the split and table of the selection."""

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from curation_data import write_magnets

from flexunet_pl.data.manifest import Row
from flexunet_pl.evaluation.label_errors import LabelFinding
from flexunet_pl.evaluation.label_regions import INVENTED, KINDS, LOOSE_EDGE, MISSING, WRONG_CLASS


def benchmark(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


label_errors, selection = benchmark("label_errors"), benchmark("selection")


def finding(image: str, kind: str, box: tuple[int, int, int, int]) -> LabelFinding:
    return LabelFinding(image, image, kind, "background", "crack", box, 9, 0.5, 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_error_changes_what_its_kind_says(kind: str) -> None:
    mask_index = np.zeros((100, 100), np.uint8)
    mask_index[20:40, 20:50] = 1
    changed, box = label_errors.plant(mask_index, kind, 3, np.random.default_rng(0))
    places = np.argwhere(changed != mask_index)
    assert len(places)
    assert (places >= [box[1], box[0]]).all()
    assert (places < [box[3], box[2]]).all()
    if kind == MISSING:
        assert not changed.any()
        assert box == (20, 20, 50, 40)
    elif kind == WRONG_CLASS:
        assert set(np.unique(changed)) == {0, 2}
    elif kind == INVENTED:
        assert (changed[20:40, 20:50] == 1).all()
        assert changed[box[1] : box[3], box[0] : box[2]].any()
    else:
        assert set(np.unique(changed)) == {0, 1}
    good = np.zeros((100, 100), np.uint8)
    assert (label_errors.plant(good, kind, 3, np.random.default_rng(0)) is None) == (kind != INVENTED)


def test_precision_and_recall_at_k_are_worked_numbers() -> None:
    planted = [label_errors.Planted("a", MISSING, (0, 0, 10, 10)), label_errors.Planted("b", LOOSE_EDGE, (0, 0, 9, 9))]
    found = [
        finding("a", MISSING, (5, 5, 15, 15)),  # a quarter of the box
        finding("b", MISSING, (0, 0, 9, 9)),  # another kind
        finding("b", LOOSE_EDGE, (20, 20, 30, 30)),  # elsewhere
        finding("b", LOOSE_EDGE, (0, 0, 9, 9)),
    ]
    assert label_errors.precision_and_recall(found, planted, 1) == (1, 0.5)
    assert label_errors.precision_and_recall(found, planted, 2) == (0.5, 0.5)
    assert label_errors.precision_and_recall(found, planted, 4) == (0.5, 1)
    assert label_errors.precision_and_recall(found[:1], planted, 4) == (0.25, 0.5)
    rows = label_errors.table([(found, planted), (found, planted)]).splitlines()[2:]
    assert rows == [
        f"| {MISSING} | 2 | 1.00 | 1.00 | 1.00 | 1.00 |",
        f"| {LOOSE_EDGE} | 2 | 0.00 | 0.00 | 1.00 | 1.00 |",
        "| all | 4 | 0.50 | 0.50 | 1.00 | 1.00 |",
    ]


def test_no_magnet_is_in_pool_and_test() -> None:
    rows = [
        Row(
            f"train/images/{label}{magnet}_{image}.png",
            "",
            f"{label}{magnet}",
            {"background": 1, "x": label == "x"},
            "train",
            "",
        )
        for label in ("x", "good")
        for magnet in range(10)
        for image in range(4)
    ]
    pool, test = selection.split(rows, seed=0, pool=50, test=15)
    group_of = {row.name: row.group for row in rows}
    assert not {group_of[name] for name in pool} & {group_of[name] for name in test}
    assert len(pool) == 50
    assert [name[0] for name in test] == ["x"] * 12 + ["g"] * 3, "three of ten magnets, the defective first"
    assert selection.split(rows, seed=0, pool=50, test=15) == (pool, test)


def test_the_table_of_the_selection_compares_the_arms_seed_by_seed() -> None:
    def one(seed: int, arm: str, dice: float) -> dict[str, Any]:
        return {"seed": seed, "arm": arm, "labelled": 40, "defective": 9, "magnets": 5, "dice": dice, "chosen": []}

    results = {
        "0 select 1": one(0, "select", 0.5),
        "0 random 1": one(0, "random", 0.4),
        "1 select 1": one(1, "select", 0.3),
        "1 random 1": one(1, "random", 0.5),
        "2 select 1": one(2, "select", 0.9),  # without its partner
    }
    assert selection.table(results).splitlines()[2:] == [
        "| 40 | 2 | 0.400 | 0.450 | -0.050 (-0.200 to +0.100) | 1 of 2 | 9.0 / 9.0 | 5.0 / 5.0 |"
    ]


@pytest.mark.full
def test_what_is_trained_for_planted_errors_is_not_trained_again(
    tiny_data: Path,
    tiny_config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = tmp_path / "with_palette.yaml"
    content = yaml.safe_load(tiny_config.read_text())
    content["data"]["palette"] = str(tiny_data / "palette.yaml")
    config.write_text(yaml.safe_dump(content))
    words = ["--data", str(tiny_data), "--out", str(tmp_path / "out"), "--config", str(config), "--folds", "2"]
    words += ["--steps", "2", "--each", "1", "--draws", "2"]
    assert label_errors.main(words) == 0
    first = (tmp_path / "out" / "table.md").read_text()
    assert first in capsys.readouterr().out
    monkeypatch.setattr(label_errors, "flexunet", lambda *words: pytest.fail(f"called {words}"))
    assert label_errors.main(words) == 0
    assert (tmp_path / "out" / "table.md").read_text() == first


# Lightning warns that no validation chooses the best checkpoint; the last one is what is wanted.
@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
@pytest.mark.full
def test_the_selection_resumes_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    magnet_of = write_magnets(tmp_path / "magnets", {"MT_Blowhole": 4, "MT_Break": 4, "MT_Free": 6}, exposures=2)
    with (tmp_path / "magnets" / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "group"], *magnet_of.items()])
    words = ["--data", str(tmp_path / "magnets"), "--out", str(tmp_path / "out"), "--seeds", "1", "--start", "4"]
    words += ["--count", "3", "--pool", "16", "--test", "6", "--steps", "1", "--size", "32"]
    assert selection.main([*words, "--rounds", "0"]) == 0
    assert selection.main([*words, "--rounds", "1"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == ["0 start 0", "0 select 1", "0 random 1"]
    assert {len(set(one["chosen"])) for one in results.values()} == {0, 3}
    assert results["0 select 1"]["labelled"] == 7
    capsys.readouterr()
    monkeypatch.setattr(selection, "flexunet", lambda words: pytest.fail(f"called {words}"))
    assert selection.main([*words, "--rounds", "1"]) == 0
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out
