"""Loggers: what they need, and get beside losses and scores: learning rate, step time, throughput, pictures."""

import importlib.util
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import UInt8Array

PACKAGE_OF_LOGGER = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml"}


class Speed(Callback):
    """Log ``learning_rate``, ``speed/step_seconds`` and ``speed/images_per_second`` every ``log_every_n_steps`` steps.

    A step's time runs from its end back to the end of the one before, waiting for data included; validation is not.
    """

    def __init__(self) -> None:
        """Begin with no step seen."""
        self.since = 0.0
        self.seconds = 0.0
        self.steps = self.images = 0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self.since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step, and log every few of them."""
        now = time.perf_counter()
        self.seconds += now - self.since
        self.since = now
        self.steps += 1
        self.images += len(batch["image"]) * trainer.world_size
        if self.steps >= getattr(trainer, "log_every_n_steps", 1):
            self._log(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave validation out."""
        self.since = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log what was not logged yet."""
        if self.steps:
            self._log(trainer)

    def _log(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            numbers = {
                "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
                "speed/step_seconds": self.seconds / self.steps,
                "speed/images_per_second": self.images / max(self.seconds, 1e-9),
            }
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step - 1)
        self.seconds, self.steps, self.images = 0.0, 0, 0


def log_picture(loggers: list[Logger], key: str, rgb: UInt8Array, step: int) -> None:
    """Give a picture uint8 (H, W, 3) to those of the loggers that take some: TensorBoard, W&B and MLflow."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, rgb, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(key, [rgb], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, rgb, key=key.replace("/", "-"), step=step)


def check_packages(loggers: list[Any]) -> None:
    """Check the loggers of a config before they are made: what is said when that fails does not name the package.

    Raises:
        UserError: If the package of a logger is not installed.
    """
    for logger in loggers:
        name = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        package = PACKAGE_OF_LOGGER.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(f"trainer.logger: {name} needs the package {package}; pip install {package}")
