"""What predict knows of an image: its mask, and the numbers of summary.csv."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flexunet_pl.data.sizing import Sizing
from flexunet_pl.inference.onnx_infer import (
    DEFECT_OUTPUT,
    DRIFT_OUTPUT,
    OUTPUTS,
    Acceptance,
    Decision,
    certainty_of,
    doubt,
    find_regions,
    highest_probabilities,
    image_scores,
    summary_rows,
)
from flexunet_pl.nn.defect_head import image_logit
from flexunet_pl.nn.drift import DriftScore
from flexunet_pl.nn.metrics import mask_from_logits
from flexunet_pl.nn.stages import Outputs, outputs_of

FloatArray = npt.NDArray[np.float32]


class Predictor(Protocol):
    """What is needed of the task."""

    drift: DriftScore | None
    sizing: Sizing

    @property
    def device(self) -> torch.device:
        """Where the network is."""

    @property
    def predictor(self) -> nn.Module:
        """The network that predicts."""

    def logits_and_cells(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map images (N, C, H, W) to logits (N, K, H, W) and the cells of the head for whole images."""

    def run_arrays(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Map images uint8 (N, H, W, C) to what exported models return, by name."""

    def finished_mask(self, mask_index: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Remove small regions of a mask (H, W)."""


@dataclass(frozen=True)
class PredictedImage:
    """The prediction for one image.

    Attributes:
        mask_index: The class of each pixel, uint8 (H, W), at the image's own size.
        highest: The highest probability of each class, float32 (K,), or (2,) with K = 1.
        certainty: The probability of each pixel's class, float32 (h, w), at the size the network saw.
        scores: P(defect), uncertainty and drift score of the image, as ``image_scores`` returns them.
    """

    mask_index: npt.NDArray[np.uint8]
    highest: FloatArray
    certainty: FloatArray
    scores: tuple[float, float, float | None]

    def decision(self, acceptance: Acceptance, names: Sequence[str]) -> Decision:
        """Return whether the piece is good; ``names`` are the classes, background first."""
        return acceptance.decide(self.scores[0], find_regions(self.mask_index, self.certainty, names))

    def rows(self, path: str, names: Sequence[str], verdict: str) -> list[Any]:
        """Return the rows of summary.csv, one for each of the classes ``names``."""
        of_image = self.scores[0], verdict, *self.scores[1:]
        return summary_rows(Path(path), names, iter([self.mask_index]), self.highest, of_image)


@torch.inference_mode()
def arrays_of(task: Predictor, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """Map images uint8 (N, H, W, C) to what exported models return, by name."""
    image = torch.from_numpy(images).permute(0, 3, 1, 2).to(task.device)
    if task.drift is None:
        found = Outputs(*task.logits_and_cells(image), [])
    else:
        found = outputs_of(task.predictor, image.contiguous(memory_format=torch.channels_last))
    logits = found.logits.float()
    both = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
    outputs = {OUTPUTS[0]: both.permute(0, 2, 3, 1), OUTPUTS[1]: mask_from_logits(found.logits).to(torch.uint8)}
    if found.cells is not None:
        outputs[DEFECT_OUTPUT] = image_logit(found.cells.float()).sigmoid()
    if task.drift is not None:
        outputs[DRIFT_OUTPUT] = task.drift(found.stages)
    return {name: output.cpu().numpy() for name, output in outputs.items()}


def tile_scores(outputs: dict[str, Any]) -> list[tuple[float, float]]:
    """Return P(defect) and drift score (NaN without one) of each image that ``run_arrays`` was given."""
    probabilities = outputs[OUTPUTS[0]]
    of_pixels = probabilities[..., 0] if probabilities.shape[-1] == 1 else 1 - probabilities[..., 0]
    chances = outputs.get(DEFECT_OUTPUT, of_pixels.max((1, 2)))
    drifts = outputs.get(DRIFT_OUTPUT, np.full(len(chances), np.nan))
    return list(zip(chances.tolist(), drifts.tolist(), strict=True))


def predicted_images(task: Predictor, batch: dict[str, Any]) -> list[PredictedImage]:
    """Predict a batch at the working size, and bring each mask to its image's own size."""
    outputs = task.run_arrays(batch["image"].permute(0, 2, 3, 1).cpu().numpy())
    found = []
    for probabilities, mask, scores, size in zip(
        *(outputs[name] for name in OUTPUTS), tile_scores(outputs), batch["size"], strict=True
    ):
        height, width = task.sizing.content_size(*size)
        seen = probabilities[:height, :width]
        native = task.finished_mask(task.sizing.restore_mask(mask, size))
        of_image = image_scores([scores], [doubt(seen)])
        found.append(PredictedImage(native, highest_probabilities(seen), certainty_of(seen), of_image))
    return found
