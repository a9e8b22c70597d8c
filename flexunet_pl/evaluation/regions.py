"""Defects as regions: the share hit, the Dice by size, and the false alarms.

A region is a connected component (8 neighbours) of one class. A truth region is matched with the predicted
region of its class that has the largest IoU with it; a predicted region that shares no pixel with a truth region of its
class is a false alarm. Ignored pixels belong to no region.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects
from scipy.ndimage import label as connected

from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)
HIT_LEVELS = (0.1, 0.5)
# Lower ends of the ranges of area, in pixels; each range ends where the next begins.
SIZES = (1, 10, 32, 100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)

IntArray = npt.NDArray[np.int64]


class Regions(NamedTuple):
    """The regions of one class in one image: of the truth the area and best IoU of each, and the false alarms."""

    areas: IntArray
    best_iou: npt.NDArray[np.float64]
    false_alarms: int


NO_REGIONS = Regions(np.zeros(0, dtype=np.int64), np.zeros(0), 0)


def match_regions(truth: UInt8Array, predicted: UInt8Array, num_classes: int) -> dict[int, Regions]:
    """Match the regions of two masks uint8 (H, W), truth 255 = ignore.

    Returns:
        The regions of each foreground class that occurs in either mask, by class index.
    """
    counted = np.where(truth == IGNORE_INDEX, 0, predicted)
    present = np.bincount(truth.reshape(-1), minlength=256) + np.bincount(counted.reshape(-1), minlength=256)
    return {
        int(index): _match(truth == index, counted == index)
        for index in np.flatnonzero(present[:num_classes])
        if index > 0
    }


def _match(truth: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> Regions:
    window = find_objects((truth | predicted).astype(np.uint8))[0]  # labelling inside it is many times faster
    truth_label, truth_count = connected(truth[window], structure=EIGHT_NEIGHBOURS)
    predicted_label, predicted_count = connected(predicted[window], structure=EIGHT_NEIGHBOURS)
    truth_areas = np.bincount(truth_label.reshape(-1), minlength=truth_count + 1)
    predicted_areas = np.bincount(predicted_label.reshape(-1), minlength=predicted_count + 1)
    both = (truth_label > 0) & (predicted_label > 0)
    pairs, shared = np.unique(
        truth_label[both].astype(np.int64) * (predicted_count + 1) + predicted_label[both], return_counts=True
    )
    first, second = np.divmod(pairs, predicted_count + 1)
    iou = shared / (truth_areas[first] + predicted_areas[second] - shared)
    best = np.zeros(truth_count + 1)
    np.maximum.at(best, first, iou)
    return Regions(truth_areas[1:].astype(np.int64), best[1:], predicted_count - len(np.unique(second)))


def hit_share(regions: Sequence[Regions], level: float) -> float | None:
    """Return the share of the truth regions with an IoU above ``level``, None without regions."""
    iou = np.concatenate([NO_REGIONS.best_iou, *(one.best_iou for one in regions)])
    return float((iou > level).mean()) if len(iou) else None


def by_size(regions: Sequence[Regions]) -> list[dict[str, Any]]:
    """Return for each range of area that occurs how many regions are in it, their mean Dice and the share hit.

    A region's Dice is the one with the predicted region it is matched with, 2 IoU / (1 + IoU).
    """
    areas = np.concatenate([NO_REGIONS.areas, *(one.areas for one in regions)])
    iou = np.concatenate([NO_REGIONS.best_iou, *(one.best_iou for one in regions)])
    place = np.searchsorted(SIZES, areas, side="right") - 1
    table = []
    for index, low in enumerate(SIZES):
        chosen = iou[place == index]
        if len(chosen):
            table.append(
                {
                    "from_pixels": low,
                    "to_pixels": SIZES[index + 1] - 1 if index + 1 < len(SIZES) else None,
                    "regions": len(chosen),
                    "mean_dice": float((2 * chosen / (1 + chosen)).mean()),
                    **{f"hit_iou_{level}": float((chosen > level).mean()) for level in HIT_LEVELS},
                }
            )
    return table
