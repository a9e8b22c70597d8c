"""A model that predicts nothing but background: test, predict and report say so first, and why."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, with_settings
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.core.background import BackgroundCounts

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
NOTHING = "warning: The model predicts nothing but background on "


@pytest.fixture(scope="module")
def blind(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose last layer always chooses background."""
    return _with_bias(tiny_checkpoint, tmp_path_factory.mktemp("blind") / "blind.ckpt", [9.0, 0, 0, 0, 0, 0])


@pytest.fixture(scope="module")
def strict(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint that finds defects everywhere, and whose rule removes regions that fill an image."""
    folder = tmp_path_factory.mktemp("strict")
    return with_settings(
        _with_bias(tiny_checkpoint, folder / "all.ckpt", [0, 9.0, 0, 0, 0, 0]), folder, min_region_area=1025
    )


def _with_bias(checkpoint: Path, target: Path, bias: list[float]) -> Path:
    """Write a copy of a checkpoint that gives every pixel the class with the largest bias."""
    content = torch.load(checkpoint, weights_only=True)
    weights = content["state_dict"]
    head = next(key for key in reversed(weights) if key.endswith(".bias") and weights[key].shape == (6,))
    weights[head] = torch.tensor(bias)
    weights[head.replace(".bias", ".weight")].zero_()
    torch.save(content, target)
    return target


def first_line(text: str) -> str:
    return next(line for line in text.splitlines() if line.strip())


def scores_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize(
    ("name", "advice", "emptied"),
    [
        pytest.param("blind", "Train longer; if that does not help, try model.class_weights", 0, id="finds nothing"),
        pytest.param("strict", "min_region_area=1025 removed all regions that it found in 4 of them", 4, id="removed"),
    ],
)
def test_test_predict_and_report_say_so_first(
    name: str,
    advice: str,
    emptied: int,
    request: pytest.FixtureRequest,
    tiny_data: Path,
    tiny_config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = request.getfixturevalue(name)
    images = tiny_data / "test" / "images"
    count = len(list(images.iterdir()))
    emptied = emptied and count
    advice = advice.replace("4 of", f"{count} of")
    common = ["--config", str(tiny_config), "--ckpt_path", str(checkpoint), "--run_dir", str(tmp_path / "run")]
    predict = ["predict", *common, "--data.predict_dir", str(images), "--out", str(tmp_path / "masks")]
    report = ["report", str(checkpoint), str(tiny_data), "--out", str(tmp_path / "report")]
    for words in (["test", *common], [*predict, "--data.num_workers", "0"], report):
        capsys.readouterr()
        assert main(words) == 0
        line = first_line(capsys.readouterr().out)
        assert line.startswith(f"{NOTHING}{count} of {count} images"), line
        assert advice.lower() in line.lower(), line
    for file in (tmp_path / "run" / "test_scores.json", tmp_path / "report" / "scores.json"):
        scores = scores_of(file)
        assert (scores["images_all_background"], scores["images_emptied_by_min_region_area"]) == (count, emptied)
    page = (tmp_path / "report" / "report.html").read_text()
    content = re.sub(r"<[^>]+>", "\n", page.partition("</h1>")[2])
    assert first_line(content).startswith("The model predicts nothing but background")


def test_a_comparison_names_the_model(
    blind: Path, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(blind), str(blind), "--data", str(tiny_data), "--out", str(tmp_path)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning: A: The model predicts nothing")
    assert lines[1].startswith("warning: B: The model predicts nothing")
    assert tiny_checkpoint.is_file()


def test_a_model_that_finds_something_gets_no_warning(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finds_all = _with_bias(tiny_checkpoint, tmp_path / "all.ckpt", [0, 9.0, 0, 0, 0, 0])
    assert main(["report", str(finds_all), str(tiny_data), "--out", str(tmp_path / "report")]) == 0
    assert "nothing but background" not in capsys.readouterr().out
    assert scores_of(tmp_path / "report" / "scores.json")["images_all_background"] == 0


def test_two_processes_say_it_once_with_the_images_of_both(
    blind: Path, tiny_data: Path, tiny_config: Path, tmp_path: Path, run_command: Run
) -> None:
    images = tiny_data / "test" / "images"
    count = len(list(images.iterdir()))
    common = ("--config", str(tiny_config), "--ckpt_path", str(blind), "--run_dir", str(tmp_path / "run"), *TWO)
    process = run_command("test", *common, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("nothing but background") == 1
    assert first_line(process.stdout).startswith(f"{NOTHING}{count} of {count} images")
    assert scores_of(tmp_path / "run" / "test_scores.json")["images_all_background"] == count


def test_tiles_are_counted_too(
    blind: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "images" / "one.png")
    words = ["predict", "--config", str(tiny_config), "--ckpt_path", str(blind), "--tile", "32", "--overlap", "8"]
    assert main([*words, "--data.predict_dir", str(tmp_path / "images"), "--out", str(tmp_path / "out")]) == 0
    assert first_line(capsys.readouterr().out).startswith(f"{NOTHING}1 of 1 images. If they show defects: train")


@pytest.mark.parametrize(
    ("counts", "area", "has_defects", "expected"),
    [
        pytest.param((5, 4, 0), 0, True, None, id="a mask has a defect"),
        pytest.param((0, 0, 0), 0, None, None, id="no image"),
        pytest.param((5, 5, 0), 0, True, "on 5 of 5 images. Train longer", id="truth has defects"),
        pytest.param((5, 5, 0), 0, None, "on 5 of 5 images. If they show defects: train longer", id="no truth"),
        pytest.param((5, 5, 0), 0, False, "on 5 of 5 images, as in their masks", id="truth has none"),
        pytest.param((5, 5, 2), 50, True, "min_region_area=50 removed all regions that it found in 2", id="removed"),
        pytest.param((5, 5, 2), 0, True, "Train longer", id="lost by resizing, not by the rule"),
    ],
)
def test_the_statement_fits_the_cause(
    counts: tuple[int, int, int], area: int, has_defects: bool | None, expected: str | None
) -> None:
    statement = BackgroundCounts(*counts).statement(area, has_defects)
    assert statement is None if expected is None else expected in str(statement)
