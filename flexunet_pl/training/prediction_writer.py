"""The callback that writes what predict finds: masks, overlays, summary.csv and decisions.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from flexunet_pl.core import console
from flexunet_pl.core.csv_text import csv_text
from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.files import atomic_path, write_json, write_text
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.samples import read_image
from flexunet_pl.inference.onnx_infer import SUMMARY_HEADER, Acceptance, Decision, drift_line
from flexunet_pl.training.callbacks import warn_of_background
from flexunet_pl.training.decision_file import acceptance_of
from flexunet_pl.training.drift_file import attach_drift
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.visualization.layers import Draw, overlay_picture
from flexunet_pl.visualization.pictures import outlines, overlay, save_picture

SUMMARY, DECISIONS = "summary.csv", "decisions.json"
OVERLAYS: dict[str, Sequence[Draw]] = {
    "filled": [overlay],
    "outlines": [outlines],
    "both": [overlay, outlines],
    "none": [],
}
OVERLAYS_HELP = "How predicted regions are drawn over the images: filled, outlines, both (side by side) or none."


class PredictionWriter(BasePredictionWriter):
    """Write each predicted mask as an index PNG with the palette, and its overlay into the subfolder ``overlays/``.

    Tiny regions have a ring in the overlay, and the first of them are enlarged below it.

    At the end ``summary.csv`` and ``decisions.json`` are written, as infer writes them; lines tell how many pieces are
    NG, and which images are unlike the training set.
    """

    def __init__(self, out: Path, acceptance: Acceptance | None = None, overlays: str = "filled") -> None:
        """Write into the folder ``out``, creating it if needed; existing masks of the same name are replaced.

        Pieces are decided by ``acceptance``, None for a threshold that nobody chose.

        Raises:
            UserError: If ``overlays`` is none of OVERLAYS.
        """
        if overlays not in OVERLAYS:
            raise UserError(f"--overlays {overlays}: choose from {', '.join(OVERLAYS)}{suggestion(overlays, OVERLAYS)}")
        super().__init__(write_interval="batch")
        self.out = out
        self.acceptance = Acceptance() if acceptance is None else acceptance
        self.overlays = overlays
        self._rows: list[Any] = []
        self._decisions: dict[str, Decision] = {}

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
        palette = cast(SegmentationTask, pl_module).palette
        # Lightning declares it nowhere.
        rules = cast(SegmentationDataModule, trainer.datamodule).rules  # type: ignore[attr-defined]
        for name, path, found in zip(batch["name"], batch["path"], prediction, strict=True):
            decision = found.decision(self.acceptance, palette.names)
            self._decisions[str(path)] = decision
            self._rows += found.rows(path, palette.names, decision.verdict)
            picture = Image.fromarray(found.mask_index)
            picture.putpalette(palette.flat())
            with atomic_path(self.out / f"{name}.png") as temporary:
                picture.save(temporary)
            if draws := OVERLAYS[self.overlays]:
                drawn = overlay_picture(read_image(Path(path), rules), found.mask_index, palette.colors, draws)
                save_picture(self.out / "overlays" / f"{name}.png", drawn)

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Warn first if no mask of any process has a defect, then write what all processes found."""
        warn_of_background(cast(SegmentationTask, pl_module))
        rows = _of_all_processes(self._rows)
        decisions = dict(_of_all_processes(list(self._decisions.items())))
        if trainer.is_global_zero:
            write_text(self.out / SUMMARY, csv_text(SUMMARY_HEADER, rows))
            content = self.acceptance.to_mapping(decisions)
            write_json(self.out / DECISIONS, content)
            console.say(content["summary"])
            if line := drift_line(rows):
                console.say(line.rstrip())


def writer_for(task: SegmentationTask, checkpoint: Path, out: Path, overlays: str) -> PredictionWriter:
    """Return what writes the predictions of a checkpoint's task into ``out``, by its decision and its drift score.

    Raises:
        UserError: If the files of these in the run folder are not usable, or ``overlays`` is none of OVERLAYS.
    """
    attach_drift(task, checkpoint)
    return PredictionWriter(out, acceptance_of(checkpoint, task.palette.names), overlays)


def _of_all_processes(rows: list[Any]) -> list[Any]:
    """Return the rows of all processes by file name, the first of each row, in each of them."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return rows
    parts: list[list[Any]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows)
    return sorted((row for part in parts for row in part), key=lambda row: row[0])
