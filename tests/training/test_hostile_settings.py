"""Settings of the Trainer and hyperparameters of checkpoints that may come from anywhere: one error each."""

import re
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from conftest import with_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.training.trainer_errors import explained


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"learning_rate": float("nan")}, "model.learning_rate=nan must be a finite number", id="nan"),
        pytest.param({"learning_rate": "x"}, "model.learning_rate=x must be a number", id="text"),
        pytest.param({"in_channels": 10**9}, "model.in_channels=1000000000 must be at most 1024", id="channels"),
        pytest.param({"image_size": None}, "model.image_size=None must be a whole number or a list", id="no size"),
        pytest.param({"palette": 3}, "model.palette=3 must be a map", id="palette"),
        pytest.param({"loss": 7}, "model.loss=7 must be a map or null", id="loss"),
        pytest.param({"tta": "yes"}, "model.tta=yes must be true or false", id="truth value"),
        pytest.param({"network": {"base_filters": 4}}, "must be a name, or a map of name", id="no name"),
        pytest.param({"network": 7}, "network=7 must be a name, or a map", id="network"),
        pytest.param({"network": {"name": "flexunet", "base_filters": 10**9}}, "must be at most 4096", id="filters"),
        pytest.param({"network": {"name": "flexunet", "num_layers": 100}}, "must be at most 16", id="layers"),
        pytest.param({"network": {"name": "flexunet", "activation": [1]}}, "must be a text", id="activation"),
        pytest.param({"network": {"name": "unet", "encoder": 3}}, "encoder=3 must be a text or null", id="encoder"),
    ],
)
def test_hyperparameters_of_wrong_types_and_sizes_are_one_error(
    settings: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        SegmentationTask.from_checkpoint(with_settings(tiny_checkpoint, tmp_path, **settings))


def test_a_network_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(UserError, match=r"base_filters=1024, .* a network of [\d,]+ weights, where at most"):
        FlexUNet(3, 3, FlexUNetSettings(base_filters=1024, num_layers=5, base_kernel=3, dropout=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--data.num_workers", "100000000000000000000"], "data.num_workers=", id="workers"),
        pytest.param(["--data.image_size", "[100000, 100000]"], "must be at most 16384", id="size"),
        pytest.param(["--trainer.devices", "100000000000000000000"], "trainer.devices=", id="devices beyond int64"),
        pytest.param(["--trainer.devices", "1000"], "trainer.devices=1000 must be at most", id="devices"),
        pytest.param(["--trainer.max_steps", "10000000000"], "trainer.max_steps=10000000000 must be", id="steps"),
        pytest.param(["--trainer.gradient_clip_val", ".nan"], "trainer.gradient_clip_val=nan must be", id="clipping"),
    ],
)
def test_trainer_values_are_one_error(
    arguments: list[str], message: str, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert message in error


def test_errors_of_lightning_are_told_from_faults_of_the_program() -> None:
    with pytest.raises(MisconfigurationException) as of_lightning:
        lightning.Trainer(accelerator="cpu", max_steps=-5, logger=False, enable_checkpointing=False)
    assert str(explained(of_lightning.value)).startswith("trainer: `max_steps` must be a non-negative integer or -1")
    with pytest.raises(RuntimeError) as of_others:
        torch.zeros(2) @ torch.zeros(3)
    assert explained(of_others.value) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loops", 0),
        ("optimizer_states", [1]),
        ("optimizer_states", [{"state": 1, "param_groups": 2}]),
        ("callbacks", 1),
    ],
)
def test_a_checkpoint_that_cannot_be_restored_is_one_error(
    key: str, value: object, tiny_run: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(content | {key: value}, tmp_path / "hostile.ckpt")
    words = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "9"]
    assert main([*words, "--ckpt_path", str(tmp_path / "hostile.ckpt")]) == 2
    assert "error: the checkpoint cannot be restored" in capsys.readouterr().err


def test_lightning_itself_loads_a_checkpoint(tiny_checkpoint: Path) -> None:
    task = SegmentationTask.load_from_checkpoint(tiny_checkpoint, map_location="cpu", weights_only=True)
    assert task.hparams["learning_rate"] == 0.003
