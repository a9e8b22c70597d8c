"""Calibrate the drift score of a run: a bank of its training images' features, and a border from good images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.evaluation.drift_data import data_of, sources_of
from flexunet_pl.evaluation.intervals import proportion_interval
from flexunet_pl.inference.onnx_infer import doubt, image_scores
from flexunet_pl.nn.drift import (
    DriftScore,
    DriftStatistics,
    chosen_stages,
    greedy_coreset,
    image_distance,
    pooled,
    whitening,
)
from flexunet_pl.nn.stages import Outputs, outputs_of
from flexunet_pl.training.drift_file import DriftCalibration, drift_file, write_drift
from flexunet_pl.training.runs import find_checkpoint
from flexunet_pl.training.task import SegmentationTask

DEFAULT_QUANTILE = 0.99
MOST_PATCHES = 30_000  # of the training set, from which whitening and bank are made
ENOUGH_GOOD = 10  # images without a defect; with fewer, the good areas of all validation images calibrate
REACH = 4  # cells around a defect that count as its area
MOST_REFERENCES = 200  # scores of validation images that are kept

FloatArray = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]


class Measured(NamedTuple):
    """What is measured of a validation or test image."""

    source: str
    is_good: bool  # whether its mask shows no defect
    distance: float  # of the whole image, before it is divided by the threshold
    distance_of_good_area: float | None  # of the patches away from defects, None without any
    uncertainty: float


def calibrate(run: Path, data: Path | None = None, quantile: float = DEFAULT_QUANTILE) -> list[str]:
    """Calibrate a run, write its drift.safetensors, and return the lines to print.

    Args:
        run: Run folder, or checkpoint.
        data: A data set with train and valid; None for that of the run.
        quantile: Share of good images that should be within the threshold.

    Raises:
        UserError: If there is no such run, its network has no features, or the data lack images.
    """
    if not 0.5 <= quantile < 1:
        raise UserError(f"--quantile {quantile} must be at least 0.5 and below 1, such as {DEFAULT_QUANTILE}")
    checkpoint = find_checkpoint(run)
    if checkpoint.suffix == ".onnx":
        raise UserError(
            f"{checkpoint}: an exported model cannot be calibrated; calibrate its run, then export it again"
        )
    task = SegmentationTask.from_checkpoint(checkpoint)
    module = data_of(task, checkpoint, data)
    statistics = training_statistics(task, module)
    found = measured(task, module, "valid", statistics)
    distances, kind = calibration_distances(found)
    threshold = conformal_threshold(list(distances.values()), quantile)
    facts = _facts(found, distances, kind, threshold, quantile)
    calibrated = replace(statistics, threshold=threshold)
    path = drift_file(checkpoint)
    write_drift(path, DriftCalibration(calibrated, sha256_of(checkpoint), facts))
    return _lines(path, calibrated, facts)


def training_statistics(task: SegmentationTask, module: SegmentationDataModule) -> DriftStatistics:
    """Return the statistics of the training images, with a threshold of 1.

    Raises:
        UserError: If the network has no features in rows and columns.
    """
    pairs = module.pairs("train")
    most = max(1, MOST_PATCHES // len(pairs))
    rng = np.random.default_rng(0)
    features: list[FloatArray] = []
    stages: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    for _, mask_index, outputs in progress(_outputs(task, module, pairs), "Training images", len(pairs)):
        if not stages:
            padded = math.ceil(len(mask_index) / task.size_multiple) * task.size_multiple
            stages, strides = chosen_stages(outputs.stages, padded)
        chosen = pooled([outputs.stages[place] for place in stages], strides)
        patches = torch.cat(chosen, dim=1)[0].flatten(1).T.numpy()
        defect = ~good_cells(mask_index, chosen[0].shape[-2:], strides[0], reach=0).ravel()
        # Known defects are few patches, and all of them are known: half of what is kept may be theirs.
        order = np.concatenate([rng.permutation(np.flatnonzero(defect))[: most // 2], rng.permutation(len(patches))])
        features.append(patches[np.unique(order[:most])])
    everything = np.concatenate(features)
    projection, mean = whitening(everything)
    bank = greedy_coreset(np.asarray((everything - mean) @ projection, np.float32))
    return DriftStatistics(stages, strides, projection, np.asarray(mean @ projection, np.float32), bank)


def measured(
    task: SegmentationTask, module: SegmentationDataModule, split: str, statistics: DriftStatistics
) -> list[Measured]:
    """Measure the images of a split; the distances are divided by the threshold of the statistics."""
    pairs = module.pairs(split)
    score = DriftScore(statistics)
    found = []
    images = progress(_outputs(task, module, pairs), f"Images of {split}", len(pairs))
    for source, ((height, width), mask_index, outputs) in zip(sources_of(module, pairs), images, strict=True):
        distances = score.distances(outputs.stages)[0] / score.threshold
        good = torch.from_numpy(good_cells(mask_index, distances.shape, statistics.strides[0], REACH))
        area = float(image_distance(distances[good][None])) if good.any() else None
        logits = outputs.logits[..., :height, :width]
        probabilities = (logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1))[0].permute(1, 2, 0).numpy()
        uncertainty = image_scores([(0.0, math.nan)], [doubt(probabilities)])[1]
        whole = float(image_distance(distances.flatten()[None]))
        found.append(Measured(source, not mask_index.any(), whole, area, uncertainty))
    return found


def good_cells(mask_index: UInt8Array, shape: Sequence[int], stride: int, reach: int) -> BoolArray:
    """Return which cells (h, w) of a grid have no defect within ``reach`` cells.

    ``mask_index`` is uint8 (H, W), anything but 0 a defect; a cell is ``stride`` pixels a side. What the grid has
    beyond the mask is good.
    """
    height, width = shape
    defect = np.zeros((height * stride, width * stride), np.float32)
    rows, columns = min(len(mask_index), len(defect)), min(mask_index.shape[1], width * stride)
    defect[:rows, :columns] = mask_index[:rows, :columns] > 0
    cells = functional.max_pool2d(torch.from_numpy(defect)[None], stride)
    return np.asarray((functional.max_pool2d(cells, 2 * reach + 1, 1, reach)[0] == 0).numpy())


def calibration_distances(found: Sequence[Measured]) -> tuple[dict[int, float], str]:
    """Return the distances that the threshold is taken from, by the place of the image, and what they are of.

    They are those of the images without a defect, or of the good areas of all where fewer than ENOUGH_GOOD are.

    Raises:
        UserError: If no validation image has a good area.
    """
    of_good = {place: one.distance for place, one in enumerate(found) if one.is_good}
    if len(of_good) >= ENOUGH_GOOD:
        return of_good, "good images"
    areas = {place: one.distance_of_good_area for place, one in enumerate(found)}
    known = {place: distance for place, distance in areas.items() if distance is not None}
    if not known:
        raise UserError(
            "no validation image has an area without a defect, from which a border could be taken; add some"
        )
    return known, "good areas of images"


def conformal_threshold(distances: Sequence[float], quantile: float) -> float:
    """Return the distance that a further image like these exceeds with a probability of at most 1 - ``quantile``.

    It is the ceil((n + 1) * quantile)-th smallest of n (split conformal prediction, Papadopoulos et al., ECML 2002). If
    n is too small for the quantile, it is the largest one, which a further image exceeds with probability 1 / (n + 1).
    """
    place = math.ceil((len(distances) + 1) * quantile)
    return max(float(np.sort(distances)[min(place, len(distances)) - 1]), float(np.finfo(np.float32).tiny))


def cross_validated_flags(
    found: Sequence[Measured], distances: Mapping[int, float], quantile: float
) -> tuple[int, int]:
    """Return how many images would be flagged by thresholds from the other half of the sources, and of how many.

    Sources are dealt to the halves in turn, by name, so that no source is on both sides.
    """
    sources = sorted({found[place].source for place in distances})
    halves = [{place for place in distances if sources.index(found[place].source) % 2 == half} for half in range(2)]
    if not all(halves):
        return 0, 0
    flagged = 0
    for mine, other in (halves, halves[::-1]):
        threshold = conformal_threshold([distances[place] for place in other], quantile)
        flagged += sum(distances[place] > threshold for place in mine)
    return flagged, len(distances)


def _outputs(
    task: SegmentationTask, module: SegmentationDataModule, pairs: list[Pair]
) -> Iterator[tuple[tuple[int, int], UInt8Array, Outputs]]:
    """Yield for each image its size (height, width) without padding, its mask at the working size, and what comes out.

    Ignored pixels count as defects, padding as background.
    """
    dataset = module.dataset(pairs)
    for place in range(len(pairs)):
        sample = dataset[(0, place)]
        height, width = task.sizing.content_size(*sample["size"])
        mask_index = np.zeros(sample["mask"].shape, np.uint8)
        mask_index[:height, :width] = sample["mask"].numpy()[:height, :width]
        image = sample["image"][None].contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            yield (height, width), mask_index, outputs_of(task.predictor, image)


def _facts(
    found: Sequence[Measured], distances: Mapping[int, float], kind: str, threshold: float, quantile: float
) -> dict[str, Any]:
    """Return plain data on a calibration, for the metadata."""
    flagged, total = cross_validated_flags(found, distances, quantile)
    low, high = proportion_interval(flagged, total)
    return {
        "quantile": quantile,
        "calibrated_on": kind,
        "images": len(distances),
        "false_flags": {"flagged": flagged, "images": total, "interval": [round(low, 4), round(high, 4)]},
        "reference": {
            "drift_score": _references([one.distance / threshold for one in found]),
            "uncertainty": _references([one.uncertainty for one in found]),
        },
    }


def _references(values: Sequence[float]) -> list[float]:
    """Return the values in order, rounded; at most MOST_REFERENCES of them, evenly spread over the ranks."""
    places = np.linspace(0, len(values) - 1, min(len(values), MOST_REFERENCES)).round().astype(int)
    return [round(float(value), 5) for value in np.sort(values)[places]]


def _lines(path: Path, statistics: DriftStatistics, facts: Mapping[str, Any]) -> list[str]:
    flags, (low, high) = facts["false_flags"], facts["false_flags"]["interval"]
    needed = math.ceil(1 / (1 - facts["quantile"])) - 1
    lines = [
        f"Bank: {len(statistics.bank)} patches of the training images, {statistics.bank.shape[1]} dimensions, strides "
        f"{' and '.join(map(str, statistics.strides))}",
        f"Border: the distance within which {facts['quantile']:.0%} of {facts['images']} {facts['calibrated_on']} are",
    ]
    if facts["images"] < needed:
        lines.append(f"note: too few for {facts['quantile']:.0%}, which takes {needed}; the border is the farthest one")
    if flags["images"]:
        lines.append(
            f"False flags, cross-validated by source: {flags['flagged']} of {flags['images']} "
            f"({flags['flagged'] / flags['images']:.1%}, 95 % interval {low:.1%} to {high:.1%})"
        )
    return [*lines, str(path)]
