"""Write predictions as annotations that labelling tools import."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from flexunet_pl.core import console
from flexunet_pl.core.csv_text import csv_text
from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.files import write_text
from flexunet_pl.data.annotations.regions import PredictedImage, region_scores, trace
from flexunet_pl.data.annotations.registry import FORMATS
from flexunet_pl.data.samples import find_images
from flexunet_pl.data.sizing import resize_nearest
from flexunet_pl.training.task import SegmentationTask

IOU_FILE = "iou.csv"


class Row(NamedTuple):
    """A row of ``iou.csv``: a region, numbered in its image, and how well its polygon gives its mask, 0..1."""

    image: str
    region: int
    class_name: str
    area_px: int
    vertices: int
    score: float | str
    iou: float


class AnnotationWriter(Callback):
    """Write the masks of a prediction in an annotation format, when all of them are there.

    It reads the masks that ``PredictionWriter`` wrote, so the two go together. ``OUT/FORMAT/iou.csv`` has a row for
    each region with the intersection over union of its polygon and its mask. A score is the mean probability of the
    predicted class over the region.
    """

    def __init__(self, out: Path, name: str) -> None:
        """Read masks from the folder ``out``, and write into a folder in it that is called as the format.

        Raises:
            UserError: If there is no such format.
        """
        if name not in FORMATS:
            raise UserError(f"--format {name}: choose from {', '.join(FORMATS)}{suggestion(name, FORMATS)}")
        self.out = out
        self.format = FORMATS[name]
        self.scores: dict[str, list[float]] = {}

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Find the images."""
        folder: Path = trainer.datamodule.predict_dir  # type: ignore[attr-defined]  # Lightning declares it nowhere
        self.images = {path.stem: path for path in find_images(folder)}

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score the regions of a batch."""
        for name, found in zip(batch["name"], outputs, strict=True):
            height, width = found.mask_index.shape
            self.scores[name] = region_scores(found.mask_index, resize_nearest(found.certainty, (height, width)))

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the annotations and ``iou.csv`` in the first process, and print how well the polygons fit."""
        scores = self._all_scores(trainer)
        if not trainer.is_global_zero:
            return
        task = _task(pl_module)
        rows: list[Row] = []

        def traced() -> Iterator[PredictedImage]:
            for stem, path in console.progress(self.images.items(), "Tracing regions", len(self.images)):
                image = self._read(stem, path, task, scores.get(stem))
                rows.extend(_rows(image))
                yield image

        folder = self.out / self.format.name
        target = self.format.write(folder, traced(), task.palette)
        cells = [[f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
        write_text(folder / IOU_FILE, csv_text(Row._fields, cells))
        console.say(f"{self.format.title}: {target}", summary(rows, len(self.images), folder / IOU_FILE))

    def _all_scores(self, trainer: lightning.Trainer) -> dict[str, list[float]]:
        """Return the scores of all processes, after the last one has written its masks."""
        if trainer.world_size == 1:
            return self.scores
        gathered: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(gathered, self.scores)
        return {name: values for part in gathered for name, values in part.items()}

    def _read(self, stem: str, path: Path, task: SegmentationTask, scores: list[float] | None) -> PredictedImage:
        with Image.open(self.out / f"{stem}.png") as picture:
            mask_index: npt.NDArray[np.uint8] = np.asarray(picture)
        return PredictedImage(path, mask_index, trace(mask_index, task.palette.names, scores))


def summary(rows: Sequence[Row], images: int, file: Path) -> str:
    """Return a line with the number of regions, and the lowest and the mean IoU of polygon and mask."""
    if not rows:
        return f"no region of a defect in {images} images"
    lowest = min(rows, key=lambda row: row.iou)
    mean = sum(row.iou for row in rows) / len(rows)
    return (
        f"{len(rows)} regions in {images} images; IoU of polygons with masks: mean {mean:.4f}, lowest {lowest.iou:.4f} "
        f"(region {lowest.region} of {lowest.image}); all in {file}"
    )


def _rows(image: PredictedImage) -> list[Row]:
    return [
        Row(
            image.image.name,
            number,
            region.class_name,
            region.area,
            sum(map(len, region.rings)),
            "" if region.score is None else region.score,
            region.iou,
        )
        for number, region in enumerate(image.regions, start=1)
    ]


def _task(module: lightning.LightningModule) -> SegmentationTask:
    if not isinstance(module, SegmentationTask):
        raise TypeError(f"AnnotationWriter needs a SegmentationTask, not a {type(module).__name__}")
    return module
