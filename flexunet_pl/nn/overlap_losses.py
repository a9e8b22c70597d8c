"""The losses of how much the pixels of a class overlap with the truth: Tversky, Dice, log-Dice, Jaccard, Lovász.

segmentation-models-pytorch's dice, jaccard and tversky count absent classes as perfect and expand the truth to 8 bytes
per class and pixel; its lovasz waits for the accelerator at each class.
"""

import math

import torch
from torch import Tensor, nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.loss_terms import Pixels, checked_number, ratio, register_loss


@register_loss("tversky")
class Tversky(nn.Module):
    """1 - hits / (hits + alpha false alarms + beta misses), soft counts over the batch, mean over present classes.

    A class is present if it has truth pixels in the batch. An absent class has no overlap to improve; a loss per pixel
    penalises its false alarms.
    """

    def __init__(
        self,
        num_channels: int,  # noqa: ARG002  one signature for all
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 0.0,
        include_background: bool = False,
    ) -> None:
        """Take the weights of false alarms and misses, and the number added to numerator and denominator."""
        super().__init__()
        self.alpha = checked_number("alpha", alpha, 0)
        self.beta = checked_number("beta", beta, 0)
        self.smooth = checked_number("smooth", smooth, 0)
        self.first_class = _first_class(include_background)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the mean over the present classes, a scalar."""
        probabilities = pixels.log_probabilities[:, self.first_class :].exp() * pixels.counted.unsqueeze(1)
        classes = torch.arange(self.first_class, pixels.log_probabilities.shape[1], device=pixels.truth.device)
        truth = pixels.truth.unsqueeze(1) == classes.view(1, -1, 1, 1)
        hits = (probabilities * truth).sum((0, 2, 3))
        false_alarms = probabilities.sum((0, 2, 3)) - hits
        support = truth.sum((0, 2, 3))
        whole = hits + self.alpha * false_alarms + self.beta * (support - hits)
        overlap = ratio(hits + self.smooth, whole + self.smooth)
        return _mean_over_present(self.penalty(overlap), support > 0)

    def penalty(self, overlap: Tensor) -> Tensor:
        """Map the overlap (K,), 0..1, of each class to its loss."""
        return 1 - overlap


@register_loss("dice")
class Dice(Tversky):
    """1 - (2 hits + smooth) / (predicted + true + smooth), otherwise as Tversky."""

    def __init__(self, num_channels: int, *, smooth: float = 0.0, include_background: bool = False) -> None:
        """Take the number added to numerator and denominator."""
        half = checked_number("smooth", smooth, 0) / 2
        super().__init__(num_channels, alpha=0.5, beta=0.5, smooth=half, include_background=include_background)


@register_loss("log_dice")
class LogDice(Dice):
    """-log of the Dice coefficient (Wong et al., MICCAI 2018, with exponent 1), 0 at 1, otherwise as Dice.

    The slope of Dice fades with the probability of a class, so small classes are learnt late; -log divides it by Dice.
    """

    def __init__(self, num_channels: int, *, epsilon: float = 0.05, include_background: bool = False) -> None:
        """Take the number added to the Dice, which bounds the loss by -log of it."""
        super().__init__(num_channels, include_background=include_background)
        self.epsilon = checked_number("epsilon", epsilon, 1e-6, 1)

    def penalty(self, overlap: Tensor) -> Tensor:
        """Map the Dice (K,) of each class to its loss."""
        return math.log1p(self.epsilon) - torch.log(overlap + self.epsilon)


@register_loss("jaccard")
class Jaccard(Tversky):
    """1 - (hits + smooth) / (predicted + true - hits + smooth), otherwise as Tversky."""

    def __init__(self, num_channels: int, *, smooth: float = 0.0, include_background: bool = False) -> None:
        """Take the number added to numerator and denominator."""
        super().__init__(num_channels, alpha=1.0, beta=1.0, smooth=smooth, include_background=include_background)


@register_loss("lovasz")
class Lovasz(nn.Module):
    """Lovasz-Softmax over the batch (Berman et al.): the Jaccard loss, extended to probabilities.

    The mean over the present classes, as for Tversky. One sigmoid channel is taken as its two-class softmax.
    """

    def __init__(self, num_channels: int, *, include_background: bool = False) -> None:  # noqa: ARG002  as the others
        """Count the background only if ``include_background``, as the other overlap losses do."""
        super().__init__()
        self.first_class = _first_class(include_background)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the mean over the present classes, a scalar."""
        losses, present = [], []
        for index in range(self.first_class, pixels.log_probabilities.shape[1]):
            truth = pixels.truth == index
            # An error of 0 sorts ignored pixels to the end, where they weigh nothing.
            errors = (truth.to(pixels.counted.dtype) - pixels.log_probabilities[:, index].exp()).abs() * pixels.counted
            losses.append((errors.flatten() * _lovasz_slopes(errors.detach().flatten(), truth.flatten())).sum())
            present.append(truth.any())
        return _mean_over_present(torch.stack(losses), torch.stack(present))


def _lovasz_slopes(errors: Tensor, truth: Tensor) -> Tensor:
    """Return by how much each pixel (P,), counted from the largest error down, raises the Jaccard loss."""
    order = errors.argsort(descending=True, stable=True)
    hit = truth[order]
    # Counted in integers, and no difference of nearly equal fractions: exact where a running Jaccard loses its digits.
    support = hit.sum()
    union = support + (~hit).cumsum(0)
    rest = (support - hit.cumsum(0)).to(errors.dtype)
    slopes = torch.where(hit, 1 / union.to(errors.dtype), rest / (union * (union - 1)).clamp_min(1))
    return torch.empty_like(slopes).index_copy(0, order, slopes)


def _mean_over_present(losses: Tensor, present: Tensor) -> Tensor:
    """Return the mean of losses (K,) over the present ones (K,), or 0."""
    return ratio((losses * present).sum(), present.sum())


def _first_class(include_background: bool) -> int:
    if not isinstance(include_background, bool):
        raise UserError(f"include_background={include_background!r} must be true or false")
    return 0 if include_background else 1
