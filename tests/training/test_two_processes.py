"""The shipped configs as they are, progress bar and all, with two real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT

from flexunet_pl.data.synthetic.dataset import write_dataset

SECONDS = 240
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return made-up tiles that are large enough for the crops of the shipped configs."""
    root = tmp_path_factory.mktemp("data") / "tiles"
    write_dataset(root, 16, (256, 256), 0)
    return root


def start(*words: str) -> subprocess.Popen[str]:
    """Start a command on the CPU as a user would."""
    command = [sys.executable, "-m", "flexunet_pl", *words, "--trainer.accelerator", "cpu"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},  # so that a command that hangs shows where
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], seconds: float = SECONDS) -> tuple[int, str]:
    """Wait for a command; return its exit code and output. One that hangs fails, and its processes are ended."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        output, _ = process.communicate(timeout=60)
        pytest.fail(f"{process.args!r} did not end within {seconds} seconds:\n{output}")
    return process.returncode, output


def run(*words: str) -> str:
    """Run a command that must succeed and return its output."""
    code, output = end(start(*words))
    assert code == 0, output
    assert "sync_dist" not in output
    return output


def second_process(first: int) -> int:
    """Return the process that Lightning started beside the first one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, environment = (folder / "stat").read_text(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == first and b"LOCAL_RANK=1" in environment.split(b"\0"):
            return int(folder.name)
    raise AssertionError("there is no second process")


def demo(tiles: Path, folder: Path) -> list[str]:
    """Return the options of a long run of the demo with two processes."""
    data = ["--config", str(ROOT / "configs" / "demo.yaml"), "--data.root", str(tiles), "--data.synthetic_images", "0"]
    data += ["--data.batch_size", "1", "--data.samples_per_epoch", "24"]
    return [*data, "--run_dir", str(folder), "--trainer.max_epochs", "1000", *TWO]


def after_an_epoch(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until a run is in the middle of its second epoch or later."""
    deadline = time.monotonic() + SECONDS
    while not (folder / "curves" / "losses.csv").is_file():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)


@pytest.mark.full
@pytest.mark.parametrize("name", ["demo", "tile", "tile_strong", "magnetic_tile", "zoo"])
def test_a_shipped_config_runs_with_two_processes(name: str, tiles: Path, tmp_path: Path) -> None:
    config = ROOT / "configs" / f"{name}.yaml"
    has_crops = "crop_size" in yaml.safe_load(config.read_text())["data"]
    data = ["--config", str(config), "--data.root", str(tiles), "--data.synthetic_images", "0"]
    data += ["--data.image_size", "256" if has_crops else "128"]  # 512 takes too long on a CPU
    short = ["--trainer.limit_train_batches", "2", "--trainer.max_epochs", "2"]
    folder = ["--run_dir", str(tmp_path / "run")]
    run("fit", *data, *short, *folder, *TWO)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 1
    run("fit", *data, *short, "--trainer.max_epochs", "3", *folder, *TWO, "--ckpt_path", "last")
    assert torch.load(last, weights_only=True)["epoch"] == 2
    curves = (tmp_path / "run" / "curves" / "losses.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curves] == ["epoch", "0", "1", "2"]
    if name not in ("demo", "tile"):  # the default network and FlexUNet
        return
    scores = []
    for processes in (TWO, ["--trainer.devices", "1"]):
        run("test", *data, *folder, *processes)
        scores.append(json.loads((tmp_path / "run" / "test_scores.json").read_text()))
    assert scores[0] == scores[1]
    out = tmp_path / "masks"
    run("predict", *data, *folder, *TWO, "--data.predict_dir", str(tiles / "test" / "images"), "--out", str(out))
    names = {path.name for path in (tiles / "test" / "masks").iterdir()}
    assert {path.name for path in out.glob("*.png")} == names
    assert {Path(file).name for file in json.loads((out / "decisions.json").read_text())["pieces"]} == names


@pytest.mark.full
def test_a_signal_stops_both_processes_and_the_run_goes_on(tiles: Path, tmp_path: Path) -> None:
    process = start("fit", *demo(tiles, tmp_path))
    after_an_epoch(process, tmp_path)
    process.send_signal(signal.SIGTERM)
    code, output = end(process, 60)
    assert code == 143, output
    assert f"go on with flexunet resume {tmp_path}\n" in output
    assert "Traceback" not in output
    last = tmp_path / "checkpoints" / "last.ckpt"
    epoch = torch.load(last, weights_only=True)["epoch"]
    run("fit", *demo(tiles, tmp_path), "--trainer.max_epochs", str(epoch + 2), "--ckpt_path", "last")
    assert torch.load(last, weights_only=True)["epoch"] == epoch + 1
    curves = (tmp_path / "curves" / "losses.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curves[1:]] == [str(number) for number in range(epoch + 2)]
    assert not list(tmp_path.rglob(".*"))
    run("validate", *demo(tiles, tmp_path))


def kill_second(first: int) -> None:
    os.kill(second_process(first), signal.SIGKILL)


def kill_first(first: int) -> None:
    os.kill(first, signal.SIGKILL)


def hang_second(first: int) -> None:
    os.kill(second_process(first), signal.SIGSTOP)


@pytest.mark.full
@pytest.mark.parametrize("harm", [kill_second, kill_first, hang_second], ids=lambda harm: harm.__name__)
def test_when_one_process_dies_or_hangs_the_other_ends_within_a_minute(
    harm: Callable[[int], None], tiles: Path, tmp_path: Path
) -> None:
    process = start("fit", *demo(tiles, tmp_path), "--trainer.collective_timeout", "25")
    after_an_epoch(process, tmp_path)
    second = second_process(process.pid)
    harm(process.pid)
    code, output = end(process, 60)
    if harm is not kill_first:  # there, the second one reports, but is not waited for
        assert code == 2, output
        assert "error: another process of this run ended, or did not answer in time" in output
        assert "Traceback" not in output
    deadline = time.monotonic() + 10
    while Path(f"/proc/{second}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{second}").exists()
    torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.full
@pytest.mark.parametrize(
    "limit", [["--trainer.max_time", "00:00:00:10"], ["--patience", "1", "--model.learning_rate", "1e-30"]]
)
def test_time_and_patience_end_both_processes(limit: list[str], tiles: Path, tmp_path: Path) -> None:
    output = run("fit", *demo(tiles, tmp_path), *limit)
    assert "Best checkpoint" in output
    assert "Traceback" not in output
