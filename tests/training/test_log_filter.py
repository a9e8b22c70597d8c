"""What Lightning prints without need is gone, what it repeats is counted, and the rest is still there."""

import logging
import re
from pathlib import Path

import pytest
from conftest import Run

from flexunet_pl.core import console
from flexunet_pl.training.log_filter import NO_LINES, quieten_lightning

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
# Parts of what Lightning 2.6 would print in the runs below.
NOISE = [
    "Seed set to",
    "TPU available",
    "💡",
    "litlogger",
    "Loading `train_dataloader`",
    "Trainer already configured",
    "Restoring states",
    "`weights_only` was not set",
    "Initializing distributed",
    "distributed_backend",
    "Finished batch size finder",
    ".scale_batch_size_",  # a temporary file
    "UserWarning",
    "litmodels",  # a tip for runs without a callback that saves; ours always have one, RunRecorder
    "num_workers=",
    "Checkpoint directory",
    "sync_dist",
]
NOISY_PLUGIN = """
import logging, warnings
for _ in range(3):
    warnings.warn("the plugin is odd", UserWarning, stacklevel=1)
logging.getLogger("lightning.pytorch.utilities.rank_zero").info("TPU available: True, using: 8 TPU cores")
logging.getLogger("lightning.pytorch").warning("a loose cable")
"""


def repeated(output: str) -> list[str]:
    """Return the lines that are printed more than once, but for rules and blank lines."""
    lines = [line.strip() for line in output.splitlines() if re.search(r"\w", line)]
    return sorted({line for line in lines if lines.count(line) > 1})


ALL = ("fit", "resume", "validate", "test", "predict")


@pytest.mark.parametrize(
    ("commands", "processes"),
    [
        pytest.param(("fit", "resume", "predict"), (), id="one process"),
        pytest.param(("fit",), TWO, id="two processes"),
        pytest.param(ALL, (), id="all commands", marks=pytest.mark.full),
        pytest.param(ALL, TWO, id="all commands, two processes", marks=pytest.mark.full),
    ],
)
def test_runs_print_no_noise_and_no_line_twice(
    commands: tuple[str, ...], processes: tuple[str, ...], tiny_config: Path, tiny_data: Path, run_command: Run
) -> None:
    shown = ("--trainer.enable_progress_bar", "true", "--trainer.enable_model_summary", "true")
    more = {
        "resume": ("--ckpt_path", "last", "--trainer.max_epochs", "2"),
        "predict": ("--data.predict_dir", str(tiny_data / "test" / "images"), "--out", "masks"),
    }
    for command in commands:
        name = "fit" if command == "resume" else command
        words = (name, "--config", str(tiny_config), "--run_dir", "run", *processes, *shown, *more.get(command, ()))
        process = run_command(*words, OMP_NUM_THREADS="1", COLUMNS="200")
        output = process.stdout + process.stderr
        assert process.returncode == 0, output
        assert [noise for noise in NOISE if noise in output] == [], output
        assert repeated(output) == [], output
        assert ("`Trainer.fit` stopped: `max_epochs=" in output) == (name == "fit")


@pytest.mark.full
def test_without_the_filters_lightning_prints_the_noise(tiny_config: Path, tmp_path: Path, run_command: Run) -> None:
    loud = "import logging\nfor name in {names}: logging.getLogger(name).filters.clear()\n"
    (tmp_path / "loud.py").write_text(loud.format(names=list(NO_LINES)))
    words = ("--plugin", "loud.py", "--config", str(tiny_config), "--trainer.enable_model_summary", "true")
    logger = ("--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", ".")
    bare = ("--trainer.callbacks", "[]", "--model.schedule", "cosine", "--run_dir", "run")  # without checkpoints
    process = run_command("fit", *words, *logger, *bare, *TWO)
    output = process.stderr + run_command("tune", *words, "--find", "batch_size", "--largest_batch", "2").stderr
    unheard = [noise for noise in NOISE[: NOISE.index("UserWarning")] if noise not in output]
    assert unheard == [], output


@pytest.mark.full
def test_a_search_prints_no_noise_and_counts_what_repeats(tiny_config: Path, run_command: Run) -> None:
    for find in ("batch_size", "learning_rate"):
        process = run_command("tune", "--config", str(tiny_config), "--find", find, "--largest_batch", "4")
        output = process.stdout + process.stderr
        assert process.returncode == 0, output
        assert [noise for noise in NOISE if noise in output] == [], output
        assert repeated(process.stdout) == []
        if find == "batch_size":
            stopped = "`Trainer.fit` stopped: `max_steps=3` reached."
            assert [line for line in process.stderr.splitlines() if stopped in line] == [
                stopped,
                f"2 more like this: {stopped}",
            ]


@pytest.mark.parametrize(
    "processes",
    [pytest.param((), id="one process"), pytest.param(TWO, id="two processes", marks=pytest.mark.full)],
)
def test_other_warnings_and_lines_are_printed_once(
    processes: tuple[str, ...], tiny_config: Path, tmp_path: Path, run_command: Run
) -> None:
    (tmp_path / "odd.py").write_text(NOISY_PLUGIN)
    words = ("fit", "--plugin", "odd.py", "--config", str(tiny_config), "--run_dir", "run", *processes)
    process = run_command(*words, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    lines = process.stderr.splitlines()
    assert lines.count("warning: the plugin is odd") == 1
    assert lines.count("warning: 2 more like this: the plugin is odd") <= 1
    assert lines.count("TPU available: True, using: 8 TPU cores") == 1
    assert "a loose cable" in lines


@pytest.mark.full
def test_an_error_in_another_process_is_printed(tiny_config: Path, tmp_path: Path, run_command: Run) -> None:
    (tmp_path / "broken.py").write_text("import os\nif os.environ.get('LOCAL_RANK') == '1': raise OSError('no disk')\n")
    process = run_command("fit", "--plugin", "broken.py", "--config", str(tiny_config), "--run_dir", "run", *TWO)
    assert process.returncode != 0
    assert "no disk" in process.stderr


def test_the_tip_for_runs_without_checkpoints_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    quieten_lightning()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    caplog.set_level(logging.INFO, logger.name)
    tip = "💡 Tip: For seamless cloud uploads and versioning, try installing [litmodels](https://pypi.org/project/x/)"
    logger.info(f"{tip} to enable LitModelCheckpoint, which syncs automatically with the Lightning model registry.")
    logger.info("💡 Tip: another one")
    console.flush_warnings()
    assert caplog.messages == ["💡 Tip: another one"]


def test_a_line_is_new_again_after_the_counts_are_printed(caplog: pytest.LogCaptureFixture) -> None:
    quieten_lightning()
    quieten_lightning()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    assert len(logger.filters) == 1
    caplog.set_level(logging.INFO, logger.name)
    console.flush_warnings()
    for _ in range(2):
        logger.info("`Trainer.fit` stopped: `max_epochs=1` reached.")
        console.flush_warnings()
    assert len(caplog.records) == 2
