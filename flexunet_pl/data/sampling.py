"""Which samples a batch holds: a function of (seed, epoch) alone, the same for any number of processes."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

# An item of an epoch: (appearance, index). A worker draws a sample's random changes from it, so no two may be alike.
Item = tuple[int, int]


class EpochBatches(Sampler[list[Item]]):
    """Training batches: every index once an epoch in an order drawn from (seed, epoch), shared out over processes.

    An epoch of another ``length`` goes through all indices again and again, in an order of its own each time. Each
    process takes every ``world_size``-th sample; the order is filled up from its start, so that all processes take the
    same number of steps.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: Sequence[float] | None = None,
        length: int | None = None,
    ) -> None:
        """Draw ``length`` of ``count`` samples an epoch, by default all; by ``weights``, if given, with replacement."""
        super().__init__()
        self.count = count
        self.length = count if length is None else length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self.epoch = 0
        self.resumed = (-1, 0)  # an epoch that was interrupted, and its batches that were done
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration belongs to; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(math.ceil(self.length / self.world_size) / self.batch_size)

    def __iter__(self) -> Iterator[list[Item]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.weights is None:
            passes = math.ceil(self.length / self.count)
            order = np.concatenate([rng.permutation(self.count) for _ in range(passes)])[: self.length]
        else:
            order = rng.choice(self.count, size=self.length, p=self.weights / self.weights.sum())
        filled = np.resize(order, math.ceil(self.length / self.world_size) * self.world_size)
        mine = self._numbered(filled)[self.rank :: self.world_size]
        done = self.resumed[1] if self.resumed[0] == self.epoch else 0
        for start in range(done * self.batch_size, len(mine), self.batch_size):
            yield mine[start : start + self.batch_size]

    def _numbered(self, order: npt.NDArray[np.int64]) -> list[Item]:
        """Number the appearances of each index, over all epochs."""
        if self.weights is None and self.length <= self.count:
            return [(self.epoch, int(index)) for index in order]
        draws: Counter[int] = Counter()
        items = []
        for index in order.tolist():
            items.append((self.epoch * len(order) + draws[index], index))
            draws[index] += 1
        return items


class ShardedBatches(Sampler[list[Item]]):
    """Evaluation batches: every index exactly once over all processes, in batches that do not depend on their number.

    Lightning's own sampler would fill up with duplicates, and count them.
    """

    def __init__(self, count: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        """Share ``count`` samples out over ``world_size`` processes; batches shrink until each process has one."""
        super().__init__()
        batch_size = min(batch_size, max(1, count // world_size))
        batches = [
            [(0, index) for index in range(start, min(start + batch_size, count))]
            for start in range(0, count, batch_size)
        ]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self.batches)
