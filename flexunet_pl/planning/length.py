"""How long a run is, when it validates, and what its Trainer needs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flexunet_pl.core.durations import days_of, seconds_of
from flexunet_pl.core.errors import UserError
from flexunet_pl.planning.draft import Choice, Draft
from flexunet_pl.planning.trial import Trial
from flexunet_pl.training.defaults import TRAINER_VALUES
from flexunet_pl.training.recipes import PRETRAINED, recipe_of

STEPS_WITHOUT_TIME = 2_000
# Seconds that a run needs beside its steps and validations, such as for imports.
START_SECONDS = 15
# Validation takes at most this share of an epoch, while a run has at least this many epochs.
MOST_VALIDATION, FEWEST_EPOCHS, FEWEST_LONG_EPOCHS = 0.15, 5, 2
# The share of the time above which a validation goes without test-time augmentation, and what training gets at least.
LONG_VALIDATION, LEAST_TRAINING = 0.2, 0.5
# A prediction costs this share of a training step of as many pixels.
PREDICTION_COST = 1 / 3
SHORTEST_EPOCH = 200  # samples
# FlexUNet trains for few steps, and a slower average stays behind.
FLEXUNET_AVERAGE = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.95}}


@dataclass(frozen=True)
class Length:
    """How long the user wants to train: a time such as ``12m``, or epochs, or neither.

    Attributes:
        time: A duration, or None.
        epochs: Their number, or None.
    """

    time: str | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        """Raise UserError if both are given, or one is out of its range."""
        if self.time is not None and self.epochs is not None:
            raise UserError(f"--time {self.time} and --epochs {self.epochs} both end a run; give one of them")
        if self.time is not None:
            seconds_of(self.time)
        if self.epochs is not None and not 1 <= self.epochs <= 1_000_000:
            raise UserError(f"--epochs {self.epochs} must be 1 to 1,000,000")

    def part(self, folds: int) -> "Length":
        """Return the length of each of several trainings that share the time; epochs are those of each."""
        if self.time is None or folds < 2:
            return self
        return Length(time=f"{max(seconds_of(self.time) // folds, 1)}s")


def trainer_choices(draft: Draft, length: Length, trial: Trial) -> list[Choice]:
    """Choose batch, length, epochs and the Trainer's other keys; ``draft.values`` has what was chosen before."""
    wanted = draft.values["data.batch_size"]
    chosen: dict[str, tuple[Any, str]] = {}
    if trial.halved:
        chosen["data.batch_size"] = trial.batch, f"{wanted} crops do not fit into the free memory"
        steps = wanted // trial.batch
        chosen["trainer.accumulate_grad_batches"] = steps, f"{steps} batches of {trial.batch} make a step of {wanted}"
    validation = _validation_seconds(draft, trial)
    if length.time is not None and draft.values["model.tta"] and "model.tta" not in draft.given:
        share = validation / seconds_of(length.time)
        if share > LONG_VALIDATION:
            chosen["model.tta"] = False, f"a validation would take {share:.0%} of the time, which this halves"
            validation /= 2
    chosen["data.min_samples_per_epoch"] = _samples(draft, length, trial, validation)
    samples = draft.given.get("data.min_samples_per_epoch", chosen["data.min_samples_per_epoch"][0])
    chosen |= _end(draft, length, trial, validation, samples)
    chosen["trainer.precision"] = str(TRAINER_VALUES["precision"]), draft.machine.precision_reason
    if recipe_of(draft.network) is not PRETRAINED:
        chosen["trainer.callbacks"] = [FLEXUNET_AVERAGE], "the average of weights makes training stable"
    if draft.facts.validates:
        chosen["monitor"] = PRETRAINED.monitor, "the score that best.ckpt has best"
    else:
        chosen["monitor"] = "val/loss", "no validation image shows a defect, so there is no Dice"
    chosen["patience"] = 0, "the learning rate falls to 0 at the end, so a run is not ended early"
    return [
        Choice(key, draft.given[key], "given") if key in draft.given else Choice(key, value, reason)
        for key, (value, reason) in chosen.items()
    ]


def _validation_seconds(draft: Draft, trial: Trial) -> float:
    """Estimate the time of a validation from that of a training step."""
    height, width = draft.training_size
    in_step = trial.batch * height * width
    sizes = np.array(list(draft.facts.sizes)).prod(axis=1) * draft.scale**2
    typical = float(np.average(sizes, weights=list(draft.facts.sizes.values())))
    images = draft.facts.images.get("valid", 0) or draft.facts.images["train"] / max(draft.facts.folds, 1)
    views = 2 if draft.values["model.tta"] else 1
    return images * typical * views * PREDICTION_COST * trial.seconds / in_step


def _samples(draft: Draft, length: Length, trial: Trial, validation: float) -> tuple[int, str]:
    usual = int(recipe_of(draft.network).data.get("min_samples_per_epoch") or 800)
    if length.time is None:
        return usual, "the scores of an epoch of fewer crops say little new"
    rate = trial.batch / trial.seconds
    in_all = rate * seconds_of(length.time)
    least = validation / MOST_VALIDATION * rate
    if least > usual:
        count = min(least, in_all / FEWEST_LONG_EPOCHS)
        return max(round(count), SHORTEST_EPOCH), f"a validation takes some {validation:.0f} s here"
    count = min(usual, max(in_all / FEWEST_EPOCHS, least, SHORTEST_EPOCH))
    return round(count), f"a step takes {trial.seconds:.2f} s here, and a validation some {validation:.0f} s"


def _end(draft: Draft, length: Length, trial: Trial, validation: float, samples: Any) -> dict[str, tuple[Any, str]]:
    """Return what ends the run."""
    if given := {key for key in draft.given if key in ("trainer.max_time", "trainer.max_epochs", "trainer.max_steps")}:
        if length.time is not None or length.epochs is not None:
            option = "--time" if length.time is not None else "--epochs"
            raise UserError(f"{option} and --{min(given)} both end a run; give one of them")
        return {key: (draft.given[key], "given") for key in sorted(given)}
    if length.epochs is not None:
        return {"trainer.max_epochs": (length.epochs, "given")}
    if length.time is not None:
        seconds = seconds_of(length.time)
        left = max(seconds - START_SECONDS - round(validation), round(seconds * LEAST_TRAINING), 1)
        return {"trainer.max_time": (days_of(left), f"{length.time} less the start and the last validation")}
    in_step = int(draft.values["data.batch_size"])
    in_epoch = max(draft.facts.images["train"], int(samples)) / in_step
    per_step = trial.seconds * in_step / trial.batch
    epochs = max(1, round(STEPS_WITHOUT_TIME / in_epoch))
    minutes = epochs * (in_epoch * per_step + validation) / 60
    steps = f"{epochs * in_epoch:,.0f} steps, some {minutes:.0f} minutes here"
    return {"trainer.max_epochs": (epochs, f"{steps}; --time 12m or --epochs N says otherwise")}
