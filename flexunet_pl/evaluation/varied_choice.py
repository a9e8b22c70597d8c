"""Choose items that are both uncertain and unlike each other, few of one source."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FARTHEST = 2.0  # distance of two opposite vectors of length 1

Floats = npt.NDArray[np.float32]


class Choice(NamedTuple):
    """An item that was chosen.

    Attributes:
        place: Its place among the candidates.
        distance: To the nearest item that is labelled or was chosen before, 0..2; None of the first without such.
        nearest: That item: its place among the candidates, or -1 - place among the labelled ones; None without such.
    """

    place: int
    distance: float | None
    nearest: int | None


def most_of_source(count: int, share: float) -> int:
    """Return how many of ``count`` items one source may have for a ``share`` of 0..1: at least one."""
    return max(1, math.floor(share * count + 1e-9))


def choose(
    uncertainty: npt.NDArray[np.float64],
    features: Floats,
    labelled: Floats,
    sources: Sequence[str],
    count: int,
    most: int,
) -> list[Choice]:
    """Choose items one after the other: each has the highest uncertainty times distance to all before it.

    This is the greedy k-centre of O. Sener and S. Savarese, "Active learning for convolutional neural networks: a
    core-set approach", ICLR 2018, whose distances are weighted with the uncertainty. Features are centred and scaled to
    length 1. Of equal items the first is chosen. A source that has ``most`` items waits until no other has any left.

    Args:
        uncertainty: float64 (N,), 0..1.
        features: float32 (N, F).
        labelled: float32 (M, F), the features of items that are labelled already; M may be 0.
        sources: Of each candidate (N).
        count: How many to choose; at most N are.
        most: How many of one source.
    """
    middle = features.mean(axis=0)
    candidates, centres = _scaled(features - middle), _scaled(labelled - middle)
    distance = np.full(len(candidates), FARTHEST)
    nearest = np.full(len(candidates), len(candidates), dtype=np.int64)  # none
    for place, centre in enumerate(centres):
        _update(distance, nearest, candidates, centre, -1 - place)
    is_left = np.ones(len(candidates), dtype=bool)
    taken: Counter[str] = Counter()
    chosen: list[Choice] = []
    while is_left.any() and len(chosen) < count:
        is_full = np.array([taken[source] >= most for source in sources])
        allowed = is_left & ~is_full if (is_left & ~is_full).any() else is_left
        index = int(np.where(allowed, uncertainty * distance, -1.0).argmax())
        has_nearest = nearest[index] != len(candidates)
        chosen.append(
            Choice(index, float(distance[index]) if has_nearest else None, int(nearest[index]) if has_nearest else None)
        )
        is_left[index] = False
        taken[sources[index]] += 1
        _update(distance, nearest, candidates, candidates[index], index)
    return chosen


def _update(
    distance: npt.NDArray[np.float64], nearest: npt.NDArray[np.int64], items: Floats, centre: Floats, name: int
) -> None:
    """Lower the distances (N,) of items (N, F), in place, to those from one more centre (F,)."""
    new = np.sqrt(np.maximum(0, 2 - 2 * (items @ centre).astype(np.float64)))
    closer = new < distance - 1e-9
    distance[closer], nearest[closer] = new[closer], name
    nearest[(nearest == len(items))] = name


def _scaled(vectors: Floats) -> Floats:
    """Scale vectors (N, F) to length 1; those of length 0 stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)
