"""nnU-Net v2 as it is, but for a clock and a size that a CPU can bear; runs where nnunetv2 is installed.

    python benchmarks/nnunet_trainer.py plan --memory_gb 0.5
    python benchmarks/nnunet_trainer.py train --deadline SECONDS --seed 0 --out FOLDER
    python benchmarks/nnunet_trainer.py predict --images FOLDER --masks FOLDER --out FOLDER

Data set 1 in the folders that nnUNet_raw, nnUNet_preprocessed and nnUNet_results name, configuration 2d, all training
images. Its planner chooses patch, batch and network for ``--memory_gb`` of GPU memory instead of 8; there is no GPU.
Training ends at ``--deadline``, in seconds since 1970, instead of after 1000 epochs, and the polynomial learning rate
follows the time. Everything else is nnU-Net's: normalisation, augmentation, loss with deep supervision, SGD, and
prediction in overlapping windows with mirroring. compare.py calls it.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as trainer_module  # noqa: N813  a module named as its class
import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name

DATASET = 1
CONFIGURATION = "2d"
PROCESSES = 2


class SeededAugmenter(trainer_module.NonDetMultiThreadedAugmenter):  # type: ignore[misc]  # nnunetv2 has no types
    """nnU-Net's processes that augment, with seeds of their own instead of the system's noise."""

    def __init__(self, *arguments: Any, num_processes: int, **options: Any) -> None:
        """Take what nnU-Net gives."""
        seeds = [torch.initial_seed() % 2**31 + number for number in range(num_processes)]
        super().__init__(*arguments, num_processes=num_processes, **(options | {"seeds": seeds}))


class TimedPolynomial(PolyLRScheduler):  # type: ignore[misc]  # nnunetv2 has no types
    """nnU-Net's polynomial from the initial rate to 0, over the time from now to a deadline instead of epochs."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial_lr: float, deadline: float) -> None:
        """Begin at ``initial_lr``."""
        self.started, self.deadline = time.time(), deadline
        super().__init__(optimizer, initial_lr, 1.0)

    def step(self, current_step: Any = None) -> None:  # noqa: ARG002  the epoch, which does not matter
        """Set the rate for now."""
        super().step(min((time.time() - self.started) / max(self.deadline - self.started, 1e-9), 1.0))


class TimedTrainer(trainer_module.nnUNetTrainer):  # type: ignore[misc]  # nnunetv2 has no types
    """nnU-Net's trainer, ended by the clock. Set ``deadline``, in seconds since 1970, before training."""

    deadline = 0.0
    steps = 0

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, TimedPolynomial]:
        """Return nnU-Net's optimizer, and its schedule by time."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, TimedPolynomial(optimizer, self.initial_lr, self.deadline)

    def is_over(self) -> bool:
        """Return whether the time is over."""
        return time.time() >= self.deadline

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do a step at the rate of now."""
        self.lr_scheduler.step()
        self.steps += 1
        result: dict[str, Any] = super().train_step(batch)
        return result

    def run_training(self) -> None:
        """Train epoch by epoch, as nnU-Net does, and stop within one when the time is over."""
        self.on_train_start()
        while not self.is_over():
            self.on_epoch_start()
            self.on_train_epoch_start()
            outputs: list[dict[str, Any]] = []
            while len(outputs) < self.num_iterations_per_epoch and not self.is_over():
                outputs.append(self.train_step(next(self.dataloader_train)))
            if len(outputs) < self.num_iterations_per_epoch:
                break
            self.on_train_epoch_end(outputs)
            with torch.no_grad():
                self.on_validation_epoch_start()
                batches = range(self.num_val_iterations_per_epoch)
                self.on_validation_epoch_end([self.validation_step(next(self.dataloader_val)) for _ in batches])
            self.on_epoch_end()
        self.on_train_end()


def trainer(deadline: float) -> TimedTrainer:
    """Return a trainer of the data set as it was planned."""
    folder = Path(str(nnUNet_preprocessed)) / convert_id_to_dataset_name(DATASET)
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset = json.loads((folder / "dataset.json").read_text())
    made = TimedTrainer(plans, CONFIGURATION, "all", dataset, torch.device("cpu"))
    made.deadline = deadline
    return made


def plan(memory_gb: float) -> None:
    """Extract the fingerprint, plan for ``memory_gb`` and preprocess."""
    extract_fingerprint_dataset(DATASET, num_processes=PROCESSES, check_dataset_integrity=True)
    plan_experiment_dataset(DATASET, gpu_memory_target_in_gb=memory_gb)
    preprocess_dataset(DATASET, configurations=(CONFIGURATION,), num_processes=[PROCESSES])


def train(deadline: float, seed: int, out: Path) -> None:
    """Train until ``deadline``; write the weights and ``steps.json`` to ``out``."""
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        set_seed(seed)
    trainer_module.NonDetMultiThreadedAugmenter = SeededAugmenter
    made = trainer(deadline)
    made.run_training()
    torch.save(made.network.state_dict(), out / "weights.pt")
    used = made.configuration_manager
    facts = {"patch": [int(side) for side in used.patch_size], "batch": int(used.batch_size)}
    (out / "steps.json").write_text(json.dumps({"steps": made.steps, "ended": time.time(), **facts}))


def predict(images: Path, masks: Path, out: Path) -> None:
    """Predict the PNG files of ``images`` with the weights in ``out`` into ``masks``."""
    made = trainer(0.0)
    made.enable_deep_supervision = False
    made.initialize()
    made.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # sets the axes of mirroring
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    weights = torch.load(out / "weights.pt", weights_only=True)
    predictor.manual_initialization(
        made.network,
        made.plans_manager,
        made.configuration_manager,
        [weights],
        made.dataset_json,
        type(made).__name__,
        made.inference_allowed_mirroring_axes,
    )
    masks.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(str(images), str(masks))


def main() -> None:
    """Do what the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("plan").add_argument("--memory_gb", type=float, required=True)
    training = commands.add_parser("train")
    training.add_argument("--deadline", type=float, required=True)
    training.add_argument("--seed", type=int, required=True)
    training.add_argument("--out", type=Path, required=True)
    prediction = commands.add_parser("predict")
    for option in ("--images", "--masks", "--out"):
        prediction.add_argument(option, type=Path, required=True)
    options = vars(parser.parse_args())
    functions: dict[str, Callable[..., None]] = {"plan": plan, "train": train, "predict": predict}
    functions[options.pop("command")](**options)


if __name__ == "__main__":
    # As nnU-Net does on a CPU, but with the threads that all engines of the comparison have.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    main()
