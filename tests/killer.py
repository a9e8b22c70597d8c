"""A callback that ends its own process the hard way, for the tests of resuming."""

import os
import signal
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class Killer(Callback):
    """Kill the process after one batch of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if trainer.current_epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)
