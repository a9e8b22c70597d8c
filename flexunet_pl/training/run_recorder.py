"""The callback that keeps run.json of a run folder up to date."""

import time
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from flexunet_pl.training import runs
from flexunet_pl.training.run_record import FINISHED, STOPPED, TRAINING, Record, read_record, write_record


class RunRecorder(Checkpoint):
    """Write run.json where training begins, after every epoch, and where it ends, in the first process.

    This is a checkpoint callback because Lightning calls those last, when the epoch's scores are known.
    """

    def __init__(self) -> None:
        """Start before the beginning."""
        super().__init__()
        self.since: float | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock; a resumed run goes on where it stood."""
        earlier = read_record(_folder(trainer)) if trainer.global_step else None
        self.since = time.monotonic() - (earlier.seconds if earlier else 0.0)
        self._write(trainer, TRAINING, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say how far training is."""
        self._write(trainer, TRAINING, trainer.current_epoch + 1)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say that training came to its end."""
        self._write(trainer, FINISHED, trainer.current_epoch)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Say that training was stopped, if it had begun."""
        self._write(trainer, STOPPED, trainer.current_epoch)

    def _write(self, trainer: lightning.Trainer, state: str, epochs: int) -> None:
        if self.since is None or not trainer.is_global_zero:
            return
        chosen = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
        best = chosen[0].best_model_score if chosen else None
        record = Record(
            state,
            round(time.monotonic() - self.since, 1),
            epochs,
            trainer.global_step,
            chosen[0].monitor if chosen else None,
            None if best is None else float(best),
            not runs.is_started_from_outside(),
        )
        write_record(_folder(trainer), record)


def _folder(trainer: lightning.Trainer) -> Path:
    return Path(trainer.default_root_dir)
