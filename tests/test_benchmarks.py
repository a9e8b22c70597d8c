"""The benchmark commands: recipes are compared and resumed, the training table has a row for each variant."""

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from curation_data import write_magnets
from onnx_models import write_model
from PIL import Image
from safetensors import safe_open

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.manifest import read_manifest
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.sources import source_of
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE
from flexunet_pl.nn.networks import build_network


def benchmark(name: str) -> ModuleType:
    """Return a script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run_benchmark(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script of benchmarks/ that forks, in a process of its own: this one has computed, and has threads."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def counts_in(table: str) -> dict[str, int]:
    """Return the first number of each row of a table of such a script, by the name of the row."""
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {name: int(number.replace(",", "")) for name, number, *_ in rows[1:]}


quality: Any = benchmark("quality")


def result(name: str, seed: int, macro: float | None, **dice: float | None) -> Any:
    return quality.Result(name, seed, dice, macro, 100 * (seed + 1), 2.0)


def test_a_plan_is_recipes_times_seeds_with_changes_on_top_of_each_other() -> None:
    plan = {
        "minutes": 3,
        "set": {"a": 1, "b": 1},
        "runs": {
            "one": {"config": "one.yaml", "seeds": [4, 5], "set": {"b": 2}},
            "two": {"config": "two.yaml", "minutes": 6},
        },
    }
    runs = quality.runs_of(plan, None)
    assert [(run.name, run.seed, run.minutes) for run in runs] == [("one", 4, 3), ("one", 5, 3), ("two", 0, 6)]
    assert runs[0].changes == {"a": 1, "b": 2}
    assert runs[2].changes == {"a": 1, "b": 1}
    assert {run.minutes for run in quality.runs_of(plan, 0.5)} == {0.5}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"minutes": 1, "runs": {}, "seeds": [1]}, "the plan has the key 'seeds'; choose from minutes, "),
        ({"runs": {}}, "the plan lacks the key 'minutes'"),
        ({"minutes": 1, "runs": {"one": {"seeds": [1]}}}, r"runs\.one lacks the key 'config'"),
    ],
)
def test_a_faulty_plan_is_refused(plan: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        quality.runs_of(plan, None)


def test_the_table_has_means_and_spread_over_seeds_and_leaves_out_classes_that_do_not_occur() -> None:
    text = quality.table(
        [
            result("one", 0, 0.5, crack=0.4, oil=0.6, rough=None),
            result("one", 1, 0.7, crack=0.6, oil=0.8, rough=None),
            result("two", 0, None, crack=None, oil=None, rough=None),
        ]
    )
    assert text.splitlines() == [
        "| recipe | runs | mean foreground Dice | spread | crack | oil | steps | wall minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| one | 2 | 0.600 | 0.500 to 0.700 | 0.500 | 0.700 | 150 | 2.0 |",
        "| two | 1 | n/a |  | n/a | n/a | 100 | 2.0 |",
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_plans_name_shipped_configs_and_existing_keys(path: Path) -> None:
    for run in quality.runs_of(yaml.safe_load(path.read_text()), None):
        assert (ROOT / run.config).is_file()
        words = ["fit", "--config", str(ROOT / run.config), "--data.root", "data", "--print_config"]
        for key, value in run.changes.items():
            words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert not stopped.value.code, f"{run.name} of {path.name}"


@pytest.mark.full
def test_recipes_are_trained_scored_and_not_trained_again(
    tiny_config: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {"minutes": 0.05, "split": "test", "runs": {"tiny": {"config": str(tiny_config), "seeds": [3]}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = [str(tmp_path / "plan.yaml"), "--data", str(tiny_data), "--out", str(tmp_path / "out")]
    assert quality.main(words) == 0
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(one["name"], one["seed"]) for one in first] == [("tiny", 3)]
    scores = json.loads((tmp_path / "out" / "tiny-seed3" / "test_scores.json").read_text())
    assert first[0]["dice"] == {name: one["dice"] for name, one in list(scores["classes"].items())[1:]}
    last = torch.load(tmp_path / "out" / "tiny-seed3" / "checkpoints" / "last.ckpt", weights_only=True)
    assert first[0]["steps"] == last["global_step"] > 1
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out

    # Interrupted after training: only the scoring is done again. Finished: nothing is.
    (tmp_path / "out" / "tiny-seed3" / "result.json").unlink()
    assert quality.main(words) == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again[0]["dice"] == first[0]["dice"]
    assert again[0]["steps"] == first[0]["steps"]
    assert again[0]["wall_minutes"] == first[0]["wall_minutes"]
    assert quality.main([*words, "--stop_after", "0"]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == again


def test_a_plan_prepares_its_data_set_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"MT_Blowhole": 5, "MT_Break": 5, "MT_Free": 5}
    magnet_of = write_magnets(tmp_path / "magnets", kinds, exposures=2)
    with (tmp_path / "magnets" / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "group"], *magnet_of.items()])
    plan = yaml.safe_load((ROOT / "benchmarks" / "plans" / "magnetic_tile.yaml").read_text())
    made = quality.prepared(plan, tmp_path / "magnets", tmp_path / "out")
    magnets: dict[str, set[str]] = {"train": set(), "valid": set()}
    for row in read_manifest(made):
        magnets[row.split].add(row.group)
    assert {split: len(groups) for split, groups in magnets.items()} == {"train": 12, "valid": 3}
    assert not magnets["train"] & magnets["valid"]
    assert magnets["train"] | magnets["valid"] == set(magnet_of.values())
    monkeypatch.setattr(quality, "flexunet", lambda words: pytest.fail(f"called {words}"))
    assert quality.prepared(plan, tmp_path / "magnets", tmp_path / "out") == made
    assert quality.prepared({}, tmp_path / "magnets", tmp_path / "out") == tmp_path / "magnets"


def test_a_recipe_that_fails_is_one_error(tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = {"minutes": 0.05, "runs": {"lost": {"config": "lost.yaml"}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert quality.main([str(tmp_path / "plan.yaml"), "--data", str(tiny_data), "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr().err
    assert "lost.yaml" in said
    assert "Traceback" not in said
    assert quality.main([str(tmp_path / "none.yaml"), "--data", str(tiny_data), "--out", str(tmp_path / "out")]) == 2
    assert "none.yaml" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("precision", "expected"), [("32-true", {"fp32"}), ("bf16-mixed", {"fp32", "bf16"})], ids=["no bf16", "bf16"]
)
def test_only_a_device_that_computes_in_bf16_is_measured_in_it(
    precision: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    training: Any = benchmark("training")
    monkeypatch.setattr(training, "automatic_precision", lambda _: (precision, "a reason"))
    assert {variant.precision for variant in training.variants_on("cpu", compiled=True)} == expected


@pytest.mark.full
def test_the_training_table_has_a_row_for_each_variant(
    tiny_config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    training: Any = benchmark("training")
    monkeypatch.setattr(training, "MATRIX_SIDE", 64)
    training.main([str(tiny_config), "--steps", "2", "--profile", "--data.num_workers", "0"])
    said = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith(("| fp32", "| bf16"))]
    assert rows == [str(variant) for variant in training.variants_on("cpu", compiled=False)]
    first = next(line for line in said.splitlines() if line.startswith("| fp32 contiguous"))
    assert first.split("|")[4].strip() == "1.00"
    assert "Waiting for data" in said
    assert "convolution" in said


@pytest.mark.full
def test_a_class_left_with_one_source_is_scored_on_all_others(
    tiny_config: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "quality", quality)
    one_source: Any = benchmark("one_source")
    runs = {"plain": {"config": str(tiny_config)}, "other": {"config": str(tiny_config)}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"minutes": 0.05, "runs": runs}))
    words = [str(tmp_path / "plan.yaml"), "--data", str(tiny_data), "--out", str(tmp_path), "--only", "plain"]
    assert one_source.main([*words, "--classes", "oil"]) == 0
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out

    def sources(folder: Path) -> set[str]:
        return {source_of(path.stem) for path in (folder / "images").iterdir()}

    data = tmp_path / "data" / "oil"
    palette = Palette.from_mapping(TILE_PALETTE)
    left = one_source.sources_of(one_source.pairs_of(data, "train"), palette, False)["oil"]
    validating = one_source.sources_of(one_source.pairs_of(tiny_data, "valid"), palette, False)["oil"]
    assert len(left) == 1, "one source with oil is left in training"
    assert sources(data / "held") == (sources(tiny_data / "train") - sources(data / "train")) | set(validating)
    assert sources(data / "train") & sources(data / "held") == set()
    scores = json.loads((tmp_path / "plain" / "oil" / "run" / "test_scores.json").read_text())
    dice = f"{scores['classes']['oil']['dice']:.3f}"
    assert (tmp_path / "table.md").read_text().splitlines()[2] == f"| plain | {dice} | {dice} |"

    assert one_source.main([*words, "--classes", "water"]) == 2
    assert "--classes water: choose from " in capsys.readouterr().err


def test_the_table_of_one_source_has_no_mean_over_classes_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quality", quality)
    found = {("one", "oil"): 0.25, ("one", "crack"): 0.75, ("two", "oil"): 0.5}
    assert benchmark("one_source").table(["crack", "oil"], ["one", "two"], found).splitlines()[2:] == [
        "| one | 0.750 | 0.250 | 0.500 |",
        "| two |  | 0.500 |  |",
    ]


def test_each_wrong_pixel_limits_its_class_in_one_way() -> None:
    limits: Any = benchmark("limits")
    truth = np.zeros((60, 60), np.uint8)
    truth[5:25, 5:25] = 1  # found, but one row short
    truth[35:55, 5:25] = 1  # its upper half is overlooked, in its lower half a square of the other class is seen
    truth[58:, :] = 255
    predicted = np.zeros_like(truth)
    predicted[6:25, 5:25] = 1
    predicted[45:55, 5:25] = 1
    predicted[46:50, 12:18] = 2
    predicted[10:14, 45:50] = 1  # nothing is there
    predicted[58:, :] = 1  # ignored
    counts = limits.count_errors(truth, predicted, 3)
    # The overlooked part is 7 rows high beyond the 3 along the edge, and 14 wide.
    assert dict(zip(limits.KINDS, counts[1, 1:].reshape(-1, 2).tolist(), strict=True)) == {
        "edge": [20 + 10 * 20 - 7 * 14, 0],
        "overlooked": [7 * 14, 0],
        "mixed up": [24, 0],
        "invented": [0, 20],
    }
    assert counts[1, 0] == (truth == 1).sum() - 20 - 200 - 24
    assert counts[2].tolist() == [0, 0, 0, 0, 0, 0, 24, 0, 0]
    right, wrong = int(counts[1, 0]), int(counts[1, 1:].sum())
    assert limits.dice_without(counts[1], None) == pytest.approx(2 * right / (2 * right + wrong))
    assert limits.dice_without(counts[1], "invented") == pytest.approx(2 * right / (2 * right + wrong - 20))
    mended = 2 * (right + 24)
    assert limits.dice_without(counts[1], "mixed up") == pytest.approx(mended / (mended + wrong - 24))


def test_limits_are_told_of_a_model_on_a_data_set(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for mask in (data / "valid" / "masks").iterdir():  # the truth without one of the classes that are predicted
        pixels = np.array(Image.open(mask).convert("RGB"))
        pixels[(pixels == TILE_PALETTE["rough"]).all(axis=2)] = 0
        Image.fromarray(pixels).save(mask)
    words = [str(tiny_data / "valid" / "masks"), "--data", str(data), "--out", str(tmp_path / "out")]
    assert benchmark("limits").main(words) == 0
    rows = (tmp_path / "out" / "limits.md").read_text().splitlines()[2:]
    shown = [name for name in TILE_PALETTE if f"| {name} |" in "".join(rows)]
    assert shown == ["crack", "glue_strip", "gray_stroke", "oil"]
    assert all(row.split("| ")[2:] == ["1.000 "] * 4 + ["1.000 |"] for row in rows), "the truth has no limits"
    assert (tmp_path / "out" / "limits.png").is_file()
    assert capsys.readouterr().out.splitlines()[2:-1] == rows
    assert benchmark("limits").main([str(tmp_path / "none"), *words[1:]]) == 2
    assert "no model there" in capsys.readouterr().err


@pytest.mark.full
def test_the_table_of_encoders_has_a_row_for_each_and_ends_what_takes_too_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoders: Any = benchmark("encoders")
    row = encoders.exported("fpn", "tu-test_resnet")
    assert row.largest_probability_difference < 1e-4
    assert row.equal > 0.999
    assert row._replace(
        parameters=1_250_000, seconds=6.4, largest_probability_difference=2.5e-7, equal=1.0
    ).__str__() == ("| tu-test_resnet | 1.2 M | 6 | 2.5e-07 | 100.000% |")
    assert encoders.main(["resnet18", "--limit", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "| resnet18 | no result after 0 s | | | |"


def test_pretraining_writes_half_precision_weights_that_flexunet_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain = benchmark("pretrain")
    model = {"base_filters": 2, "base_kernel": 3, "num_layers": 2, "normalization": True}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"model": model}))
    out = tmp_path / "new" / "weights.safetensors"
    words = ["--config", str(tmp_path / "tiny.yaml"), "--steps", "2", "--batch_size", "1", "--scored", "4"]
    pretrain.main([*words, "--threads", "1", "--out", str(out)])
    assert "Dice on 4 pictures of seed 1" in capsys.readouterr().out
    network, _ = build_network({"name": "flexunet", **model, "pretrained": str(out)}, 3, 1)
    assert network.state_dict()["bridge.0.weight"].dtype == torch.float32
    with safe_open(out, framework="pt") as file:
        assert file.get_tensor("bridge.0.weight").dtype == torch.float16
        assert "2 steps of 1 made-up surfaces with their masks" in file.metadata()["origin"]


def test_permuted_masks_are_those_of_other_pictures() -> None:
    pretrain = benchmark("pretrain")
    image, mask = pretrain.draw_batch(0, 3, seed=0)
    same_image, other_mask = pretrain.draw_batch(0, 3, seed=0, permuted=True)
    assert torch.equal(image, same_image)
    assert not any(torch.equal(one, other) for one, other in zip(mask, other_mask, strict=True))


def test_the_table_of_engines_has_a_row_for_each_file_and_engine(
    tiny_checkpoint: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    engines: Any = benchmark("engines")
    classes = [{"name": name, "color": color} for name, color in TILE_PALETTE.items()]
    write_model(tmp_path / "model.onnx", np.zeros((6, 3, 1, 1)), num_classes=6, classes=classes)
    networks = [f"{name}={tmp_path}@{tiny_checkpoint}" for name in ("one", "other")]
    words = [*networks, "--data", str(tiny_data / "valid"), "--dice", "one", "--rounds", "1"]
    assert engines.main(words) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[4:]]
    variants = ["onnxruntime fp32", "OpenVINO fp32", "OpenVINO bf16", "torch fp32", "torch bf16, channels_last"]
    assert [row[:2] for row in rows] == [[name, variant] for name in ("one", "other") for variant in variants]
    assert rows[0][3] == rows[5][3] == "1.00"
    assert [row[6] for row in rows[:3]] == ["0.0000"] * 3, "this graph takes everything for background"
    assert {row[6] for row in rows[5:]} == {""}
    write_model(tmp_path / "model.int8.onnx", np.zeros((6, 3, 1, 1)), num_classes=6, classes=classes)
    with_int8 = engines.Network.parsed(networks[0]).segments(1)
    assert len(with_int8) == len(engines.VARIANTS) == 7
    with pytest.raises(SystemExit):
        engines.main([f"one={tmp_path}@none", "--data", str(tiny_data)])
    assert "give NAME=BUNDLE@CHECKPOINT" in capsys.readouterr().err
