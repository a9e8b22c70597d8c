"""Runs that are stopped, or cannot go on: what is saved, what is said, and the exit code."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.nn.losses import WeightedLoss
from flexunet_pl.training.step_timer import StepTimer

CURVES = ["--trainer.callbacks+", "flexunet_pl.training.callbacks.Curves"]
AVERAGE = [
    *("--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging"),
    *("--trainer.callbacks.decay", "0.5"),
]
Signals = Callable[[signal.Signals, int], None]


def last(run_dir: Path) -> dict[str, Any]:
    """Return the content of a run's last checkpoint."""
    content: dict[str, Any] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return content


@pytest.fixture
def signal_after(monkeypatch: pytest.MonkeyPatch) -> Signals:
    """Return a function that makes a signal arrive in the middle of a step, counted from 1 over all epochs."""

    def arrange(number: signal.Signals, step: int) -> None:
        ordinary = StepTimer.on_train_batch_start
        count = iter(range(1, 1000))

        def arrive(self: StepTimer, *arguments: Any) -> None:
            ordinary(self, *arguments)
            if next(count) == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(StepTimer, "on_train_batch_start", arrive)

    return arrange


@pytest.mark.parametrize(
    ("number", "code", "more"),
    [
        pytest.param(signal.SIGTERM, 143, ["--trainer.max_steps", "20"], id="max_steps"),
        pytest.param(signal.SIGTERM, 143, [], id="SIGTERM"),
        pytest.param(signal.SIGINT, 130, AVERAGE, id="SIGINT with averaged weights"),
        pytest.param(signal.SIGTERM, 143, ["--trainer.accumulate_grad_batches", "2"], id="accumulated gradients"),
        pytest.param(signal.SIGTERM, 143, ["--trainer.val_check_interval", "3"], id="validation within an epoch"),
    ],
)
def test_a_signal_saves_the_step_and_the_run_goes_on_exactly(
    number: signal.Signals,
    code: int,
    more: list[str],
    tiny_config: Path,
    tmp_path: Path,
    signal_after: Signals,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = ["--config", str(tiny_config), "--trainer.max_epochs", "3", "--data.batch_size", "3", *CURVES, *more]
    settings += ["--data.augment", "{hflip: 0.5, brightness: 0.5}", "--model.schedule", "cosine"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(["fit", *settings, "--run_dir", str(whole)]) == 0
    steps = last(whole)["global_step"] * (2 if "2" in more else 1) // 3
    signal_after(number, steps + 3)
    assert main(["fit", *settings, "--run_dir", str(stopped)]) == code
    monkeypatch.undo()
    assert f"Stopped; go on with flexunet resume {stopped}\n" in capfd.readouterr().err
    progress = last(stopped)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert (last(stopped)["epoch"], progress["ready"]) == (1, 4 if more[1:] in (["2"], ["3"]) else 3)
    assert main(["fit", *settings, "--run_dir", str(stopped), "--ckpt_path", "last"]) == 0
    expected, found = last(whole)["state_dict"], last(stopped)["state_dict"]
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert (stopped / "curves" / "scores.csv").read_text() == (whole / "curves" / "scores.csv").read_text()


def test_a_signal_in_the_last_step_of_an_epoch_waits_for_its_end(
    tiny_config: Path, tmp_path: Path, signal_after: Signals
) -> None:
    settings = ["--config", str(tiny_config), "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "2"]
    signal_after(signal.SIGTERM, 2)
    assert main(["fit", *settings, "--run_dir", str(tmp_path)]) == 143
    assert last(tmp_path)["epoch"] == 0
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


def test_a_loss_that_is_no_number_is_an_error_and_the_checkpoint_of_before_stays(
    tiny_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = ["--config", str(tiny_config), "--run_dir", str(tmp_path)]
    assert main(["fit", *settings]) == 0
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    more = ["--ckpt_path", "last", "--trainer.max_epochs", "3", "--model.learning_rate", "2e9"]
    assert main(["fit", *settings[:2], *more, "--run_dir", str(tmp_path)]) == 2
    error = capfd.readouterr().err
    assert "train/loss became NaN or infinite in epoch 1" in error
    assert "lower model.learning_rate=2e+09" in error
    assert "Traceback" not in error
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_resumed_run_takes_the_learning_rate_of_the_command_line(tiny_config: Path, tmp_path: Path) -> None:
    settings = ["--config", str(tiny_config), "--run_dir", str(tmp_path), "--trainer.max_epochs", "4"]
    settings += ["--model.schedule", "cosine"]
    assert main(["fit", *settings, "--trainer.limit_train_batches", "2", "--trainer.max_steps", "4"]) == 0
    (before,) = (last(tmp_path)["optimizer_states"][0]["param_groups"][0]["lr"],)
    again = ["--ckpt_path", "last", "--model.learning_rate", "0.03"]
    assert main(["fit", *settings, "--trainer.limit_train_batches", "2", "--trainer.max_steps", "6", *again]) == 0
    content = last(tmp_path)
    assert content["lr_schedulers"][0]["base_lrs"] == pytest.approx([0.03, 0.03])
    assert before == pytest.approx(0.0, abs=1e-9)
    assert content["hyper_parameters"]["learning_rate"] == 0.03


def test_a_resumed_run_keeps_its_optimizer(
    tiny_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = ["--config", str(tiny_config), "--run_dir", str(tmp_path)]
    assert main(["fit", *settings]) == 0
    assert main(["fit", *settings, "--ckpt_path", "last", "--model.optimizer", "sgd"]) == 2
    assert "model.optimizer='sgd', but the checkpoint holds the state of 'adam'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param(
            ["--trainer.max_steps", "1", "--trainer.check_val_every_n_epoch", "2"], "Last checkpoint", id="steps"
        ),
        pytest.param(
            ["--trainer.max_time", "00:00:00:01", "--trainer.check_val_every_n_epoch", "50"],
            "Last checkpoint",
            id="time",
        ),
        pytest.param(["--trainer.callbacks", "[]"], "No checkpoint", id="no callbacks"),
        pytest.param(["--trainer.callbacks", "null"], "Best checkpoint", id="the defaults"),
    ],
)
def test_a_run_names_the_checkpoint_that_it_has(
    more: list[str], said: str, tiny_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(tiny_config.read_text())
    del config["trainer"]["callbacks"]
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(own), *more, "--run_dir", str(tmp_path / "run")]) == 0
    assert said in capfd.readouterr().out


def test_a_monitored_score_that_no_image_gives_is_an_error(
    tiny_config: Path, tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    for mask in (root / "valid" / "masks").iterdir():
        Image.new("RGB", (32, 32)).save(mask)
    score = ["--monitor", "val/mean_foreground_dice", "--patience", "2", "--data.root", str(root)]
    assert main(["fit", "--config", str(tiny_config), *score, "--run_dir", str(tmp_path / "run")]) == 2
    error = capfd.readouterr().err
    assert "monitor=val/mean_foreground_dice was not measured" in error
    assert "choose another score with --monitor" in error
    assert "val/loss" in error
    assert "Traceback" not in error


def test_a_validation_loss_that_is_no_number_is_an_error(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(WeightedLoss, "per_image", lambda _, logits, __: torch.full((len(logits),), torch.nan))
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path)]) == 2
    assert "val/loss became NaN or infinite in epoch 0" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))
