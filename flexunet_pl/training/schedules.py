"""Learning rate schedules by name, over the steps of a run or over its time."""

import math
from collections.abc import Callable
from typing import Any

import lightning
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from flexunet_pl.core.errors import UserError, suggestion

# A run that only max_time ends is divided into this many parts, which take the place of steps.
PARTS_OF_TIME = 10_000


def keras_plateau(optimizer: Optimizer, factor: float, patience: int) -> ReduceLROnPlateau:
    """Return Keras' ReduceLROnPlateau: times ``factor`` after ``patience`` epochs without 1e-4 less loss."""
    # Torch reduces when more than `patience` epochs were bad, Keras when as many were.
    return ReduceLROnPlateau(optimizer, factor=factor, patience=patience - 1, threshold=1e-4, threshold_mode="abs")


def warm_cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int) -> LRScheduler:
    """Return a linear rise over ``warmup_steps`` and a half cosine down to 0 at ``total_steps``, step by step."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


class OneCycle(OneCycleLR):
    """torch's one-cycle schedule; a resumed run that is to last longer goes on in the cycle of its new length."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position, but not the length of the cycle, which the Trainer determines."""
        length = {key: self.__dict__[key] for key in ("total_steps", "_schedule_phases")}
        super().load_state_dict(state_dict | length)


def one_cycle(optimizer: Optimizer, total_steps: int, warmup_steps: int) -> LRScheduler:
    """Return torch's one-cycle schedule up to the optimizer's rate; a rise of ``warmup_steps``, 30 % of all if 0."""
    share = warmup_steps / total_steps if warmup_steps else 0.3
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycle(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=share)


# Schedules that change the rate in each step; "constant" and "plateau" do not.
STEP_SCHEDULES: dict[str, Callable[[Optimizer, int, int], LRScheduler]] = {
    "cosine": warm_cosine,
    "one_cycle": one_cycle,
}
SCHEDULES = ("constant", "plateau", *STEP_SCHEDULES)


def check_schedule(name: str, warmup: float, plateau_factor: float, plateau_patience: int) -> None:
    """Check the settings of a schedule.

    Raises:
        UserError: If the name is unknown or a number is out of its range.
    """
    if name not in SCHEDULES:
        raise UserError(f"model.schedule={name!r}; choose from {', '.join(SCHEDULES)}{suggestion(name, SCHEDULES)}")
    if warmup < 0 or (warmup > 1 and warmup != int(warmup)):
        raise UserError(
            f"model.warmup_steps={warmup} must be a whole number of steps, or below 1 a share of the run such as 0.05"
        )
    if not 0 < plateau_factor < 1:
        raise UserError(f"model.plateau_factor={plateau_factor} must be between 0 and 1")
    if plateau_patience < 1:
        raise UserError(f"model.plateau_patience={plateau_patience} must be at least 1")


def build_schedule(optimizer: Optimizer, task: lightning.LightningModule) -> OptimizerLRScheduler:
    """Return the optimizer with the schedule of the task's hyperparameters, in Lightning's form.

    Args:
        optimizer: Its rates are the peaks.
        task: Its Trainer ends the schedule with ``max_epochs``, ``max_steps`` or ``max_time``, whichever comes first;
            constant and plateau need no Trainer.

    Raises:
        UserError: If the schedule needs to know how long the run is and the Trainer has no end, or the warm-up does
            not fit into it.
    """
    settings = task.hparams
    name, warmup = settings["schedule"], settings["warmup_steps"]
    if name == "constant":
        return optimizer
    if name == "plateau":
        plateau = keras_plateau(optimizer, settings["plateau_factor"], settings["plateau_patience"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss", "strict": False}}
    trainer = task.trainer
    total_steps = trainer.estimated_stepping_batches
    if total_steps == float("inf"):
        if _timer(trainer) is None:
            raise UserError(
                f"model.schedule={name} needs an end; set trainer.max_epochs, trainer.max_steps or trainer.max_time"
            )
        if warmup >= 1:
            raise UserError(
                f"model.warmup_steps={warmup:g} counts steps, but only trainer.max_time ends this run; give a share of "
                "the run, such as 0.05"
            )
        total_steps = PARTS_OF_TIME
    warmup_steps = round(warmup * total_steps) if warmup < 1 else int(warmup)
    if not warmup_steps < total_steps:
        raise UserError(f"model.warmup_steps={warmup:g} must be at least 0 and below the run's {total_steps:g} steps")
    scheduler = STEP_SCHEDULES[name](optimizer, int(total_steps), warmup_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def step_schedule(scheduler: Any, trainer: lightning.Trainer) -> None:
    """Advance a step schedule by one step, or to the position of the elapsed time if that is further."""
    timer, steps = _timer(trainer), trainer.estimated_stepping_batches
    if timer is not None:
        total_steps = PARTS_OF_TIME if steps == float("inf") else int(steps)
        elapsed, left = timer.time_elapsed(), timer.time_remaining() or 0.0
        # Without this, processes whose clocks differ would train with different rates.
        share = trainer.strategy.broadcast(min(1.0, elapsed / max(elapsed + left, 1e-9)))
        position = int(share * total_steps)
        if steps != float("inf"):
            position = max(position, scheduler.last_epoch + 1)
        scheduler.last_epoch = position - 1
    scheduler.step()


def _timer(trainer: lightning.Trainer) -> Timer | None:
    """Return the Timer that Lightning adds for ``trainer.max_time``."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]  # Lightning declares it nowhere
    return next((timer for timer in timers if timer.time_remaining() is not None), None)
