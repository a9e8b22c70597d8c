"""Callbacks that write results: curves, epoch pictures, scores."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging

from flexunet_pl.core import console
from flexunet_pl.core.background import BackgroundCounts
from flexunet_pl.core.csv_text import csv_of_maps
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_json, write_text
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.dataset import ImageDataset
from flexunet_pl.data.samples import find_images
from flexunet_pl.nn.metric_registry import metrics_of
from flexunet_pl.nn.metrics import mask_from_logits
from flexunet_pl.training.epoch_pictures import WORST, Shot, write_epoch, write_strip, write_worst
from flexunet_pl.training.loggers import log_picture
from flexunet_pl.training.run_status import status_of
from flexunet_pl.training.step_timer import DATA_WAIT_SHARE
from flexunet_pl.training.task import SegmentationTask, Stage
from flexunet_pl.training.validation_images import Look
from flexunet_pl.visualization.pictures import line_chart, save_picture


class Curves(Checkpoint):
    """Write losses and scores of every epoch as CSV and as charts into ``curves/`` of the run folder.

    ``losses.csv`` has epoch, loss, val_loss; ``scores.csv`` has everything logged except times. A resumed run continues
    the same files. This is a checkpoint callback because Lightning calls those last, when the epoch's scores are known.
    """

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Read the rows of earlier epochs, without those of an epoch that was interrupted."""
        path = _run_dir(trainer) / "curves" / "scores.csv"
        rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        self.rows = [
            {key: float(value) for key, value in row.items() if value}
            for row in rows
            if int(float(row["epoch"])) < trainer.current_epoch
        ]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add a row and rewrite the files."""
        # All processes must read callback_metrics: reading gathers the training loss from all of them.
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key != DATA_WAIT_SHARE}
        if not trainer.is_global_zero:
            return
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": float(trainer.current_epoch), "learning_rate": rate} | metrics)
        folder = _run_dir(trainer) / "curves"
        names = {"epoch": "epoch", "loss": "train/loss", "val_loss": "val/loss"}
        losses = [{name: row.get(key) for name, key in names.items()} for row in self.rows]
        write_text(folder / "losses.csv", _csv(losses))
        write_text(folder / "scores.csv", _csv(self.rows))
        for name, keys in (("losses", ["train/loss", "val/loss"]), ("scores", _main_keys(metrics))):
            series = {key: [(row["epoch"], row[key]) for row in self.rows if key in row] for key in keys}
            chart = line_chart({key: points for key, points in series.items() if points}, name)
            save_picture(folder / f"{name}.png", chart)


class EpochPictures(Callback):
    """Draw image, truth (if any), prediction and errors of a few fixed images after every epoch.

    Writes one picture an epoch, ``epoch_pictures/epoch_0001.png`` and so on, into the run folder; every few epochs and
    at the end also all epochs below each other as ``strip.png`` and as the animation ``strip.webp``. Loggers that take
    pictures get each image as ``samples/NAME``. After a validation, ``worst.png`` shows the images of it that need a
    look, which change from epoch to epoch. With averaged weights (EMA), pictures are predicted with the average, as
    validation is.
    """

    def __init__(self, count: int = 6, images: str | None = None, strip_every: int = 10, worst: int = WORST) -> None:
        """Choose the images.

        Args:
            count: Number of images, the first of the folder; 0 draws no pictures at all.
            images: Folder of the images, by default the validation images.
            strip_every: Epochs after which the strip is rewritten; it is always written at the end.
            worst: The most images of ``worst.png``, 0 for no such picture.

        Raises:
            UserError: If ``count`` or ``worst`` is below 0, or ``strip_every`` below 1.
        """
        if count < 0:
            raise UserError(f"EpochPictures: count={count} must be a number of images, or 0 for no pictures")
        if strip_every < 1:
            raise UserError(f"EpochPictures: strip_every={strip_every} must be at least 1")
        if worst < 0:
            raise UserError(f"EpochPictures: worst={worst} must be a number of images, or 0 for no such picture")
        self.count = count
        self.images = images
        self.strip_every = strip_every
        self.worst = worst

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Predict and draw, in the first process only."""
        if not trainer.is_global_zero or self.count == 0:
            return
        task = _task(pl_module)
        datamodule = _datamodule(trainer)
        dataset: ImageDataset
        if self.images is None:
            dataset = datamodule.dataset(datamodule.pairs("valid")[: self.count])
        else:
            dataset = datamodule.image_dataset(find_images(Path(self.images))[: self.count])
        epoch, status = trainer.current_epoch + 1, status_of(trainer)
        looks = None if status is None else status.looks(epoch, self.worst)
        with averaged_weights(trainer, task):
            shots = [self._shot(task, dataset, index) for index in range(len(dataset))]
            worst = self._worst(task, datamodule, looks, [] if self.images is not None else shots)
        if looks is not None and self.worst:
            write_worst(self._folder(trainer), worst, task.palette)
        panels = write_epoch(self._folder(trainer), epoch, shots, task.palette)
        for shot, picture in zip(shots, panels, strict=True):
            log_picture(trainer.loggers, f"samples/{shot.name}", picture, trainer.global_step)
        if epoch % self.strip_every == 0:
            write_strip(self._folder(trainer), epoch)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write all epochs below each other."""
        if trainer.is_global_zero and self.count > 0:
            write_strip(self._folder(trainer), trainer.current_epoch)

    @staticmethod
    def _folder(trainer: lightning.Trainer) -> Path:
        return _run_dir(trainer) / "epoch_pictures"

    def _worst(
        self, task: SegmentationTask, datamodule: SegmentationDataModule, looks: list[Look] | None, drawn: list[Shot]
    ) -> list[Shot]:
        """Return the validation images that need a look; ``drawn`` holds the first of the split, as far as drawn."""
        if not looks:
            return []
        dataset = datamodule.dataset(datamodule.pairs("valid"))
        shots = [
            drawn[look.place] if look.place < len(drawn) else self._shot(task, dataset, look.place) for look in looks
        ]
        return [replace(shot, note=look.reason) for shot, look in zip(shots, looks, strict=True)]

    @staticmethod
    def _shot(task: SegmentationTask, dataset: ImageDataset, index: int) -> Shot:
        sample = dataset[(0, index)]
        truth = sample["mask"].numpy() if "mask" in sample else None
        image = sample["image"].permute(1, 2, 0).numpy()
        return Shot(sample["name"], image, truth, predict_working_size(task, sample["image"]))


class ValidationTable(Callback):
    """Print a table of scores, one row per class, after a validation during training."""

    def __init__(self, every_n_epochs: int = 1) -> None:
        """Print every ``every_n_epochs`` epochs; UserError if that is below 1."""
        if every_n_epochs < 1:
            raise UserError(f"ValidationTable: every_n_epochs={every_n_epochs} must be at least 1")
        self.every_n_epochs = every_n_epochs

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the table."""
        is_due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.sanity_checking and is_due:
            print_scores(_task(pl_module), "val", f"Epoch {trainer.current_epoch + 1}: ")


