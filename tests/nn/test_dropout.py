"""Dropout: the right rate, the right mean, and no more than that."""

import math

import pytest
import torch

from flexunet_pl.nn.dropout import Dropout, random_int16

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rate", [0.04, 0.2, 0.5])
def test_the_rate_is_right_and_the_mean_is_kept(
    rate: float, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ones = torch.ones(3, 8, 250, 333, dtype=dtype).contiguous(memory_format=memory_format)
    result = Dropout(rate).train()(ones)
    assert result.stride() == ones.stride()
    assert result.dtype == dtype
    dropped = (result == 0).float()
    spread = 5 * math.sqrt(rate * (1 - rate))  # of a mean over n values: five standard deviations are spread / sqrt(n)
    assert dropped.mean().item() == pytest.approx(rate, abs=spread / math.sqrt(ones.numel()))
    # The same in each image, channel, row and column, and independent of the neighbours in memory.
    for kept in range(4):
        means = dropped.mean([axis for axis in range(4) if axis != kept])
        count = ones.numel() / len(means)
        assert (means - rate).abs().max().item() < 1.3 * spread / math.sqrt(count)
    flat = dropped.permute(0, 2, 3, 1).reshape(-1)
    for distance in (1, 2, 3, 4, 8):
        together = (flat[distance:] * flat[:-distance]).mean().item()
        assert together == pytest.approx(rate**2, abs=5 * rate / math.sqrt(ones.numel()))
    survivors = result[result != 0].float()
    assert torch.equal(survivors, survivors[:1].expand_as(survivors))
    assert survivors[0].item() == pytest.approx(1 / (1 - rate), rel=1e-4 if dtype == torch.float32 else 2**-8)


def test_mean_and_variance_are_those_of_dropout() -> None:
    torch.manual_seed(0)
    features = 3 + torch.randn(64, 16, 64, 64)
    result = Dropout(0.1).train()(features)
    # E[x] = 3; Var = E[x^2] / 0.9 - 9 = 10 / 0.9 - 9 = 2.111
    assert result.mean().item() == pytest.approx(3, abs=0.005)
    assert result.var().item() == pytest.approx(2.1111, abs=0.02)


def test_gradients_are_dropped_with_the_values() -> None:
    features = torch.randn(2, 4, 9, 7, requires_grad=True)
    result = Dropout(0.25).train()(features)
    result.sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, (result != 0) * torch.tensor(1 / 0.75), rtol=1e-4, atol=0)


def test_evaluation_and_a_rate_of_0_change_nothing() -> None:
    features = torch.randn(2, 3, 5, 5)
    assert Dropout(0.5).eval()(features) is features
    assert torch.equal(Dropout(0.0).train()(features), features)
    assert Dropout(1.0).train()(features).count_nonzero() == 0


def test_the_seed_decides() -> None:
    features = torch.ones(2, 3, 33, 5)
    layer = Dropout(0.5).train()
    torch.manual_seed(1)
    first, second = layer(features), layer(features)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(layer(features), first)


def test_numbers_fill_their_range_evenly() -> None:
    torch.manual_seed(0)
    numbers = random_int16(torch.empty(2, 5, 400, 300)).long() + 2**15
    assert (numbers.min().item(), numbers.max().item()) == pytest.approx((0, 2**16 - 1), abs=2)
    counts = torch.bincount((numbers >> 8).flatten(), minlength=256)
    # 1.2 million numbers in 256 bins: 4687 each, with a standard deviation of 68.
    assert (counts - 4687.5).abs().max().item() < 5 * 68
    assert random_int16(torch.empty(3, 4, 5).permute(2, 0, 1)).shape == (5, 3, 4)
