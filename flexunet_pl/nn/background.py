"""Count predicted masks that are all background, over batches and processes."""

import torch
import torchmetrics
from torch import Tensor

from flexunet_pl.core.background import BackgroundCounts


class BackgroundCounter(torchmetrics.Metric):
    """Accumulate :class:`BackgroundCounts` over batches and processes."""

    is_differentiable = False
    full_state_update = False

    counts: Tensor

    def __init__(self) -> None:
        """Start with no mask."""
        super().__init__()
        self.add_state("counts", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, had_defects: bool, has_defects: bool) -> None:
        """Add a mask: whether it had defects before small regions were removed, and whether it has them now."""
        added = torch.tensor([1, not has_defects, had_defects and not has_defects], device=self.counts.device)
        self.counts = self.counts + added

    def compute(self) -> BackgroundCounts:
        """Return the counts of all processes."""
        return BackgroundCounts(*self.counts.tolist())
