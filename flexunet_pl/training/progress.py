"""What a run shows while it trains: a progress bar or a line an epoch, and one line about the network."""

import sys
from typing import Any, cast

import lightning
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelSummary, RichProgressBar
from rich.progress import BarColumn

from flexunet_pl.core import console
from flexunet_pl.training.run_status import SCORE, RunStatus, status_of
from flexunet_pl.training.step_timer import DATA_WAIT_SHARE
from flexunet_pl.training.task import SegmentationTask

# What is logged, and its name beside the bar, which has room for a dozen letters; None leaves it out.
BAR_WIDTH = 10
SHORT_NAMES = {"v_num": None, SCORE: "val_mDice", DATA_WAIT_SHARE: "data_wait"}


class ProgressBar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1, short names, the best score, the worst class and the time left.

    The number that a logger gave the run is left out.
    """

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Return the numbers beside the bar."""
        numbers = {SHORT_NAMES.get(key, key): value for key, value in super().get_metrics(trainer, pl_module).items()}
        shown = {name: value for name, value in numbers.items() if name is not None}
        status = status_of(trainer)
        return shown if status is None or trainer.state.fn != "fit" else shown | _told(status, trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning has no public hook for it, and prints -2 as the last epoch where time or steps end the run.
        return f"Epoch {_counted(current_epoch, self.trainer)}".ljust(len(self.validation_description))

    def configure_columns(self, trainer: lightning.Trainer) -> list[Any]:
        """Return Lightning's columns, with a bar that leaves room for the numbers."""
        columns = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = BAR_WIDTH
        return list(columns)


class EpochLine(Callback):
    """Print a line an epoch where no bar shows the run: a bar is switched off, or would not move in a file."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the line, in the first process."""
        status, bar = status_of(trainer), trainer.progress_bar_callback
        is_shown = bar is not None and not getattr(bar, "is_disabled", False) and sys.stdout.isatty()
        if status is None or not trainer.is_global_zero or is_shown:
            return
        known = _told(status, trainer, pl_module)
        if status.latest is None or status.latest.epoch != trainer.current_epoch + 1:  # scores of an earlier epoch
            known = {name: value for name, value in known.items() if name == "left"}
        told = ", ".join(f"{name} {value}" for name, value in known.items())
        console.say(f"Epoch {_counted(trainer.current_epoch, trainer)}{', ' if told else ''}{told}")


class NetworkSize(ModelSummary):
    """Print the network and its parameters, where Lightning prints a table of modules with 0 FLOPs each."""

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the line."""
        network = getattr(pl_module, "network", pl_module)
        count = sum(parameter.numel() for parameter in network.parameters())
        if trainer.is_global_zero:
            console.say(f"Network: {type(network).__name__}, {count:,} parameters")


def _counted(epoch: int, trainer: lightning.Trainer) -> str:
    """Return the number of an epoch, from 1, and of how many if that is known."""
    most = trainer.max_epochs
    return f"{epoch + 1}" + ("" if most is None or most < 0 else f"/{most}")


def _told(status: RunStatus, trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, str]:
    return status.in_short(trainer, list(cast(SegmentationTask, module).palette.names))


def displays(trainer: Namespace) -> list[Callback]:
    """Return bar and line for the Trainer of a config, but for those that it switches off or has its own of."""
    if trainer.barebones:
        return []
    names = [str(callback.class_path) for callback in trainer.callbacks]
    shown: list[Callback] = []
    if trainer.enable_progress_bar is not False and not any(name.endswith("ProgressBar") for name in names):
        shown.append(ProgressBar())
    if trainer.enable_model_summary is not False and not any(name.endswith("ModelSummary") for name in names):
        shown.append(NetworkSize())
    return shown
