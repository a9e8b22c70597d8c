"""Prediction in overlapping tiles at native size, blended by the code that exported models use."""

import numpy as np
import numpy.typing as npt
import torch

from flexunet_pl.errors import UserError
from flexunet_pl.inference.onnx_infer import InferenceError, Tiling, most_probable, tiled_rows
from flexunet_pl.training.task import Batch, SegmentationTask


class TiledTask(SegmentationTask):
    """A task that predicts in tiles; all else is as before.

    Attributes:
        tiling: Side and overlap of the tiles; :func:`tiling_for` makes one that fits the network.
    """

    tiling: Tiling

    def predict_step(self, batch: Batch, batch_idx: int) -> list[npt.NDArray[np.uint8]]:  # noqa: ARG002  Lightning's signature
        """Return the class indices uint8 (H, W) of each image of a batch at native size, ``resize`` being "none"."""
        return [self._mask_in_tiles(image) for image in batch["image"]]

    def _mask_in_tiles(self, image: torch.Tensor) -> npt.NDArray[np.uint8]:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        blocks = tiled_rows(iter([pixels]), pixels.shape[:2], self._probabilities, self.tiling)
        return np.concatenate([most_probable(block) for block in blocks])

    def _probabilities(self, tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map a tile uint8 (1, h, w, C) to probabilities float32 (1, h, w, K)."""
        logits = self(torch.from_numpy(tile).permute(0, 3, 1, 2).to(self.device)).float()
        both = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
        probabilities: npt.NDArray[np.float32] = both.permute(0, 2, 3, 1).cpu().numpy()
        return probabilities


def tiling_for(size_multiple: int, side: int, overlap: int | None) -> Tiling:
    """Return tiles of ``side`` pixels for a network that pools by ``size_multiple``; the overlap has a default.

    Raises:
        UserError: If they do not advance.
    """
    try:
        return Tiling.checked(side, overlap, size_multiple)
    except InferenceError as error:
        raise UserError(str(error)) from error
