"""From a data set to a report with the data set and the run alone."""

import contextlib
import json
from pathlib import Path

import pytest

from flexunet_pl.cli.main import main
from flexunet_pl.training.run_record import read_record

SMALL = (
    *("--model.base_filters", "4", "--model.num_layers", "2", "--data.image_size", "32", "--data.num_workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
)


def test_a_run_is_enough(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(tiny_data), *SMALL]) == 0
    run = Path("runs/tiles-1")
    assert main(["test", "latest"]) == 0
    tested = json.loads((run / "test_scores.json").read_text())
    assert main(["predict", "tiles-1", str(tiny_data / "test" / "images")]) == 0
    names = {path.name for path in (tiny_data / "test" / "masks").iterdir()}
    assert {path.name for path in (run / "predictions").glob("*.png")} == names
    assert main(["export", "latest"]) == 0
    assert (run / "bundle" / "model.onnx").is_file()
    assert main(["report", "latest", "--draws", "10"]) == 0
    reported = json.loads((run / "report" / "scores.json").read_text())
    assert json.dumps(tested["mean_foreground_dice"]) in json.dumps(reported)
    first = read_record(run)
    assert first is not None
    assert (first.state, first.epochs, first.monitor) == ("finished", 1, "val/mean_foreground_dice")

    assert main(["resume", "latest", "--trainer.max_epochs", "2"]) == 0
    second = read_record(run)
    assert second is not None
    assert (second.state, second.epochs, second.steps) == ("finished", 2, 2 * first.steps)
    assert second.seconds > first.seconds

    assert main(["fit", str(tiny_data), *SMALL, "--seed_everything", "1"]) == 0
    assert main(["compare", "tiles-1", "latest", "--draws", "10"]) == 0
    assert (run / "compare-tiles-2" / "report.html").is_file()
    capsys.readouterr()
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["tiles-2", "tiles", "flexunet", "1"],
        ["tiles-1", "tiles", "flexunet", "2"],
    ]
    assert all(line.endswith("finished") for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "tiles-1"], "compare: needs two runs"),
        (["resume"], "resume: needs a run"),
        (["resume", "tiles-1"], "tiles-1: is no run folder"),
        (["runs"], "runs: holds no run"),
        (["test", "latest"], "latest: runs/ holds no run yet"),
        (["export", "latest"], "latest: runs/ holds no run yet"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "resume", "runs"])
def test_help_is_short(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.startswith("usage: flexunet ")
