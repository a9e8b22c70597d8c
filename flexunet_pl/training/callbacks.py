"""What a run writes while it goes on: curves, epoch pictures, predicted masks, scores."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, Callback, Checkpoint
from PIL import Image
from rich.console import Console
from rich.table import Table

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_path, write_json, write_text
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.dataset import SegmentationDataset, as_pairs
from flexunet_pl.data.samples import Pair, find_images
from flexunet_pl.nn.metrics import ScoreTable, mask_from_logits
from flexunet_pl.training.data_wait import DATA_WAIT_SHARE
from flexunet_pl.training.epoch_pictures import Shot, write_epoch, write_strip
from flexunet_pl.training.loggers import log_picture
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.visualization.pictures import line_chart, overlay, save_picture


class Curves(Checkpoint):
    """Write losses and scores of every epoch as CSV, and draw them, into ``curves/`` of the run folder.

    ``losses.csv`` has epoch, loss, val_loss; ``scores.csv`` all that was logged but times. A resumed run goes on in
    the same files. It counts as a checkpoint callback because those are called last in an epoch, with its scores known.
    """

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Read what earlier epochs of this run wrote, and forget what a broken-off epoch wrote."""
        path = _run_dir(trainer) / "curves" / "scores.csv"
        rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
        self.rows = [
            {key: float(value) for key, value in row.items() if value}
            for row in rows
            if int(float(row["epoch"])) < trainer.current_epoch
        ]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add a row and write the files anew."""
        # Every process asks, since asking is what gathers the training loss from all of them.
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key != DATA_WAIT_SHARE}
        if not trainer.is_global_zero:
            return
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": float(trainer.current_epoch), "learning_rate": rate} | metrics)
        folder = _run_dir(trainer) / "curves"
        losses = [
            {"epoch": row["epoch"], "loss": row.get("train/loss"), "val_loss": row.get("val/loss")} for row in self.rows
        ]
        write_text(folder / "losses.csv", _csv(losses))
        write_text(folder / "scores.csv", _csv(self.rows))
        for name, keys in (("losses", ["train/loss", "val/loss"]), ("scores", _dice_keys(metrics))):
            series = {key: [(row["epoch"], row[key]) for row in self.rows if key in row] for key in keys}
            chart = line_chart({key: points for key, points in series.items() if points}, name)
            save_picture(folder / f"{name}.png", chart)


class EpochPictures(Callback):
    """Draw image, truth if there is one, prediction and errors of some fixed images after every epoch.

    Writes ``epoch_pictures/epoch_0001.png`` and so on into the run folder, one picture an epoch; every few epochs and
    at the end all epochs under each other as ``strip.png`` and as the animation ``strip.webp``. Loggers that take
    pictures get each image's as ``samples/NAME``.
    """

    def __init__(self, count: int = 6, images: str | None = None, strip_every: int = 10) -> None:
        """Choose the images.

        Args:
            count: How many: the first of the folder.
            images: The folder, by default of the validation images.
            strip_every: After how many epochs the strip is written anew; at the end it is in any case.

        Raises:
            UserError: If ``count`` or ``strip_every`` is below 1.
        """
        if count < 1:
            raise UserError(f"EpochPictures: count={count} must be at least 1; leave the callback out for no pictures")
        if strip_every < 1:
            raise UserError(f"EpochPictures: strip_every={strip_every} must be at least 1")
        self.count = count
        self.images = images
        self.strip_every = strip_every

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Predict and draw, in the first process only."""
        if not trainer.is_global_zero:
            return
        task = _task(pl_module)
        datamodule = _datamodule(trainer)
        pairs = datamodule.pairs("valid") if self.images is None else as_pairs(find_images(Path(self.images)))
        dataset = datamodule.dataset(pairs[: self.count])
        shots = [self._shot(task, dataset, index) for index in range(len(dataset))]
        epoch = trainer.current_epoch + 1
        panels = write_epoch(self._folder(trainer), epoch, shots, task.palette)
        for shot, picture in zip(shots, panels, strict=True):
            log_picture(trainer.loggers, f"samples/{shot.name}", picture, trainer.global_step)
        if epoch % self.strip_every == 0:
            write_strip(self._folder(trainer), epoch)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Set all epochs under each other."""
        if trainer.is_global_zero:
            write_strip(self._folder(trainer), trainer.current_epoch)

    @staticmethod
    def _folder(trainer: lightning.Trainer) -> Path:
        return _run_dir(trainer) / "epoch_pictures"

    @staticmethod
    def _shot(task: SegmentationTask, dataset: SegmentationDataset, index: int) -> Shot:
        sample = dataset[(0, index)]
        truth = sample["mask"].numpy() if "mask" in sample else None
        image = sample["image"].permute(1, 2, 0).numpy()
        return Shot(sample["name"], image, truth, predict_working_size(task, sample["image"]))


class PredictionWriter(BasePredictionWriter):
    """Write each predicted mask as an index PNG with the palette, and its overlay into ``overlays/`` beside."""

    def __init__(self, out: Path, overlays: bool = True) -> None:
        """Write into the folder ``out``, which is made if need be; existing masks of the same name are replaced."""
        super().__init__(write_interval="batch")
        self.out = out
        self.overlays = overlays

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the masks of one batch; each process writes its own."""
        palette = _task(pl_module).palette
        dataset = _datamodule(trainer).dataset([])
        for name, path, mask_index in zip(batch["name"], batch["path"], prediction, strict=True):
            picture = Image.fromarray(mask_index)
            picture.putpalette(palette.flat())
            with atomic_path(self.out / f"{name}.png") as temporary:
                picture.save(temporary)
            if self.overlays:
                image, _ = dataset.read(Pair(name, Path(path), None))
                save_picture(self.out / "overlays" / f"{name}.png", overlay(image, mask_index, palette.colors))


