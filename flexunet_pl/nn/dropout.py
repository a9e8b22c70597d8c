"""Dropout at a fraction of the cost: 16 random bits a value, drawn 64 at a time."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Rates are multiples of 1 / LEVELS, which is finer than any rate that makes a difference.
LEVELS = 2**16


class Dropout(nn.Dropout):
    """``nn.Dropout`` with other random numbers: each value is 0 with probability p, the rest are scaled up to match.

    torch draws one number of 32 bits a value, in one thread, which takes an eighth of a training step in bf16. Here
    the same generator gives four values at once; it also follows ``torch.manual_seed``. The rate is ``p``
    rounded to 1/65536, and the values that stay are divided by what that leaves, so that the mean is kept exactly.
    On accelerators, where random numbers are cheap, and in evaluation it is ``nn.Dropout``.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map features of any shape and float type to the same."""
        threshold = round(self.p * LEVELS)
        if not self.training or features.device.type != "cpu" or not 0 < threshold < LEVELS:
            return functional.dropout(features, self.p, self.training, self.inplace)
        dropped = random_int16(features) < threshold - LEVELS // 2
        return (features * (LEVELS / (LEVELS - threshold))).masked_fill_(dropped, 0)


def random_int16(like: Tensor) -> Tensor:
    """Return evenly distributed numbers, int16 of all values, of the shape and memory order of ``like``, on the CPU."""
    count = like.numel()
    lowest = torch.iinfo(torch.int64).min
    flat = torch.empty(math.ceil(count / 4), dtype=torch.int64).random_(lowest, None).view(torch.int16)[:count]
    is_dense = like.is_contiguous() or like.is_contiguous(memory_format=torch.channels_last)
    return flat.as_strided(like.shape, like.stride()) if is_dense else flat.view(like.shape)
