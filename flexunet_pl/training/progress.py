"""What a run shows while it trains: a progress bar, and one line about the network."""

from typing import Any

import lightning
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelSummary, RichProgressBar

from flexunet_pl.core import console
from flexunet_pl.nn.metric_registry import PRIMARY
from flexunet_pl.training.step_timer import DATA_WAIT_SHARE

# What is logged, and its name beside the bar, which has room for a dozen letters; None leaves it out.
SHORT_NAMES = {"v_num": None, f"val/{PRIMARY}": "val_mDice", DATA_WAIT_SHARE: "data_wait"}


class ProgressBar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1, short names, and without the number that a logger gave the run."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Return the numbers beside the bar."""
        numbers = {SHORT_NAMES.get(key, key): value for key, value in super().get_metrics(trainer, pl_module).items()}
        return {name: value for name, value in numbers.items() if name is not None}

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning has no public hook for it, and prints -2 as the last epoch where time or steps end the run.
        most = self.trainer.max_epochs
        shown = f"Epoch {current_epoch + 1}" if most is None or most < 0 else f"Epoch {current_epoch + 1}/{most}"
        return shown.ljust(len(self.validation_description))


class NetworkSize(ModelSummary):
    """Print the network and its parameters, where Lightning prints a table of modules with 0 FLOPs each."""

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the line."""
        network = getattr(pl_module, "network", pl_module)
        count = sum(parameter.numel() for parameter in network.parameters())
        if trainer.is_global_zero:
            console.say(f"Network: {type(network).__name__}, {count:,} parameters")


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
