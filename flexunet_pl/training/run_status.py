"""What a run knows about itself while it trains: time left, scores so far, and what each validation image counted."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from flexunet_pl.nn.metric_registry import PRIMARY
from flexunet_pl.nn.metrics import edge_confusion
from flexunet_pl.training.remaining_time import Clock, duration_text, time_left
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.training.validation_images import Look, ValidationImages

SCORE = f"val/{PRIMARY}"
LONGEST_NAME = 16  # letters of a class where there is little room


@dataclass(frozen=True)
class Scored:
    """The score of a validation, and the epoch it belongs to, from 1."""

    epoch: int
    score: float


class RunStatus(Callback):
    """Keep what bar, page, pictures and the last lines of a run tell about it; the same in all processes.

    Attributes:
        history: The mDice of every validation, over all parts of a resumed run.
        latest: What the last validation counted in each image, None before the first.
        best: The same of the validation that chose ``best.ckpt``, None without one.
    """

    def __init__(self) -> None:
        """Start before the first validation."""
        self.history: list[Scored] = []
        self.latest: ValidationImages | None = None
        self.best: ValidationImages | None = None
        self.clock = Clock()
        self._best_score: float | None = None
        self._parts: list[tuple[list[int], Tensor]] = []
        self._edges: Tensor | None = None
        self._shrinkage: list[float] = []
        self._places: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the history as built-in types, for checkpoints."""
        return {"history": [[one.epoch, one.score] for one in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.history = [Scored(int(epoch), float(score)) for epoch, score in state_dict.get("history", [])]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, and go on with what an earlier part of the run found."""
        self.clock = Clock()
        self._best_score = best_score(trainer)
        if trainer.global_step and self._best_score is not None:
            found = ValidationImages.load(Path(trainer.default_root_dir))
            if found is not None and found.confusion.shape[0] == len(cast(SegmentationTask, pl_module).palette):
                self.best = found

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step."""
        self.clock.tick(trainer.global_step, time.monotonic())

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin with no image."""
        self._parts, self._edges, self._shrinkage = [], None, []
        images = trainer.val_dataloaders.dataset.images  # type: ignore[union-attr]  # there is one, of the DataModule
        self._places = {str(path): place for place, path in enumerate(images)}

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the counts of a batch, without waiting for the accelerator."""
        if trainer.sanity_checking:
            return
        confusions, mask = outputs["confusions"], batch["mask"]
        self._parts.append(([self._places[path] for path in batch["path"]], confusions))
        edges = edge_confusion(outputs["predicted"], mask, confusions.shape[1])
        self._edges = edges if self._edges is None else self._edges + edges
        area = mask.shape[1] * mask.shape[2]
        self._shrinkage += [(height * width / area) ** 0.5 for height, width in batch["size"]]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put the counts of all processes together."""
        if trainer.sanity_checking:
            return
        epoch = trainer.current_epoch + 1
        if SCORE in trainer.callback_metrics:
            self.history.append(Scored(epoch, float(trainer.callback_metrics[SCORE])))
        classes = len(cast(SegmentationTask, pl_module).palette)
        # A row for each image, whether this process scored it and its counts, and a last row for the edges: one sum
        # over all processes, whose result does not depend on which of them scored what.
        rows = torch.zeros(len(self._places) + 1, 1 + classes**2, dtype=torch.int64, device=pl_module.device)
        for places, confusions in self._parts:
            rows[places, 0] = 1
            rows[places, 1:] = confusions.flatten(1)
        if self._edges is not None:
            rows[-1, 1:] = self._edges.flatten()
        counts = cast(Tensor, trainer.strategy.reduce(rows, reduce_op="sum")).cpu().numpy()
        scored = np.flatnonzero(counts[:-1, 0])
        names = [Path(path).stem for path in self._places]
        self.latest = ValidationImages(
            epoch=epoch,
            indices=scored,
            names=[names[place] for place in scored],
            confusions=counts[scored, 1:].reshape(-1, classes, classes),
            edges=counts[-1, 1:].reshape(classes, classes),
            shrinkage=float(np.median(self._shrinkage)) if self._shrinkage else 1.0,
        )
        self._parts, self._edges = [], None

    def note_best(self, trainer: lightning.Trainer) -> bool:
        """Return whether a checkpoint callback found the latest validation to be the best so far, and keep it then.

        To be called after the checkpoint callbacks.
        """
        score = best_score(trainer)
        is_new = self.latest is not None and score is not None and score != self._best_score
        self._best_score = score
        if is_new:
            self.best = self.latest
        return is_new

    def looks(self, epoch: int, count: int) -> list[Look] | None:
        """Return the images of the last validation that need a look; None if it was not in this epoch, from 1."""
        return None if self.latest is None or self.latest.epoch != epoch else self.latest.worst(count)

    @property
    def highest(self) -> Scored | None:
        """The best mDice so far; the first one of several."""
        return max(self.history, key=lambda one: one.score, default=None)

    def seconds_left(self, trainer: lightning.Trainer) -> float | None:
        """Return the seconds until the Trainer ends the run, None if they are unknown."""
        return time_left(trainer, self.clock, time.monotonic())

    def in_short(self, trainer: lightning.Trainer, names: list[str]) -> dict[str, str]:
        """Return score, worst class and time left, as far as they are known, for a line of the terminal."""
        told = {}
        if self.history and (best := self.highest) is not None:
            told["val_mDice"] = f"{self.history[-1].score:.3f} (best {best.score:.3f})"
        if self.latest is not None and (worst := self.latest.worst_class) is not None:
            index, dice = worst
            told["worst"] = f"{' '.join(names[index].split())[:LONGEST_NAME]} {dice:.3f}"
        if (seconds := self.seconds_left(trainer)) is not None:
            told["left"] = duration_text(seconds)
        return told


def best_score(trainer: lightning.Trainer) -> float | None:
    """Return the best value so far of the score that a checkpoint callback monitors, None without one."""
    callbacks = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
    score = callbacks[0].best_model_score if callbacks else None
    return None if score is None else float(score)


def status_of(trainer: lightning.Trainer) -> RunStatus | None:
    """Return the status of a run; None if its Trainer has none."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning declares it nowhere
    return next((callback for callback in callbacks if isinstance(callback, RunStatus)), None)