class ValidationTable(Callback):
    """Print a table of scores, a row for each class, at the end of a validation while training."""

    def __init__(self, every_n_epochs: int = 1) -> None:
        """Print it every so many epochs; UserError if that is below 1."""
        if every_n_epochs < 1:
            raise UserError(f"ValidationTable: every_n_epochs={every_n_epochs} must be at least 1")
        self.every_n_epochs = every_n_epochs

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the table."""
        is_due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.sanity_checking and is_due:
            task = _task(pl_module)
            print_scores(task.tables["val"], task.palette.names, f"Epoch {trainer.current_epoch + 1}: ")


class ScoreWriter(Callback):
    """Print the scores of validate and test as a table, and write those of test to ``test_scores.json``."""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the table."""
        if trainer.is_global_zero and trainer.state.fn == "validate":
            task = _task(pl_module)
            print_scores(task.tables["val"], task.palette.names)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the table and write the file."""
        if trainer.is_global_zero:
            task = _task(pl_module)
            print_scores(task.tables["test"], task.palette.names)
            write_json(_run_dir(trainer) / "test_scores.json", task.tables["test"].to_mapping(task.palette.names))


@torch.no_grad()
def predict_working_size(task: SegmentationTask, image: torch.Tensor) -> Any:
    """Return class indices uint8 (H, W) of an image uint8 (C, H, W) at the working size; the mode is kept."""
    was_training = task.network.training
    task.network.eval()
    logits = task.predictor(image[None].to(task.device))
    task.network.train(was_training)
    return mask_from_logits(logits)[0].to(torch.uint8).cpu().numpy()


def print_scores(table: ScoreTable, names: Sequence[str], prefix: str = "") -> None:
    """Print a row of scores for each class, and the means, to the terminal; the title begins with ``prefix``."""
    columns = ("dice", "iou", "precision", "recall")
    grid = Table("class", *columns, "truth pixels", title=f"{prefix}Scores of {table.images} images")
    for column in grid.columns[1:]:
        column.justify = "right"
    for name, scores in zip(names, table.classes, strict=True):
        grid.add_row(name, *(_shown(getattr(scores, column)) for column in columns), f"{scores.support:,}")
    console = Console()
    console.print(grid)
    console.print(f"mean foreground Dice   {_shown(table.mean_foreground_dice)}   (classes that occur)")
    console.print(f"mean foreground IoU    {_shown(table.mean_foreground_iou)}")
    console.print(f"pixel accuracy         {_shown(table.pixel_accuracy)}")
    console.print(
        f"dice_coef_multiclass   {_shown(table.dice_coef_multiclass)}   (soft pixel accuracy, despite its name)"
    )
    console.print(f"loss                   {_shown(table.loss)}")


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.10g}" for key, value in row.items() if value is not None})
    return text.getvalue()


def _dice_keys(metrics: dict[str, float]) -> list[str]:
    return [key for key in metrics if key.endswith("mean_foreground_dice") or key.startswith("val/dice/")]


def _run_dir(trainer: lightning.Trainer) -> Path:
    return Path(trainer.default_root_dir)


def _datamodule(trainer: lightning.Trainer) -> SegmentationDataModule:
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, SegmentationDataModule):
        raise TypeError(f"this callback needs a SegmentationDataModule, not {type(datamodule).__name__}")
    return datamodule


def _task(module: lightning.LightningModule) -> SegmentationTask:
    if not isinstance(module, SegmentationTask):
        raise TypeError(f"this callback needs a SegmentationTask, not {type(module).__name__}")
    return module
