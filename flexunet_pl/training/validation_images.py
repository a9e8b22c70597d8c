"""What a validation counted in each of its images, and which of them need a look."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.files import atomic_path
from flexunet_pl.nn.metric_registry import METRICS, PRIMARY
from flexunet_pl.nn.score_table import PixelCounts, ScoreTable

IntArray = npt.NDArray[np.int64]

FILE = "validation.npz"
GOOD_SHARE = 3  # of the images that need a look, one in so many is a good one with false alarms


class Look(NamedTuple):
    """An image that needs a look: its place in the validation split, and why."""

    place: int
    reason: str


@dataclass(frozen=True)
class ValidationImages:
    """The counts of one validation, N of whose images were scored.

    Attributes:
        epoch: The epoch it belongs to, from 1.
        indices: Places of the images in the validation split, (N,), rising.
        names: Their names.
        confusions: Pixels of each, (N, K, K), rows the truth.
        edges: The wrong pixels near an outline of the truth, of all images, (K, K), rows the truth.
        shrinkage: How many times as long the side of an image is in its file as at the working size; the median.
    """

    epoch: int
    indices: IntArray
    names: Sequence[str]
    confusions: IntArray
    edges: IntArray
    shrinkage: float

    @cached_property
    def confusion(self) -> IntArray:
        """The confusion matrix of all images, (K, K)."""
        return np.asarray(self.confusions.sum(axis=0))

    @cached_property
    def table(self) -> ScoreTable:
        """The scores that follow from the pixels."""
        return ScoreTable(self.confusion, len(self.names))

    @cached_property
    def worst_class(self) -> tuple[int, float] | None:
        """The foreground class with the lowest Dice, and its Dice; None if no foreground class occurs."""
        scores = [(self.table.of_class(index)["dice"], index) for index in range(1, len(self.confusion))]
        dice, index = min(((dice, index) for dice, index in scores if dice is not None), default=(None, 0))
        return None if dice is None else (index, dice)

    def worst(self, count: int) -> list[Look]:
        """Return the images that need a look, at most ``count``, in the order of the need.

        These are images with defects by their mDice, the lowest first; a third are images without defects that have the
        largest false alarms, as far as there are any. Images that are alike in this are ordered by their wrong pixels.
        """
        scores = METRICS["pixels", False, PRIMARY].compute(PixelCounts(self.confusions))
        wrong = self.confusions.sum(axis=(1, 2)) - self.confusions.trace(axis1=1, axis2=2)
        is_good = np.isnan(scores)
        defective = sorted(np.flatnonzero(~is_good).tolist(), key=lambda row: (scores[row], -wrong[row], row))
        alarming = sorted(np.flatnonzero(is_good & (wrong > 0)).tolist(), key=lambda row: (-wrong[row], row))
        good = min(len(alarming), max(count // GOOD_SHARE, count - len(defective)))
        chosen = [(row, f"mDice {scores[row]:.3f}") for row in defective[: count - good]]
        chosen += [(row, f"{wrong[row]:,} false pixels") for row in alarming[:good]]
        return [Look(int(self.indices[row]), reason) for row, reason in chosen]

    def save(self, run: Path) -> None:
        """Write the counts into a run folder."""
        arrays: dict[str, Any] = {one.name: np.asarray(getattr(self, one.name)) for one in fields(self)}
        with atomic_path(run / FILE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, run: Path) -> "ValidationImages | None":
        """Return the counts in a run folder; None if there are none that can be read."""
        try:
            with (run / FILE).open("rb") as file, np.load(file, allow_pickle=False) as content:
                epoch, shrinkage = int(content["epoch"]), float(content["shrinkage"])
                arrays = {key: content[key] for key in ("indices", "confusions", "edges")}
                return cls(epoch=epoch, shrinkage=shrinkage, names=content["names"].tolist(), **arrays)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
