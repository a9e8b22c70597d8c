"""What all commands share: help without torch, spelling of options, suggestions, completion."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ROOT
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from flexunet_pl import __version__
from flexunet_pl.cli.main import COMMANDS, TRAINING, main
from flexunet_pl.cli.training import CONFIG, OPTIONS
from flexunet_pl.core import console
from flexunet_pl.core.errors import UserError
from flexunet_pl.training.lightning_cli import TrainerCLI


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
def test_help_is_printed_without_torch_under_one_name(command: str) -> None:
    words = [command, "mvtec"] if command == "prepare" else [command]
    program = f"""
import sys
from flexunet_pl.cli.main import main
try:
    code = main({[*words, "--help"]!r})
except SystemExit as stop:
    code = stop.code or 0
heavy = {{"torch", "lightning", "matplotlib", "onnx", "keras"}} & set(sys.modules)
sys.exit(f"{{code}} {{heavy}}" if code or heavy else 0)
"""
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    assert process.returncode == 0, process.stderr
    usage = process.stdout.split("\n")[0]
    assert usage.startswith(f"usage: flexunet {command} ")


def test_a_command_ends_with_the_count_of_its_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn_twice(_words: list[str]) -> int:
        console.warn("odd")
        console.warn("odd")
        raise UserError("wrong")

    monkeypatch.setattr("flexunet_pl.cli.infer.run", warn_twice)
    assert main(["infer"]) == 2
    assert capsys.readouterr().err == "warning: odd\nerror: wrong\nwarning: 1 more like this: odd\n"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flexunet {__version__}\n"


@pytest.mark.parametrize("command", TRAINING)
def test_every_option_of_the_short_help_exists(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        """Raised in place of a run."""

    found: set[str] = set()

    def stop(self: TrainerCLI, parser: LightningArgumentParser, args: ArgsType) -> None:  # noqa: ARG001
        actions = self._parser(command)._actions
        found.update(option for action in actions for option in action.option_strings)
        raise StopError

    monkeypatch.setattr(TrainerCLI, "parse_arguments", stop)
    with pytest.raises(StopError):
        TrainerCLI([command], ExitStack())
    named = set(CONFIG | OPTIONS[command][2])
    # The first belongs to the program, before the command; the others are taken out before there is a parser.
    everywhere = {"--seed_everything", "--folds", "--time", "--epochs"}
    assert named - found <= everywhere if command != "tune" else named - found <= {*everywhere, "--ckpt_path"}


def test_the_short_help_is_printed_wherever_help_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "configs/tile.yaml", "-h"]) == 0
    assert capsys.readouterr().out.startswith("usage: flexunet fit ")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--data.image-size", "30", "--run-dir", "run"], id="dashes"),
        pytest.param(["--data.image_size=30", "--run_dir=run"], id="underscores"),
    ],
)
def test_dashes_and_underscores_are_the_same(
    words: list[str],
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(tiny_config), *words]) == 2
    assert "data.image_size=30 must be a multiple of 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        pytest.param(["prepare", "foldrs"], "did you mean 'folders'?", id="source"),
        pytest.param(["audit", "data", "--stricd"], "did you mean 'strict'?", id="audit"),
        pytest.param(["tune-min-area", "m", "d", "--splid", "x"], "did you mean 'split'?", id="tune-min-area"),
        pytest.param(["report", "m", "d", "--otu", "x"], "did you mean 'out'?", id="report"),
        pytest.param(["export", "c", "o", "--format", "onnx"], "did you mean 'formats'?", id="export"),
        pytest.param(["infer", "m", "i", "--out", "o", "--overlayz"], "did you mean 'overlays'?", id="infer"),
        pytest.param(["infer", "m", "i", "--out=o", "--min_region_ara=5"], "mean 'min-region-area'?", id="dashes"),
    ],
)
def test_a_mistyped_option_of_any_command_has_a_suggestion(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert hint in error


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "tune-min-area" in script
    assert "data.image_size" in script
    assert main(["completion", "cmd"]) == 2


def test_a_reader_that_stops_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "flexunet_pl", "fit", "--help"]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    os.close(write)
    assert "Traceback" not in process.stderr