class ScoreWriter(Callback):
    """Print the scores of validate and test as a table, and write those of test to ``test_scores.json``.

    If no mask of the test has a defect, a line says so before the scores.
    """

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the table."""
        if trainer.is_global_zero and trainer.state.fn == "validate":
            print_scores(_task(pl_module), "val")

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the table and write the file."""
        task = _task(pl_module)
        table = task.tables["test"]
        background = warn_of_background(task, has_defects=bool(table.counts.support[1:].any()))
        if trainer.is_global_zero:
            print_scores(task, "test")
            scores = table.to_mapping(task.palette.names) | background.to_mapping()
            write_json(_run_dir(trainer) / "test_scores.json", scores)


@contextmanager
def averaged_weights(trainer: lightning.Trainer, task: SegmentationTask) -> Iterator[None]:
    """Give the task the averaged weights while the block runs, if a callback of the Trainer averages them."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning declares it nowhere
    averages = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    for average in averages:
        average.on_validation_epoch_start(trainer, task)
    try:
        yield
    finally:
        for average in reversed(averages):
            average.on_validation_epoch_end(trainer, task)


@torch.no_grad()
def predict_working_size(task: SegmentationTask, image: torch.Tensor) -> Any:
    """Return class indices uint8 (H, W) of an image uint8 (C, H, W) at the working size; train or eval mode is kept."""
    was_training = task.network.training
    task.network.eval()
    logits = task.predictor(image[None].to(task.device))
    task.network.train(was_training)
    return mask_from_logits(logits)[0].to(torch.uint8).cpu().numpy()


def warn_of_background(task: SegmentationTask, has_defects: bool | None = None) -> BackgroundCounts:
    """Print if all masks of a test or prediction are background, and return the counts; to be called in all processes.

    ``has_defects`` is whether their truth has any, None where it is unknown.
    """
    counts = task.background.compute()
    task.background.reset()
    statement = counts.statement(task.hparams["min_region_area"], has_defects)
    if statement is not None and task.global_rank == 0:
        console.say(f"warning: {statement}")
    return counts


def print_scores(task: SegmentationTask, stage: Stage, prefix: str = "") -> None:
    """Print a row of scores for each class, and the means; the title begins with ``prefix``."""
    table = task.tables[stage]
    columns = metrics_of(per_class=True)
    scores = [(name, table.of_class(index)) for index, name in enumerate(task.palette.names)]
    classes = [[name, *(_shown(of_class[metric.key]) for metric in columns)] for name, of_class in scores]
    means = [[metric.name, _shown(table[metric.key]), metric.note] for metric in table.measured()]
    title = f"{prefix}Scores of {table.images} images"
    headers = ["class", *(metric.title for metric in columns)]
    console.say("", title, console.table(headers, classes), "", console.table(["score", "value", ""], means), "")


def _shown(value: float | None) -> float | str:
    return "n/a" if value is None else value


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    return csv_of_maps(
        [{key: f"{value:.10g}" if value is not None else "" for key, value in row.items()} for row in rows]
    )


def _main_keys(metrics: dict[str, float]) -> list[str]:
    """Return the logged keys of the main metrics, such as val/mean_foreground_dice and val/dice/crack."""
    means = {metric.key for metric in metrics_of() if metric.main}
    of_class = tuple(f"val/{metric.key}/" for metric in metrics_of(per_class=True) if metric.main)
    return [key for key in metrics if key.partition("/")[2] in means or key.startswith(of_class)]


def _run_dir(trainer: lightning.Trainer) -> Path:
    return Path(trainer.default_root_dir)


def _datamodule(trainer: lightning.Trainer) -> SegmentationDataModule:
    return cast(SegmentationDataModule, trainer.datamodule)  # type: ignore[attr-defined]  # Lightning declares it nowhere


def _task(module: lightning.LightningModule) -> SegmentationTask:
    return cast(SegmentationTask, module)
