"""Speed, learning rate and the time spent waiting for data."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flexunet_pl.cli.main import main
from flexunet_pl.training.step_timer import DATA_WAIT_SHARE, StepTimer


def test_validation_counts_neither_as_waiting_nor_as_a_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Waits of 1 and 2 seconds, steps of 4 and 5, validations of 8: 3 of 12 seconds, 2 steps of 3 images."""
    now = 0.0
    monkeypatch.setattr("flexunet_pl.training.step_timer.time.perf_counter", lambda: now)
    logged: dict[str, float] = {}
    rows: list[dict[str, float]] = []
    logger = SimpleNamespace(log_metrics=lambda numbers, step: rows.append({**numbers, "step": step}))
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
    alone = SimpleNamespace(reduce=lambda value, reduce_op: value)  # noqa: ARG005  the mean of one process
    trainer: Any = SimpleNamespace(
        is_global_zero=True, world_size=1, log_every_n_steps=10, global_step=2, loggers=[logger], optimizers=[optimizer]
    )
    trainer.strategy = alone
    task: Any = SimpleNamespace(device="cpu", log=lambda key, value, **_: logged.update({key: float(value)}))
    callback = StepTimer()
    callback.on_train_epoch_start(trainer, task)
    for wait, step in ((1, 4), (2, 5)):
        now += wait
        callback.on_train_batch_start(trainer, task, None, 0)
        now += step
        callback.on_train_batch_end(trainer, task, None, {"image": [0, 0, 0]}, 0)
        now += 8
        callback.on_validation_end(trainer, task)
    assert rows == [], "2 steps are fewer than log_every_n_steps"
    callback.on_train_epoch_end(trainer, task)
    assert logged == {DATA_WAIT_SHARE: 3 / 12}
    assert rows == [{"learning_rate": 0.5, "speed/step_seconds": 12 / 2, "speed/images_per_second": 6 / 12, "step": 1}]
    with caplog.at_level("INFO"):
        callback.on_train_end(trainer, task)
    assert "Training waited for data 25.0 % of the time; more data.num_workers may help" in caplog.text


def test_the_share_is_logged_every_epoch_and_reported_at_the_end(
    tiny_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    options = ["--trainer.logger.save_dir", ".", "--trainer.logger.name", "csv", "--trainer.log_every_n_steps", "1"]
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), logger, *options]) == 0
    with next((tmp_path / "run" / "csv").rglob("metrics.csv")).open() as file:
        shares = [float(row[DATA_WAIT_SHARE]) for row in csv.DictReader(file) if row.get(DATA_WAIT_SHARE)]
    assert len(shares) == 1
    assert 0 < shares[0] < 1
    assert "Training waited for data" in capfd.readouterr().err
