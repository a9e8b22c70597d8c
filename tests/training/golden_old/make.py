"""Write the files of this folder with the code of commit 6104ed1, the last one with the older names of keys.

git worktree add /tmp/old 6104ed1
PYTHONPATH=/tmp/old python tests/training/golden_old/make.py
"""

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

HERE = Path(__file__).parent
TILES = (27, (32, 40), 0)  # number, height and width, seed of the tiles in all runs

TRAINER: dict[str, Any] = {
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
            "init_args": {"dirpath": "checkpoints", "filename": "best", "monitor": "val/loss"},
        },
        {"class_path": "flexunet_pl.training.callbacks.Curves"},
        {"class_path": "flexunet_pl.training.callbacks.EpochPictures", "init_args": {"count": 1}},
    ],
}
DATA = {
    "root": "tiles",
    "image_size": 32,
    "resize": "keep",
    "sampler": "by_class",
    "epoch_images": 24,
    "batch_size": 4,
    "num_workers": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "flexunet": {
        "seed_everything": 1,
        "trainer": TRAINER,
        "model": {
            "network": "flexunet",
            "base_filters": 4,
            "base_kernel": 3,
            "num_layers": 3,
            "dropout": 0.1,
            "normalization": "group",
            "input_normalize": True,
            "encoder": None,
            "encoder_weights": None,
            "learning_rate": 0.01,
            "loss": {"cross_entropy": 1.0, "dice": 1.0},
            "mirror": True,
            "smallest_region": 3,
        },
        "data": DATA,
    },
    "zoo": {
        "seed_everything": 1,
        "trainer": TRAINER,
        "model": {
            "network": "linknet",
            "encoder": "tu-test_resnet",
            "base_filters": None,
            "base_kernel": None,
            "num_layers": None,
            "dropout": None,
            "mirror": True,
            "smallest_region": 3,
        },
        "data": DATA,
    },
}


def drawn_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return random weights, the same in each call; a network that is too large to keep is filled with them anew."""
    generator = np.random.default_rng(0)
    drawn = {}
    for key in sorted(state):
        if key.endswith(("running_mean", "running_var")):  # what training made of them is not kept
            drawn[key] = torch.full_like(state[key], float(key.endswith("running_var")))
            continue
        if not state[key].is_floating_point() or key.endswith((".mean", ".std")):
            drawn[key] = state[key]
            continue
        fan_in = max(1, state[key][0].numel()) if state[key].ndim > 1 else 1
        values = generator.normal(0, fan_in**-0.5, tuple(state[key].shape)).astype(np.float32)
        drawn[key] = torch.from_numpy(values)
    return drawn


def main() -> None:
    """Train, test, and keep what is small."""
    from flexunet_pl.cli import main as run_command  # of the older commit
    from flexunet_pl.data.synthetic import write_dataset  # type: ignore[attr-defined]  # of the older commit

    with TemporaryDirectory() as name:
        os.chdir(name)
        write_dataset(Path("tiles"), *TILES)
        for network, config in CONFIGS.items():
            Path(f"{network}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            run = Path("runs") / network
            _run(run_command, ["fit", "--config", f"{network}.yaml", "--run_dir", str(run)])
            checkpoint = run / "checkpoints" / "best.ckpt"
            content = torch.load(checkpoint, weights_only=True)
            # One epoch learns nothing; drawn weights predict several classes.
            content["state_dict"] = drawn_weights(content["state_dict"])
            content |= {"optimizer_states": [], "callbacks": {}}
            torch.save(content, checkpoint)
            _run(
                run_command,
                ["test", "--config", f"{network}.yaml", "--ckpt_path", str(checkpoint), "--run_dir", f"test-{network}"],
            )
            if network == "zoo":
                content["state_dict"] = {}
            torch.save(content, HERE / f"{network}.ckpt")
            shutil.copy(f"{network}.yaml", HERE)
            shutil.copy(Path(f"test-{network}") / "test_scores.json", HERE / f"{network}_scores.json")


def _run(run_command: Any, arguments: list[str]) -> None:
    if run_command(arguments) != 0:
        sys.exit(f"failed: {arguments}")


if __name__ == "__main__":
    main()
