"""What a run shows while it trains."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from jsonargparse import Namespace

from flexunet_pl.training.progress import NetworkSize, ProgressBar, displays

ON = ("--trainer.enable_progress_bar", "true", "--trainer.enable_model_summary", "true")
LOGGER = ("--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", ".")


def shown(process_output: str) -> str:
    """Return what a terminal shows, without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", process_output)


@pytest.mark.parametrize(
    ("limit", "epoch"),
    [
        pytest.param(["--trainer.max_epochs", "2"], "Epoch 2/2 ", id="epochs"),
        pytest.param(
            ["--trainer.max_epochs", "null", "--trainer.max_steps", "8"],
            "Epoch 2  ",
            id="steps",
            marks=pytest.mark.full,
        ),
        pytest.param(
            ["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:03"],
            "Epoch ",
            id="time",
            marks=pytest.mark.full,
        ),
    ],
)
def test_the_bar_counts_epochs_from_1_and_shows_no_version(
    limit: list[str], epoch: str, tiny_config: Path, run_command: Run
) -> None:
    process = run_command("fit", "--config", str(tiny_config), *ON, *LOGGER, *limit, "--run_dir", "run", COLUMNS="80")
    assert process.returncode == 0, process.stderr
    output = shown(process.stdout)
    assert epoch in output
    assert set(re.findall(r"loss: |val_mDice: |data_wait: ", output)) == {"loss: ", "val_mDice: ", "data_wait: "}
    assert {"(best", "worst:", "left:"} <= set(output.split())
    assert "\u2026" not in output
    assert "/-2" not in output
    assert "v_num" not in output


def test_one_line_replaces_the_table_of_modules(tiny_config: Path, run_command: Run) -> None:
    process = run_command("fit", "--config", str(tiny_config), *ON, "--run_dir", "run")
    assert process.returncode == 0, process.stderr
    assert re.search(r"^Network: FlexUNet, [\d,]+ parameters$", process.stdout, re.MULTILINE)
    assert "FLOPs" not in process.stdout
    assert "Modules in train mode" not in process.stdout


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, [ProgressBar, NetworkSize], id="default"),
        pytest.param({"enable_progress_bar": False, "enable_model_summary": False}, [], id="both off"),
        pytest.param({"enable_progress_bar": True}, [ProgressBar, NetworkSize], id="on"),
        pytest.param({"barebones": True}, [], id="barebones"),
        pytest.param({"callbacks": ["TQDMProgressBar"]}, [NetworkSize], id="a bar of the config's own"),
        pytest.param({"callbacks": ["RichModelSummary"]}, [ProgressBar], id="a summary of the config's own"),
    ],
)
def test_a_config_can_switch_them_off_or_bring_its_own(changes: dict[str, object], expected: list[type]) -> None:
    trainer = {"barebones": False, "enable_progress_bar": None, "enable_model_summary": None, "callbacks": []} | changes
    paths = trainer["callbacks"]
    assert isinstance(paths, list)
    config: Any = Namespace  # jsonargparse gives it no types
    trainer["callbacks"] = [config(class_path=f"lightning.pytorch.callbacks.{name}") for name in paths]
    assert [type(one) for one in displays(config(**trainer))] == expected
