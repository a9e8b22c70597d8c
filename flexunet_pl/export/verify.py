"""Compare an exported model with its network: probabilities and masks, for many image sizes."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.export.onnx import MaskingNetwork
from flexunet_pl.nn.drift import DriftScore

# The largest difference of a probability. Where the two most likely classes are further apart than this, the class of a
# pixel must be the same. Networks of segmentation-models-pytorch interpolate and normalise in more places than ours.
TOLERANCE = 1e-4
ZOO_TOLERANCE = 5e-4
# Two programs that round in different places may differ by this many times the rounding error of one of them.
ROUNDING_FACTOR = 4
LARGEST_TOLERANCE = 1e-2

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


class Difference(NamedTuple):
    """The difference between two results for the same images, in numbers of pixels but for the probabilities'.

    Attributes:
        mask_disagreement: Number of pixels with another class.
        decided_mask_disagreement: Number of those whose two most likely classes are further apart than a margin.
    """

    largest_probability_difference: float
    pixels: int
    mask_disagreement: int
    decided_mask_disagreement: int

    def __str__(self) -> str:
        """Return a message."""
        return (
            f"probabilities differ by up to {self.largest_probability_difference:.2g}; {self.mask_disagreement} of "
            f"{self.pixels} pixels have another class, {self.decided_mask_disagreement} of them were decided"
        )

    def is_within(self, allowed: float) -> bool:
        """Return whether no probability differs by more than ``allowed`` and no decided pixel has another class."""
        return self.largest_probability_difference <= allowed and not self.decided_mask_disagreement


class OnnxModel:
    """An exported file, run by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        """Open ``path``."""
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, image: UInt8Array) -> tuple[FloatArray, UInt8Array]:
        """Map an image uint8 (N, H, W, C) to probabilities float32 (N, H, W, K) and a mask uint8 (N, H, W)."""
        probabilities, mask, *_ = self.outputs(image)
        return probabilities, mask

    def outputs(self, image: UInt8Array) -> tuple[npt.NDArray[Any], ...]:
        """Map an image uint8 (N, H, W, C) to all outputs: probabilities, mask, and perhaps defect_probability (N,)."""
        return tuple(self._session.run(None, {"image": image}))


def verify_onnx(
    network: nn.Module,
    path: Path,
    facts: Mapping[str, Any],
    pictures: Iterable[UInt8Array],
    tolerance: float = TOLERANCE,
    drift: DriftScore | None = None,
) -> dict[str, Any]:
    """Compare an exported file with the network it was exported from.

    Args:
        network: Maps images uint8 (N, C, H, W) to logits, in double precision after ``double()``; on the CPU. It
            is put into evaluation mode.
        path: The file.
        facts: The content of labels.json.
        pictures: Real or demo images uint8 (H, W, C) at the size the network works at.
        tolerance: The largest difference of a probability, and the margin above which a pixel counts as decided.
        drift: What scored the drift of images when the file was exported.

    Returns:
        For check.json: the largest difference, the sums, and one entry for each batch compared.

    Raises:
        UserError: If a difference is over the tolerance.
    """
    model = OnnxModel(path)
    batches = []
    for source, image in _batches(facts, pictures):
        expected = _run(network, facts["num_classes"], image, drift)
        result = model.outputs(image)
        allowed = tolerance
        difference = _of_outputs(result, expected, allowed)
        if not difference.is_within(allowed):
            # PyTorch itself rounds sums of large numbers, such as images that are not scaled, by more than that.
            exact = _run(copy.deepcopy(network).double(), facts["num_classes"], image, drift)
            rounding = _of_outputs(expected, exact, tolerance).largest_probability_difference
            allowed = max(tolerance, min(ROUNDING_FACTOR * rounding, LARGEST_TOLERANCE))
            difference = _of_outputs(result, expected, allowed)
        if not difference.is_within(allowed):
            raise UserError(
                f"{path.name}: onnxruntime and PyTorch disagree on {source} of shape {list(image.shape)}, where at "
                f"most {allowed:.2g} is allowed ({difference}); nothing was written. Try another version of "
                "onnxruntime, or report this with the settings of the checkpoint"
            )
        batches.append({"images": source, "shape": list(image.shape), "allowed": allowed, **difference._asdict()})
    largest = "largest_probability_difference"
    sums = {key: sum(batch[key] for batch in batches) for key in Difference._fields if key != largest}
    return {largest: max(batch[largest] for batch in batches), **sums, "batches": batches}


