"""One clock for training: speed, learning rate, and the share of the time that goes into waiting for data."""

import logging
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

MUCH_WAITING = 0.05  # above this share, more workers may help
DATA_WAIT_SHARE = "train/data_wait_share"

logger = logging.getLogger(__name__)


class StepTimer(Callback):
    """Log how fast training is, without its validation.

    Loggers get ``learning_rate``, ``speed/step_seconds`` (waiting for the batch included) and
    ``speed/images_per_second`` every ``log_every_n_steps`` steps and at the end of an epoch. Every epoch logs
    ``train/data_wait_share``, 0..1: the time between steps, in which a batch is fetched and moved to the device.

    Why not Lightning's: ThroughputMonitor waits for the GPU after every step and logs nothing before its window is
    full; LearningRateMonitor needs a logger and draws a curve for each parameter group, here the same one twice.
    """

    def __init__(self) -> None:
        """Start with no step counted."""
        self.since = 0.0
        self.steps = self.images = 0
        self.seconds = self.epoch_waited = self.epoch_total = self.waited = self.total = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self.epoch_waited = self.epoch_total = 0.0
        self.since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the step before as waiting."""
        self.epoch_waited += self._lap()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and log when enough steps are counted."""
        self._lap()
        self.steps += 1
        self.images += len(batch["image"]) * trainer.world_size
        if self.steps >= getattr(trainer, "log_every_n_steps", 1):
            self._log_speed(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave out a validation in the middle of an epoch."""
        self.since = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the remaining steps, and the share of this epoch."""
        if self.steps:
            self._log_speed(trainer)
        self.waited += self.epoch_waited
        self.total += self.epoch_total
        share = self.epoch_waited / self.epoch_total if self.epoch_total else 0.0
        # Reduced here in all processes: Lightning would reduce when the progress bar of one process reads the value.
        mean = trainer.strategy.reduce(torch.tensor(share, device=pl_module.device), reduce_op="mean")
        pl_module.log(DATA_WAIT_SHARE, mean, prog_bar=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the share of the whole training."""
        if trainer.is_global_zero and self.total:
            share = self.waited / self.total
            advice = (
                "" if share < MUCH_WAITING else "; more data.num_workers may help, if there are processors for them"
            )
            logger.info("Training waited for data %.1f %% of the time%s.", 100 * share, advice)

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self.since = now - self.since, now
        self.seconds += seconds
        self.epoch_total += seconds
        return seconds

    def _log_speed(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            numbers = {
                "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
                "speed/step_seconds": self.seconds / self.steps,
                "speed/images_per_second": self.images / max(self.seconds, 1e-9),
            }
            for one in trainer.loggers:
                one.log_metrics(numbers, step=max(trainer.global_step - 1, 0))
        self.seconds, self.steps, self.images = 0.0, 0, 0
