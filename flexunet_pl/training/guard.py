"""End a run cleanly: after a signal, when the loss is no number, and when there is no score to monitor."""

import atexit
import math
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from flexunet_pl.core.console import is_first_process, note
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.signals import Stopped
from flexunet_pl.training.runs import checkpoint_file, how_to_resume

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STEPS_ON_GPU = 10  # a check waits for the GPU, so there it is made this rarely


class Guard(Callback):
    """Watch a run, the same way in all of its processes.

    SIGTERM and SIGINT end the step, save ``last.ckpt``, from which the run goes on exactly, and exit with 143 or 130; a
    second SIGINT ends at once. A signal during validation takes effect after it. A loss that is NaN or infinite, and a
    monitored score that no validation image can give, are a UserError; checkpoints stay as they were before.
    """

    def __init__(self) -> None:
        """Start without a signal."""
        self.signal = 0
        self.is_training = False
        self.trainer: lightning.Trainer | None = None
        self.process = os.getpid()

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Take the signals."""
        self.trainer = trainer
        self._take_signals()

    def _take_signals(self) -> None:
        """Receive the signals; again where a stage begins, as Lightning's handler may wait for a process for ever."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a worker that reads data, which its own process ends
            return
        is_again, self.signal = self.signal != 0, number
        if not is_first_process():
            # The first process decides, and has the signal too: a terminal sends it to both.
            if not self.is_training:
                raise SystemExit(0)
            return
        launcher = None if self.trainer is None else self.trainer.strategy.launcher
        if launcher is not None and not is_again:
            launcher.kill(number)
        if not self.is_training or (is_again and number == signal.SIGINT):
            raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)
        if not is_again:
            note("Stopping after this step, or after the validation in progress.")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From now on, a signal waits for the end of a step."""
        self._take_signals()
        self.is_training = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree with the other processes whether to go on."""
        done, last = batch_idx + 1, trainer.num_training_batches
        if pl_module.device.type != "cpu" and done % STEPS_ON_GPU and done != last:
            return
        is_finite = bool(torch.isfinite(outputs["loss"]))
        self.signal, bad_loss = self._agree(trainer, self.signal, not is_finite)
        if bad_loss:
            raise _not_finite("train/loss", trainer, pl_module)
        # Not before a validation, and not after the last step: the epoch ends as always, with its own checkpoint.
        is_between = done < last and done % (trainer.val_check_batch or math.inf) != 0
        if self.signal and is_between and done % trainer.accumulate_grad_batches == 0:
            if any(isinstance(callback, ModelCheckpoint) for callback in trainer.checkpoint_callbacks):
                trainer.save_checkpoint(checkpoint_file(Path(trainer.default_root_dir), "last"), weights_only=False)
            self._exit(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop between two epochs if a signal came late in the epoch before; its checkpoint is written."""
        self.signal, _ = self._agree(trainer, self.signal, False)
        if self.signal:
            self._exit(trainer)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the signals in validate."""
        self._take_signals()

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the signals in test."""
        self._take_signals()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the signals in predict."""
        self._take_signals()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Check the validation loss and the monitored scores, which are the same in all processes."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not torch.isfinite(loss):
            raise _not_finite("val/loss", trainer, pl_module)
        for callback in [*trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks]:
            if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
                _check_monitor(callback.monitor, trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Exit as the signal demands, though training came to its end."""
        self.is_training = False
        if self.signal:
            self._exit(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Leave no process behind that hangs."""
        if trainer.strategy.launcher is not None and not isinstance(exception, Stopped | UserError):
            atexit.register(trainer.strategy.launcher.kill, signal.SIGKILL)

    @staticmethod
    def _agree(trainer: lightning.Trainer, signal_number: int, is_bad: bool) -> tuple[int, bool]:
        """Return the highest signal of all processes, and whether any has a bad loss."""
        if trainer.world_size == 1:
            return signal_number, is_bad
        state = torch.tensor([signal_number, int(is_bad)], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(state, op=torch.distributed.ReduceOp.MAX)
        return int(state[0]), bool(state[1])

    def _exit(self, trainer: lightning.Trainer) -> None:
        self.is_training = False
        if trainer.is_global_zero:
            note(f"Stopped; go on with {how_to_resume(Path(trainer.default_root_dir))}")
        raise everywhere(Stopped(self.signal), trainer)


def everywhere(error: BaseException, trainer: lightning.Trainer) -> BaseException:
    """Return the error for the first process, and a quiet exit for the others, which all have the same one.

    The exit code of the others is 0: Lightning kills the first process when one of them fails.
    """
    return error if trainer.is_global_zero else SystemExit(0)


def _not_finite(key: str, trainer: lightning.Trainer, module: lightning.LightningModule) -> BaseException:
    last = checkpoint_file(Path(trainer.default_root_dir), "last")
    saved = f"; {last} is from before" if last.is_file() else ""
    error = UserError(
        f"{key} became NaN or infinite in epoch {trainer.current_epoch}, step {trainer.global_step}{saved}; lower "
        f"model.learning_rate={module.hparams['learning_rate']:g}, or set trainer.gradient_clip_val"
    )
    return everywhere(error, trainer)


def _check_monitor(monitor: str, trainer: lightning.Trainer) -> None:
    metrics = trainer.callback_metrics
    if monitor in metrics:
        return
    scores = [key for key in metrics if key.startswith("val/") and key.count("/") == 1]
    raise everywhere(
        UserError(
            f"monitor={monitor} was not measured: no validation image has what it needs, such as a pixel of its class; "
            f"add such images to the validation split, or choose another score with --monitor: {', '.join(scores)}"
        ),
        trainer,
    )