def _run(
    network: nn.Module, num_classes: int, image: UInt8Array, drift: DriftScore | None
) -> tuple[npt.NDArray[Any], ...]:
    with torch.inference_mode():
        outputs = MaskingNetwork(network, num_classes, drift).eval()(torch.from_numpy(image))
    return tuple(output.numpy() for output in outputs)


def _of_outputs(result: Sequence[npt.NDArray[Any]], expected: Sequence[npt.NDArray[Any]], margin: float) -> Difference:
    """Compare all outputs; the largest difference may be that of a whole image, relative where a score is above 1."""
    (probabilities, mask, *heads), (truth, true_mask, *true_heads) = result, expected
    difference = compared(probabilities, mask, truth, true_mask, margin)
    for ours, theirs in zip(heads, true_heads, strict=True):
        relative = np.abs(ours.astype(np.float64) - theirs) / np.maximum(1, np.abs(theirs))
        apart = float(np.nan_to_num(relative, nan=np.inf).max())
        largest = max(difference.largest_probability_difference, apart)
        difference = difference._replace(largest_probability_difference=largest)
    return difference


def compared(
    probabilities: FloatArray,
    mask: UInt8Array,
    expected_probabilities: FloatArray,
    expected_mask: UInt8Array,
    margin: float,
) -> Difference:
    """Compare two results, probabilities (N, H, W, K) and masks (N, H, W), of the same images.

    A pixel counts as decided if its two most likely classes are more than ``margin`` apart. A probability that is not a
    number differs by infinity.

    Raises:
        ValueError: If the shapes differ.
    """
    if probabilities.shape != expected_probabilities.shape or mask.shape != expected_mask.shape:
        expected = f"{expected_probabilities.shape} and {expected_mask.shape}"
        raise ValueError(f"shapes {probabilities.shape} and {mask.shape}; expected {expected}")
    apart = np.abs(probabilities.astype(np.float64) - expected_probabilities)
    differs = mask != expected_mask
    decided = top_two_margin(expected_probabilities) > margin
    return Difference(
        largest_probability_difference=float(np.nan_to_num(apart, nan=np.inf).max()),
        pixels=mask.size,
        mask_disagreement=int(differs.sum()),
        decided_mask_disagreement=int((differs & decided).sum()),
    )


def top_two_margin(probabilities: FloatArray) -> FloatArray:
    """Map probabilities (N, H, W, K) to the distance (N, H, W) of the two most likely classes."""
    if probabilities.shape[-1] == 1:
        return np.asarray(np.abs(2 * probabilities[..., 0] - 1))
    best_two = np.partition(probabilities, -2, axis=-1)[..., -2:]
    return np.asarray(best_two[..., 1] - best_two[..., 0])


def _batches(facts: Mapping[str, Any], pictures: Iterable[UInt8Array]) -> Iterator[tuple[str, UInt8Array]]:
    """Yield batches uint8 (N, H, W, C) with their source: noise of many sizes, and the pictures."""
    rng = np.random.default_rng(0)
    step = facts["size_multiple"]
    # One pixel, one row, odd and wider than tall, taller than wide, a fit.
    shapes = [(1, 1, 1), (1, 1, step + 3), (2, step - 1 or 1, 2 * step + 1), (1, 3 * step + 2, step), (3, step, step)]
    if facts["fixed_size"] is not None:
        shapes = [(count, *facts["fixed_size"]) for count in (1, 3)]
    for shape in shapes:
        yield "noise", rng.integers(0, 256, size=(*shape, facts["channels"]), dtype=np.uint8)
    for picture in pictures:
        yield "pictures", picture[None]
