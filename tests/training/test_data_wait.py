"""The log says how long training waits for data."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flexunet_pl.cli.main import main
from flexunet_pl.training.data_wait import DATA_WAIT_SHARE, DataWait


def test_waiting_is_what_goes_by_between_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Waits of 1 and 2 seconds, steps of 4 and 5, validation of 8 in between: 3 of 12."""
    now = 0.0
    monkeypatch.setattr("flexunet_pl.training.data_wait.time.perf_counter", lambda: now)
    logged: dict[str, float] = {}
    trainer: Any = SimpleNamespace(is_global_zero=True)
    task: Any = SimpleNamespace(log=lambda key, value, **_: logged.update({key: value}))
    callback = DataWait()
    callback.on_train_epoch_start(trainer, task)
    for wait, step in ((1, 4), (2, 5)):
        now += wait
        callback.on_train_batch_start(trainer, task, None, 0)
        now += step
        callback.on_train_batch_end(trainer, task, None, None, 0)
        now += 8
        callback.on_validation_end(trainer, task)
    callback.on_train_epoch_end(trainer, task)
    assert logged == {DATA_WAIT_SHARE: 3 / 12}
    with caplog.at_level("INFO"):
        callback.on_train_end(trainer, task)
    assert "Training waited for data 25.0 % of the time; more data.num_workers may help" in caplog.text


def test_the_share_is_logged_every_epoch_and_told_at_the_end(
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
