"""Several networks as one, whose probabilities are the mean of theirs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flexunet_pl.nn.defect_head import image_logit
from flexunet_pl.nn.stages import Outputs, outputs_of
from flexunet_pl.nn.tta import FlipTTA

# Mean probabilities stay this far from 0 and, of one channel, from 1, so that their logits are finite.
LEAST, LEAST_OF_ONE_CHANNEL = 1e-30, 1e-7


class Ensemble(nn.Module):
    """Map an image (N, C, H, W), 0..255, to logits (N, K, H, W) whose probabilities are the mean of all members'.

    Each member normalises, pads and crops the image by itself. The logits are those of the mean probabilities: softmax,
    of one channel sigmoid, returns exactly these, so an ensemble serves wherever a network does.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        """Wrap networks for the same classes and channels; their weights are shared."""
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def size_multiple(self) -> int:
        """What the sides of an image are padded to a multiple of, in all members."""
        members: Any = self.members
        return math.lcm(*(member.size_multiple for member in members))

    @property
    def exports_any_size(self) -> bool:
        """Whether an exported graph can take images of any size."""
        return all(getattr(member, "exports_any_size", True) for member in self.members)

    @property
    def defect_head(self) -> nn.Module | None:
        """The head for whole images of the first member; None unless all members have one."""
        heads = [getattr(member, "defect_head", None) for member in self.members]
        return None if None in heads else heads[0]

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W), uint8 or float, 0..255, to logits (N, K, H, W)."""
        return self.logits_and_cells(image)[0]

    def logits_and_cells(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map an image as ``forward`` does; also return one cell (N, 1, 1, 1), None unless all members have a head.

        Its probability is the mean of those with which the members say that the image shows a defect.
        """
        logits, cells, _ = self.outputs(image)
        return logits, cells

    def outputs(self, image: Tensor) -> Outputs:
        """Map an image as :meth:`logits_and_cells` does; the stages are those of the first member."""
        found = [outputs_of(member, image) for member in self.members]
        images = [image_logit(one.cells).view(-1, 1, 1, 1) for one in found if one.cells is not None]
        cells = logits_of_mean(images) if len(images) == len(found) else None
        return Outputs(logits_of_mean([one.logits for one in found]), cells, found[0].stages)


def flipped(network: nn.Module) -> FlipTTA | Ensemble:
    """Return a network that also looks at the mirror image; of an ensemble, each member does."""
    if isinstance(network, Ensemble):
        return Ensemble([FlipTTA(member) for member in network.members])
    return FlipTTA(network)


def logits_of_mean(logits: Sequence[Tensor]) -> Tensor:
    """Map logits (N, K, ...) of several networks to those of the mean of their probabilities, at least in float32."""
    exact = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in logits]
    if exact[0].shape[1] == 1:
        mean = sum_of([one.sigmoid() for one in exact]) / len(exact)
        mean = mean.clamp(LEAST_OF_ONE_CHANNEL, 1 - LEAST_OF_ONE_CHANNEL)
        return (mean / (1 - mean)).log()
    return (sum_of([one.softmax(1) for one in exact]) / len(exact)).clamp(min=LEAST).log()


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
