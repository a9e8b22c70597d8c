"""What a network predicts for one image, as little as a decision on the piece needs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flexunet_pl.inference.onnx_infer import DEFECT_OUTPUT, FloatArray, UInt8Array, certainty_of
from flexunet_pl.nn.defect_head import image_logit
from flexunet_pl.nn.metrics import mask_from_logits


class PredictedImage(NamedTuple):
    """The mask of an image, and how sure the network is."""

    mask_index: UInt8Array  # (H, W), the class of each pixel at the image's own size
    certainty: FloatArray  # (h, w), the probability of each pixel's class, at the size the network saw
    defect_probability: float  # that the image shows any defect, 0..1


def output_arrays(logits: Tensor, cells: Tensor | None) -> dict[str, npt.NDArray[Any]]:
    """Map logits (N, K, H, W) and cells of the head for whole images to what exported models return."""
    both = logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(1)
    outputs = {"probabilities": both.permute(0, 2, 3, 1), "mask": mask_from_logits(logits).to(torch.uint8)}
    if cells is not None:
        outputs["defect_probability"] = image_logit(cells.float()).sigmoid()
    return {name: output.cpu().numpy() for name, output in outputs.items()}


def defect_probabilities(outputs: Mapping[str, npt.NDArray[Any]]) -> FloatArray:
    """Return P(defect) of each image, (N,): that of the network's head, or else the highest of a pixel.

    ``outputs`` are those of exported models, with ``probabilities`` (N, H, W, K).
    """
    if DEFECT_OUTPUT in outputs:
        return np.asarray(outputs[DEFECT_OUTPUT], dtype=np.float32)
    probabilities = outputs["probabilities"]
    of_pixels = probabilities[..., 0] if probabilities.shape[-1] == 1 else 1 - probabilities[..., 0]
    return np.asarray(of_pixels.max((1, 2)), dtype=np.float32)


def predicted_image(mask_index: UInt8Array, probabilities: FloatArray, defect_probability: float) -> PredictedImage:
    """Keep what a decision needs of probabilities (h, w, K)."""
    return PredictedImage(mask_index, certainty_of(probabilities), float(defect_probability))
