"""How long training waits for data: a share of its time, logged every epoch and told at the end."""

import logging
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

# Above this share it is worth having more workers.
MUCH = 0.05
DATA_WAIT_SHARE = "train/data_wait_share"

logger = logging.getLogger(__name__)


class DataWait(Callback):
    """Log ``train/data_wait_share``, 0..1: of the time of an epoch's training steps, how much went by between steps.

    What goes by from the end of a step to the start of the next is fetching its batch and taking it to the device; in
    the first epoch that includes starting the workers. Validation does not count.
    """

    def __init__(self) -> None:
        """Begin with no step seen."""
        self.waited = self.total = 0.0
        self.epoch_waited = self.epoch_total = 0.0
        self.since = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self.epoch_waited = self.epoch_total = 0.0
        self.since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count what went by since the step before as waiting."""
        waited = self._lap()
        self.epoch_waited += waited
        self.epoch_total += waited

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step itself."""
        self.epoch_total += self._lap()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave validation out, where it comes in the middle of an epoch."""
        self.since = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the share of this epoch."""
        self.waited += self.epoch_waited
        self.total += self.epoch_total
        share = self.epoch_waited / self.epoch_total if self.epoch_total else 0.0
        pl_module.log(DATA_WAIT_SHARE, share, prog_bar=True, sync_dist=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Tell the share of the whole training, and what to do if it is much."""
        if trainer.is_global_zero and self.total:
            share = self.waited / self.total
            advice = "" if share < MUCH else "; more data.num_workers may help, if there are processors for them"
            logger.info("Training waited for data %.1f %% of the time%s.", 100 * share, advice)

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self.since = now - self.since, now
        return seconds
