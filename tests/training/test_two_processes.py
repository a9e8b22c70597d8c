"""The shipped configs as they are, progress bar and all, with two real processes."""

import json
import subprocess
import sys
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


def run(*words: str) -> str:
    """Run a command on the CPU as a user would; a command that hangs fails, and its processes are ended."""
    command = [sys.executable, "-m", "flexunet_pl", *words, "--trainer.accelerator", "cpu"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        import os
        import signal

        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"{' '.join(words)} did not end within {SECONDS} seconds")
    assert process.returncode == 0, output
    assert "sync_dist" not in output
    return output


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
    scores = []
    for processes in (TWO, ["--trainer.devices", "1"]):
        run("test", *data, *folder, *processes)
        scores.append(json.loads((tmp_path / "run" / "test_scores.json").read_text()))
    assert scores[0] == scores[1]
    out = tmp_path / "masks"
    run("predict", *data, *folder, *TWO, "--data.predict_dir", str(tiles / "test" / "images"), "--out", str(out))
    assert {path.name for path in out.glob("*.png")} == {path.name for path in (tiles / "test" / "masks").iterdir()}
