"""Decide OK or NG on each predicted image, and write decisions.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from flexunet_pl.core.console import say
from flexunet_pl.core.files import write_json
from flexunet_pl.inference.onnx_infer import Acceptance, Decision, find_regions
from flexunet_pl.training.predicted_image import PredictedImage

FILE = "decisions.json"


class DecisionWriter(BasePredictionWriter):
    """Write the decision on each image, as the program of exported models does, and print how many are NG."""

    def __init__(self, out: Path, acceptance: Acceptance, names: Sequence[str]) -> None:
        """Decide by ``acceptance``, and write to the folder ``out``; ``names`` are the classes, background first."""
        super().__init__(write_interval="batch")
        self.out = out
        self.acceptance = acceptance
        self.names = names
        self.decisions: dict[str, Decision] = {}

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        prediction: Sequence[PredictedImage],
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Decide on the images of one batch."""
        for path, found in zip(batch["path"], prediction, strict=True):
            regions = find_regions(found.mask_index, found.certainty, self.names)
            self.decisions[str(path)] = self.acceptance.decide(found.defect_probability, regions)

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the file with the decisions of all processes, in the first one."""
        parts: list[Any] = [self.decisions]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self.decisions)
        if trainer.is_global_zero:
            together = {path: decision for part in parts for path, decision in part.items()}
            content = self.acceptance.to_mapping(dict(sorted(together.items())))
            write_json(self.out / FILE, content)
            say(content["summary"])
