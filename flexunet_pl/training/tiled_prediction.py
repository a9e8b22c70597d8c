"""Predict in overlapping tiles at native size, blended by the code of exported models."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.inference.onnx_infer import (
    InferenceError,
    Tiling,
    certainty_of,
    doubt,
    highest_probabilities,
    image_scores,
    most_probable,
    tiled_rows,
)
from flexunet_pl.training.predicted_images import PredictedImage, tile_scores
from flexunet_pl.training.task import Batch, SegmentationTask


class TiledTask(SegmentationTask):
    """A task that predicts in tiles, and otherwise equals its parent.

    Attributes:
        tiling: Side and overlap of the tiles; :func:`task_for` makes one that fits the network.
    """

    tiling: Tiling

    def predict_step(self, batch: Batch, batch_idx: int) -> list[PredictedImage]:  # noqa: ARG002  Lightning's signature
        """Return what is predicted for each image of a batch at native size, ``resize`` being "none"."""
        return [self._in_tiles(image) for image in batch["image"]]

    def _in_tiles(self, image: torch.Tensor) -> PredictedImage:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        scores: list[tuple[float, float]] = []
        masks, highest, certainties, doubts = [], [], [], []

        def predict(tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            outputs = self.run_arrays(tile)
            scores.extend(tile_scores(outputs))
            return np.asarray(outputs["probabilities"])

        for block in tiled_rows(iter([pixels]), pixels.shape[:2], predict, self.tiling):  # each overwrites the last
            masks.append(most_probable(block))
            highest.append(highest_probabilities(block))
            certainties.append(certainty_of(block).copy())
            doubts.append(doubt(block))
        mask = self.finished_mask(np.concatenate(masks))
        certainty = np.concatenate(certainties)
        return PredictedImage(mask, np.max(highest, axis=0), certainty, image_scores(scores, doubts))


def task_for(tile: int | None, overlap: int | None, settings: dict[str, Any]) -> SegmentationTask:
    """Return the task with these settings, one that predicts in tiles of ``tile`` pixels if that is given.

    Raises:
        UserError: If the tiles do not advance, or there is an overlap without tiles.
    """
    if tile is None:
        if overlap is not None:
            raise UserError(f"--overlap {overlap} needs --tile, the side of the tiles that overlap; give both or none")
        return SegmentationTask(**settings)
    task = TiledTask(**settings)
    try:
        task.tiling = Tiling.checked(tile, overlap, task.size_multiple)  # an overlap has a default
    except InferenceError as error:
        raise UserError(str(error)) from error
    return task
