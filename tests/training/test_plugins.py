"""Plugins: one module of the user's own adds a loss and a metric, which a real run uses."""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.plugins import load_plugins
from flexunet_pl.nn.losses import LOSSES, build_loss, register_loss
from flexunet_pl.nn.metrics import METRICS
from flexunet_pl.training.task import SegmentationTask

PLUGIN = """
    from flexunet_pl.nn.metrics import Metric, register_metric
    from flexunet_pl.nn.losses import Pixels, register_loss
    from torch import Tensor, nn


    @register_loss("mean_error")
    class MeanError(nn.Module):
        def __init__(self, num_channels: int, *, scale: float = 1.0) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, pixels: Pixels) -> Tensor:
            missing = 1 - (-pixels.negative_log_likelihood()).exp()
            return self.scale * (missing * pixels.counted).sum() / pixels.counted.sum().clamp_min(1)


    def share_of_background(counts):
        return counts.predicted[..., 0] / counts.predicted.sum(-1)


    register_metric(Metric("predicted_background", "background", share_of_background, higher_is_better=False))
"""


@pytest.fixture(autouse=True)
def _restored_losses() -> Iterator[None]:
    losses, metrics = dict(LOSSES), dict(METRICS)
    yield
    LOSSES.clear()
    LOSSES.update(losses)
    METRICS.clear()
    METRICS.update(metrics)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "my_losses.py"
    path.write_text(textwrap.dedent(PLUGIN))
    return path


def test_a_run_uses_the_loss_and_the_metric_of_a_plugin_and_its_config_names_the_plugin(
    plugin: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    words = ["--config", str(tiny_config), "--model.loss", "{mean_error: {scale: 0.5}}"]
    words += ["--monitor", "val/predicted_background"]
    assert main(["fit", *words, "--plugin", str(plugin), "--run_dir", str(run)]) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["plugins"] == [str(plugin)]
    assert config["model"]["loss"] == {"mean_error": {"scale": 0.5}}
    checkpoint = run / "checkpoints" / "best.ckpt"
    callbacks = torch.load(checkpoint, weights_only=True)["callbacks"]
    (monitored,) = [key for key in callbacks if "predicted_background" in key]
    assert "'mode': 'min'" in monitored

    # A later command needs nothing but the run's config.
    LOSSES.pop("mean_error")
    METRICS.pop(("pixels", False, "predicted_background"))
    monkeypatch.delitem(sys.modules, "flexunet_plugin_my_losses")
    evaluated = tmp_path / "test"
    words = ["--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint), "--run_dir", str(evaluated)]
    assert main(["test", *words]) == 0
    assert "mean_error" in LOSSES
    assert 0 <= json.loads((evaluated / "test_scores.json").read_text())["predicted_background"] <= 1

    # Predicting needs no loss, and so no plugin.
    LOSSES.pop("mean_error")
    assert SegmentationTask.from_checkpoint(checkpoint).hparams["loss"] == {"cross_entropy": 1.0}


def test_a_config_finds_its_plugin_beside_it_and_each_is_imported_once(plugin: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("plugins: [my_losses.py]\n")
    rest, plugins = load_plugins(["fit", "--config", str(config), f"--plugin={plugin}", "--plugin", "json", "--x", "1"])
    assert rest == ["fit", "--config", str(config), "--x", "1"]
    assert plugins == [str(plugin), "json"]
    loss = build_loss({"mean_error": 2}, 2)
    # Probabilities of 1/2 miss the truth by 1/2: 2 * 1/2.
    assert loss(torch.zeros(1, 2, 3, 3), torch.ones(1, 3, 3, dtype=torch.uint8)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--plugin", "nowhere.py"], r"nowhere\.py: cannot be imported \(FileNotFoundError", id="no file"),
        pytest.param(["--plugin", "no_such_module"], "No module named 'no_such_module'", id="no module"),
        pytest.param(["--plugin"], "--plugin needs a value", id="no value"),
    ],
)
def test_errors_of_plugins_name_the_plugin(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_plugins(words)


def test_a_faulty_plugin_is_reported_and_not_left_half_imported(tmp_path: Path) -> None:
    path = tmp_path / "faulty.py"
    path.write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(UserError, match=r"faulty\.py: cannot be imported \(ZeroDivisionError"):
            load_plugins(["--plugin", str(path)])


def test_plugins_of_a_config_are_a_list(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("plugins: my_losses.py\n")
    with pytest.raises(UserError, match=r"config\.yaml: plugins='my_losses\.py' must be a list"):
        load_plugins(["--config", str(config)])


def test_two_losses_cannot_share_a_name() -> None:
    with pytest.raises(UserError, match="'dice' is already registered by Dice"):
        register_loss("dice")(torch.nn.Identity)
