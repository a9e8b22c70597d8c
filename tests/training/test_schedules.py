"""Schedules over steps and over time, and the search for a learning rate or a batch size."""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Timer

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.training import schedules

Run = Callable[..., subprocess.CompletedProcess[str]]
RATE = 0.5


class Clock(Timer):
    """A Timer of 100 seconds whose hands the test moves."""

    def __init__(self) -> None:
        super().__init__(duration={"seconds": 100})
        self.now = 0.0

    def time_elapsed(self, stage: str = "train") -> float:  # noqa: ARG002  Lightning's signature
        return self.now


class Strategy:
    """A strategy of one process."""

    def broadcast(self, value: Any) -> Any:
        return value


class FakeTrainer:
    """What a schedule asks a Trainer for."""

    def __init__(self, steps: float, clock: Clock | None) -> None:
        self.estimated_stepping_batches = steps
        self.callbacks = [] if clock is None else [clock]
        self.strategy = Strategy()


def rates(name: str, steps: float, clock: Clock | None, warmup: float, ticks: list[float]) -> list[float]:
    """Return the rate of each step; before each further step the clock stands at the next of ``ticks``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE, momentum=0.9)
    trainer: Any = FakeTrainer(steps, clock)
    task: Any = SimpleNamespace(trainer=trainer, hparams={"schedule": name, "warmup_steps": warmup})
    built: Any = schedules.build_schedule(optimizer, task)
    found = []
    for tick in ticks:
        optimizer.step()
        found.append(optimizer.param_groups[0]["lr"])
        if clock is not None:
            clock.now = tick
        schedules.step_schedule(built["lr_scheduler"]["scheduler"], trainer)
    return [*found, optimizer.param_groups[0]["lr"]]


def test_a_cosine_rises_over_its_warm_up_and_ends_at_zero() -> None:
    found = rates("cosine", 10, None, 2, [0.0] * 10)
    assert found[:3] == pytest.approx([RATE / 2, RATE, RATE])
    assert found[6] == pytest.approx(RATE / 2)
    assert found[10] == pytest.approx(0)
    assert rates("cosine", 10, None, 0.2, [0.0] * 10) == found, "a share of the run is so many steps of it"


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_time_ends_a_schedule_whatever_the_number_of_steps(name: str) -> None:
    few = rates(name, float("inf"), Clock(), 0.2, [20.0, 60.0, 100.0, 104.0])
    many = rates(name, float("inf"), Clock(), 0.2, [float(tick) for tick in range(1, 101)])
    assert few[1] == pytest.approx(RATE, rel=1e-3), "the peak is where the warm-up ends"
    assert few[2] == pytest.approx(RATE / 2, rel=1e-3), "and half of it is halfway between peak and end"
    assert few[3] < RATE / 1000
    assert few[4] == few[3], "a step after the end changes nothing"
    assert [many[20], many[60], many[100]] == pytest.approx(few[1:4])


def test_whichever_end_comes_first_ends_a_schedule() -> None:
    slow = rates("cosine", 10, Clock(), 0, [50.0, 100.0])
    assert slow[1] == pytest.approx(RATE / 2)
    assert slow[2] < RATE / 20
    fast = rates("cosine", 4, Clock(), 0, [1.0, 2.0, 3.0])
    assert fast[2] == pytest.approx(RATE / 2)


@pytest.mark.parametrize(
    ("steps", "clock", "warmup", "said"),
    [
        (float("inf"), None, 0, "set trainer.max_epochs, trainer.max_steps or trainer.max_time"),
        (float("inf"), Clock(), 50, "model.warmup_steps=50 counts steps, but only trainer.max_time ends this run"),
        (10, None, 10, "model.warmup_steps=10 must be at least 0 and below the run's 10 steps"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(steps: float, clock: Clock | None, warmup: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        rates("cosine", steps, clock, warmup, [0.0])


@pytest.mark.parametrize("warmup", [-1, 1.5])
def test_a_warm_up_is_a_number_of_steps_or_a_share(warmup: float) -> None:
    with pytest.raises(UserError, match=r"model\.warmup_steps=.* must be a whole number of steps, or below 1"):
        schedules.check_schedule("cosine", warmup, 0.4, 4)


def test_a_run_ended_by_the_clock_ends_its_schedule_and_validates(tiny_config: Path, tmp_path: Path) -> None:
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--model.schedule", "cosine"]
    arguments += ["--trainer.max_time", "00:00:00:04", "--trainer.max_epochs", "-1", "--model.warmup_steps", "0.1"]
    arguments += ["--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging"]
    arguments += ["--trainer.callbacks+", "flexunet_pl.training.callbacks.Curves", "--data.samples_per_epoch", "64"]
    assert main(arguments) == 0
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["lr_schedulers"][0]["last_epoch"] >= 0.9 * schedules.PARTS_OF_TIME
    assert "current_model_state" in content, "the checkpoint holds the averaged weights beside the last ones"
    averaged, last = content["state_dict"], content["current_model_state"]
    assert any(not torch.equal(averaged[key], last[key]) for key in averaged if key.startswith("network."))
    assert "val/loss" in (tmp_path / "run" / "curves" / "scores.csv").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps", "30"], "To use it: --model.learning_rate "),
        (["--find", "batch_size", "--largest_batch", "4"], "To use it: --data.batch_size 4\n"),
    ],
)
def test_tune_tells_what_it_found_and_leaves_nothing(
    options: list[str],
    said: str,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    strong = ["--model.schedule", "cosine", "--trainer.max_time", "00:00:12:00", "--trainer.max_epochs", "-1"]
    assert main(["tune", "--config", str(tiny_config), *strong, *options]) == 0
    assert said in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_rate_found_trains_better_than_its_thousandth(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--config", str(tiny_config), "--steps", "60"]) == 0
    rate = float(capsys.readouterr().out.split()[-1])
    losses = []
    for factor in (1, 1e-3):
        run_dir = tmp_path / str(factor)
        fit = ["fit", "--config", str(tiny_config), "--run_dir", str(run_dir), "--trainer.max_epochs", "3"]
        fit += ["--trainer.callbacks+", "flexunet_pl.training.callbacks.Curves"]
        assert main([*fit, "--model.learning_rate", str(rate * factor)]) == 0
        losses.append(float((run_dir / "curves" / "losses.csv").read_text().splitlines()[-1].split(",")[1]))
    assert losses[0] < losses[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--find", "rate"], "learning_rate"),
        (["--steps", "5"], "--steps 5 must be at least 20"),
        (["--find", "batch_size", "--largest_batch", "0"], "--largest_batch 0 must be at least 1"),
    ],
)
def test_tune_refuses_what_it_cannot_do(options: list[str], said: str, tiny_config: Path, run_command: Run) -> None:
    process = run_command("tune", "--config", str(tiny_config), *options)
    assert process.returncode == 2
    assert said in process.stderr
    assert "Traceback" not in process.stderr


def test_the_fake_trainer_answers_as_lightnings_does() -> None:
    trainer = lightning.Trainer(max_time="00:00:01:40", accelerator="cpu", logger=False, enable_checkpointing=False)
    timers = [one for one in trainer.callbacks if isinstance(one, Timer)]  # type: ignore[attr-defined]  # Lightning declares it nowhere
    assert [timer.time_remaining() for timer in timers] == [100]
    assert trainer.strategy.broadcast(1.5) == 1.5


def test_a_resumed_one_cycle_goes_on_in_the_cycle_of_its_new_length() -> None:
    def schedule(steps: int) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
        return optimizer, schedules.STEP_SCHEDULES["one_cycle"](optimizer, steps, 0)

    optimizer, first = schedule(4)
    for _ in range(3):
        optimizer.step()
        first.step()
    optimizer, longer = schedule(8)
    longer.load_state_dict(first.state_dict())
    whole, reference = schedule(8)
    for _ in range(3):
        whole.step()
        reference.step()
    for _ in range(4):  # up to step 7, the last of 8
        for one, scheduler in ((optimizer, longer), (whole, reference)):
            one.step()
            scheduler.step()
        assert longer.get_last_lr() == reference.get_last_lr()
    assert longer.get_last_lr()[0] == pytest.approx(1 / 25 / 1e4)  # torch's final rate
