"""The page of a run, index.html in its folder, and the five lines that end it."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import lightning
from lightning.pytorch.callbacks import Checkpoint

from flexunet_pl.core import console
from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_text
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.nn.metric_registry import metrics_of, number_text
from flexunet_pl.training.conclusions import Findings, advice_line, score_line, worst_line
from flexunet_pl.training.epoch_pictures import WORST, WORST_PICTURE
from flexunet_pl.training.remaining_time import duration_text
from flexunet_pl.training.run_record import FINISHED, STOPPED, TRAINING, read_record
from flexunet_pl.training.run_sources import training_sources, validation_groups
from flexunet_pl.training.run_status import RunStatus, status_of
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.training.validation_images import ValidationImages
from flexunet_pl.visualization.html import render

PAGE = "index.html"
TEMPLATE = Path(__file__).parent / "templates" / "run.html.j2"
REFRESH = 20  # seconds, while the run is training
# Files of a run folder that the page shows once they are there.
SHOWN = {
    f"epoch_pictures/{WORST_PICTURE}": "Validation images that need a look, after the last validation",
    "curves/scores.png": "Scores",
    "curves/losses.png": "Losses",
    "epoch_pictures/strip.webp": "The same few images after every epoch",
}
LINKED = {"config.yaml": "full configuration", "curves/scores.csv": "scores of every epoch", "run.json": "state"}


class RunPage(Checkpoint):
    """Write index.html where training begins, after every epoch and where it ends; end the run with five lines.

    This is a checkpoint callback because Lightning calls those last: the epoch's scores, pictures, curves and
    checkpoints are there.
    """

    def __init__(self) -> None:
        """Start before the beginning."""
        super().__init__()
        self.has_begun = False
        self.lines: list[str] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the choices of the run."""
        self.has_begun, self.lines = True, []
        self._write(trainer, pl_module, TRAINING, trainer.current_epoch)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the counts of the best checkpoint, if it is saved after a validation."""
        self._keep_best(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the epoch."""
        self._keep_best(trainer)
        self._write(trainer, pl_module, TRAINING, trainer.current_epoch + 1)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show how the run ended."""
        status = status_of(trainer)
        if trainer.is_global_zero and status is not None:
            self.lines = last_lines(trainer, cast(SegmentationTask, pl_module), status)
        self._write(trainer, pl_module, FINISHED, trainer.current_epoch)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Show that the run was stopped, if it had begun."""
        if self.has_begun:
            self._write(trainer, pl_module, STOPPED, trainer.current_epoch)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Print the last lines, below the bar."""
        if self.lines:
            console.say(*self.lines)

    @staticmethod
    def _keep_best(trainer: lightning.Trainer) -> None:
        status = status_of(trainer)
        if status is None or trainer.sanity_checking or not status.note_best(trainer):
            return
        if trainer.is_global_zero and status.best is not None:
            status.best.save(Path(trainer.default_root_dir))

    def _write(self, trainer: lightning.Trainer, module: lightning.LightningModule, state: str, epochs: int) -> None:
        status = status_of(trainer)
        if status is None or not trainer.is_global_zero:
            return
        run, task = Path(trainer.default_root_dir), cast(SegmentationTask, module)
        record = read_record(run)
        seconds = status.seconds_left(trainer) if state == TRAINING else None
        # While it trains, how it stands; at the end, and where it is resumed, what one has.
        is_best = status.best is not None and (state == FINISHED or status.latest is None)
        scored = status.best if is_best else status.latest
        page = render(
            TEMPLATE,
            title=f"{run.name}: {state}",
            state=state,
            refresh=REFRESH if state == TRAINING else None,
            updated=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            epochs=epochs,
            most_epochs=trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None,
            elapsed=None if record is None else duration_text(record.seconds),
            left=None if seconds is None else duration_text(seconds),
            may_stop_early=bool(trainer.early_stopping_callbacks),
            now=status.history[-1] if status.history else None,
            highest=status.highest,
            monitored=None if record is None or record.best is None else f"{record.monitor} {record.best:.4f}",
            lines=self.lines,
            resume=shlex.join([PROGRAM, "resume", shown_path(run)]),
            classes=class_rows(scored, task.palette.names, task.palette.colors),
            headers=[metric.title for metric in metrics_of(per_class=True)],
            scored=scored,
            looks=[] if status.latest is None else named_looks(status.latest),
            pictures=[(name, caption) for name, caption in SHOWN.items() if (run / name).is_file()],
            links=[(name, caption) for name, caption in LINKED.items() if (run / name).is_file()],
            version=trainer.global_step,
            choices=choices(trainer, task),
        )
        write_text(run / PAGE, page)


def class_rows(
    scored: ValidationImages | None, names: Sequence[str], colors: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """Return a row for each class: name, colour, scores as text, and whether it is the worst; none without scores."""
    if scored is None:
        return []
    table, keys = scored.table, [metric.key for metric in metrics_of(per_class=True)]
    worst = scored.worst_class
    rows = []
    for index, (name, color) in enumerate(zip(names, colors, strict=True)):
        scores = table.of_class(index)
        cells = [number_text(scores[key]) for key in keys]
        is_worst = worst is not None and worst[0] == index
        rows.append({"name": name, "color": tuple(color), "cells": cells, "is_worst": is_worst})
    return rows


def named_looks(scored: ValidationImages) -> list[tuple[str, str]]:
    """Return name and reason of the validation images that need a look."""
    name_of = dict(zip(scored.indices.tolist(), scored.names, strict=True))
    return [(name_of[look.place], look.reason) for look in scored.worst(WORST)]


def choices(trainer: lightning.Trainer, task: SegmentationTask) -> list[tuple[str, str]]:
    """Return the key choices of a run, name and value."""
    settings, data = task.hparams, _datamodule(trainer)
    network = settings["network"]
    count = sum(parameter.numel() for parameter in task.network.parameters())
    network_text = " on ".join(str(network[key]) for key in ("name", "encoder") if network.get(key))
    found = {
        "data": data.layout.root,
        "classes": ", ".join(task.palette.names),
        "network": f"{network_text}, {count:,} parameters",
        "working size": f"{task.sizing.height} x {task.sizing.width}, {task.sizing.rule}",
        "crop": None if data.crop_size is None else " x ".join(map(str, data.crop_size)),
        "batch": data.batch_size if trainer.world_size == 1 else f"{data.batch_size} in each of {trainer.world_size}",
        "loss": ", ".join(f"{name} {weight}" for name, weight in settings["loss"].items()),
        "optimizer": f"{settings['optimizer']}, learning rate {settings['learning_rate']:g}, {settings['schedule']}",
        "sampler": data.sampler,
        "precision": trainer.precision,
    }
    return [(name, str(value)) for name, value in found.items() if value is not None]


def last_lines(trainer: lightning.Trainer, task: SegmentationTask, status: RunStatus) -> list[str]:
    """Return five lines: score, worst class and why, pictures, next command, what would help most.

    Without a validation, the first two and the last are one.
    """
    run, data = Path(trainer.default_root_dir), _datamodule(trainer)
    worst = Path("epoch_pictures") / WORST_PICTURE
    pictures = f"Pictures: {shown_path(run / PAGE)}"
    if (run / worst).is_file():
        pictures += f", worst images in {shown_path(run / worst)}"
    where = [f"{pictures}.", f"Next: {next_command(run, data)}"]
    images = status.best if status.best is not None else status.latest
    if images is None:
        return ["No score: no validation took place; it needs trainer.limit_val_batches above 0.", *where]
    found = Findings(
        names=task.palette.names,
        images=images,
        is_best=status.best is not None,
        groups=validation_groups(data, images.indices.tolist()),
        history=status.history,
        training=task.tables.get("train"),
        sources=training_sources(data),
        size=f"{task.sizing.height} x {task.sizing.width}",
    )
    return [score_line(found), worst_line(found), *where, advice_line(found)]


def next_command(run: Path, data: SegmentationDataModule) -> str:
    """Return the command to go on with: a report if there are test images, else predictions."""
    try:
        has_test = bool(data.pairs("test"))
    except UserError:
        has_test = False
    words = shlex.join([PROGRAM, "report" if has_test else "predict", shown_path(run)])
    return words if has_test else f"{words} IMAGES"


def shown_path(path: Path) -> str:
    """Return a path as one would type it: relative to the working directory if it is below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _datamodule(trainer: lightning.Trainer) -> SegmentationDataModule:
    return cast(SegmentationDataModule, trainer.datamodule)  # type: ignore[attr-defined]  # Lightning declares it nowhere
