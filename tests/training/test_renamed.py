"""Checkpoints and configs with the older names of keys, written by the code of then, give the scores of then."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from golden_old.make import TILES, drawn_weights

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.renamed import current_config, current_hyper_parameters, current_words
from flexunet_pl.data.synthetic.dataset import write_dataset
from flexunet_pl.nn.networks import build_network, nested_settings
from flexunet_pl.training.checkpoint import read_checkpoint

GOLDEN = Path(__file__).parent / "golden_old"
WARNINGS = {
    "model.mirror is now model.tta",
    "model.smallest_region is now model.min_region_area",
    "data.resize: keep is now letterbox",
    "data.epoch_images is now data.samples_per_epoch",
    "data.sampler: by_class is now class_balanced",
}


def warned(text: str) -> list[str]:
    """Return what the warnings of older names in ``text`` say."""
    return re.findall(r"warning: (.*); the older name works until version 1\.0", text)


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the golden files beside the data set that they were trained on."""
    folder = tmp_path_factory.mktemp("golden_old")
    write_dataset(folder / "tiles", *TILES)
    for path in [*GOLDEN.glob("*.ckpt"), *GOLDEN.glob("*.yaml")]:
        shutil.copy(path, folder)
    content = torch.load(folder / "zoo.ckpt", weights_only=True)
    settings = nested_settings(content["hyper_parameters"])
    network, _ = build_network(
        settings["network"] | {"defect_head": False}, settings["num_classes"], settings["in_channels"]
    )
    blank = {f"network.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save(content | {"state_dict": drawn_weights(blank)}, folder / "zoo.ckpt")
    return folder


@pytest.mark.parametrize("network", ["flexunet", "zoo"])
def test_an_old_checkpoint_and_config_give_the_same_scores_with_one_warning_a_name(
    network: str, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(golden / f"{network}.yaml"), "--ckpt_path", str(golden / f"{network}.ckpt")]
    assert main(["test", *words, "--run_dir", str(tmp_path / "test")]) == 0
    captured = capsys.readouterr()
    assert sorted(warned(captured.err)) == sorted(WARNINGS)
    assert "differs" not in captured.out
    actual = json.loads((tmp_path / "test" / "test_scores.json").read_text())
    expected = json.loads((GOLDEN / f"{network}_scores.json").read_text())
    for name, scores in expected["classes"].items():
        assert {key: actual["classes"][name][key] for key in scores} == pytest.approx(scores, abs=1e-4)
    soft = ("dice_coef_multiclass", "dice_coef_foreground")
    for key in ("mean_foreground_dice", "mean_foreground_iou", "pixel_accuracy", "loss", *soft):
        assert actual[key] == pytest.approx(expected[key], abs=1e-4), key


def test_an_old_checkpoint_is_read_as_a_new_one() -> None:
    settings = read_checkpoint(GOLDEN / "flexunet.ckpt")["hyper_parameters"]
    assert settings["network"] == {
        "name": "flexunet",
        "base_filters": 4,
        "base_kernel": 3,
        "num_layers": 3,
        "dropout": 0.1,
        "dilation": 1,
        "activation": "relu",
        "normalization": "group",
        "input_normalize": True,
    }
    assert (settings["tta"], settings["min_region_area"], settings["resize"]) == (True, 3, "letterbox")
    assert not settings.keys() & {"mirror", "smallest_region", "base_filters", "encoder"}
    assert read_checkpoint(GOLDEN / "zoo.ckpt")["hyper_parameters"]["network"] == {
        "name": "linknet",
        "encoder": "tu-test_resnet",
        "defect_head": False,
        "defect_gate": False,
    }


def test_an_old_config_trains_and_its_run_holds_the_new_names(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["--config", str(golden / "flexunet.yaml"), "--trainer.max_epochs", "1", "--run_dir", str(run)]
    assert main(["fit", *words, "--data.epoch_images", "8", "--model.smallest-region=2"]) == 0
    assert sorted(warned(capsys.readouterr().err)) == sorted(WARNINGS)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"]["tta"], config["model"]["min_region_area"]) == (True, 2)
    assert (config["data"]["samples_per_epoch"], config["data"]["sampler"]) == (8, "class_balanced")
    capsys.readouterr()
    assert main(["validate", "--config", str(run / "config.yaml"), "--run_dir", str(run)]) == 0
    assert warned(capsys.readouterr().err) == []


@pytest.mark.parametrize(
    ("given", "words", "warnings"),
    [
        pytest.param(
            ["prepare", "x", "--resize", "keep"],
            ["prepare", "x", "--resize", "letterbox"],
            ["resize: keep is now letterbox"],
            id="prepare --resize keep",
        ),
        pytest.param(
            ["export", "--smallest-region=20"],
            ["export", "--min-region-area=20"],
            ["smallest_region is now min_region_area"],
            id="export --smallest-region",
        ),
        pytest.param(
            ["regions", "x"], ["tune-min-area", "x"], ["the command regions is now tune-min-area"], id="command"
        ),
        pytest.param(
            ["fit", "--model.mirror", "true", "--data.sampler", "by_class"],
            ["fit", "--model.tta", "true", "--data.sampler", "class_balanced"],
            ["model.mirror is now model.tta", "data.sampler: by_class is now class_balanced"],
            id="keys and values of fit",
        ),
        pytest.param(["fit", "--name", "keep"], ["fit", "--name", "keep"], [], id="a value of another option"),
    ],
)
def test_older_words_of_a_command_line(
    given: list[str], words: list[str], warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert current_words(given) == words
    assert warned(caplog.text) == warnings


@pytest.mark.parametrize(
    ("rename", "given", "message"),
    [
        pytest.param(
            current_config,
            {"model": {"mirror": True, "tta": False}},
            r"model\.mirror is the older name of model\.tta, and both are given; leave one out",
            id="config",
        ),
        pytest.param(
            current_hyper_parameters,
            {"smallest_region": 3, "min_region_area": 3},
            r"model\.smallest_region is the older name of model\.min_region_area, and both are given",
            id="checkpoint",
        ),
        pytest.param(
            current_words,
            ["fit", "--model.mirror=true", "--model.tta=false"],
            r"model\.mirror is the older name of model\.tta, and both are given",
            id="command line",
        ),
    ],
)
def test_both_names_of_a_key_are_an_error(rename: Callable[..., object], given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rename(given)
