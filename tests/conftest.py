"""Fixtures shared by all tests: small data, a small config, a small trained checkpoint."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from flexunet_pl.cli.main import main
from flexunet_pl.data.synthetic.dataset import write_dataset

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder with real data and golden files, or skip."""
    folder = Path(os.environ.get("FLEXUNET_SHARED", str(ROOT.parent / "shared")))
    if not (folder / "golden").is_dir():
        pytest.skip(f"{folder} with real data and golden files is absent; set FLEXUNET_SHARED to where it is")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_stale_streams() -> None:
    """Take away the handlers that Lightning bound to the standard error of the moment it was imported."""
    import lightning.pytorch  # what makes the handlers

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
    assert lightning.pytorch


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 27 made-up tiles of 32x32 pixels."""
    root = tmp_path_factory.mktemp("data") / "tiles"
    write_dataset(root, 27, (32, 32), 0)
    return root


TINY = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"dirpath": "checkpoints", "filename": name, "enable_version_counter": False} | extra,
            }
            for name, extra in (("best", {"monitor": "val/loss"}), ("last", {}))
        ],
    },
    "model": {"base_filters": 4, "base_kernel": 3, "num_layers": 3, "dropout": 0.1, "learning_rate": 0.003},
    "data": {"image_size": 32, "batch_size": 4, "num_workers": 0},
}


@pytest.fixture(scope="session")
def tiny_config(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a config that trains a few thousand weights on the tiny data for one epoch."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    config = {**TINY, "data": {**TINY["data"], "root": str(tiny_data)}}  # type: ignore[dict-item]  # TINY is plain YAML
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of the tiny config, trained for 3 epochs."""
    run_dir = tmp_path_factory.mktemp("run") / "tiny"
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(run_dir), "--trainer.max_epochs", "3"]
    assert main(arguments) == 0
    return run_dir


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_run: Path) -> Path:
    """Return the last checkpoint of the tiny run."""
    return tiny_run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def folded_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny data with two folds."""
    out = tmp_path_factory.mktemp("folded") / "tiles"
    assert main(["prepare", "pairs", str(tiny_data), str(out), "--folds", "2"]) == 0
    return out


@pytest.fixture(scope="session")
def folds_run(folded_data: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the finished run of two folds, one epoch each."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = ["fit", str(folded_data), "--config", str(tiny_config), "--folds", "2", "--run_dir", str(run_dir)]
    assert main(arguments) == 0
    return run_dir


def with_settings(checkpoint: Path, folder: Path, **settings: object) -> Path:
    """Return a copy of a checkpoint as if it had been trained with these settings."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] |= settings
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_command(tmp_path: Path) -> Run:
    """Return a function that runs ``python -m flexunet_pl`` as a user would, in a process and folder of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flexunet_pl", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
