"""The single losses a recipe can weigh; plain torch, and nothing in them waits for the accelerator.

segmentation-models-pytorch has losses of most of these names, and where they are right the tests hold ours against
them. They are not called, for none is right everywhere: its dice, jaccard and tversky count absent classes as perfect
and expand the truth to 8 bytes a class and pixel, its multiclass focal loss is a sum of sigmoid focal losses instead of
the softmax focal loss of Lin et al., its cross-entropies divide by the ignored pixels too, and its lovasz waits for the
accelerator at each class.

A mask in which no pixel counts gives a loss of 0 with zero gradients.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.score_table import IGNORE_INDEX


@dataclass(frozen=True)
class Pixels:
    """A batch as the losses need it; ``K`` is at least 2, one sigmoid channel stands for background and class 1.

    Attributes:
        log_probabilities: Float (N, K, H, W).
        truth: Class index, int64 (N, H, W), 255 = ignore.
        counted: Float (N, H, W): 1, or 0 where the truth is ignored.
    """

    log_probabilities: Tensor
    truth: Tensor
    counted: Tensor

    @classmethod
    def of(cls, logits: Tensor, mask: Tensor) -> "Pixels":
        """Prepare logits (N, K or 1, H, W), any float type, and mask uint8 (N, H, W); compute in float32 or float64."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if logits.shape[1] == 1:
            log_probabilities = functional.logsigmoid(torch.cat([-logits, logits], dim=1))
        else:
            log_probabilities = functional.log_softmax(logits, dim=1)
        return cls(log_probabilities, mask.long(), (mask != IGNORE_INDEX).to(logits.dtype))

    def surprise(self) -> Tensor:
        """Return -log p of the true class, (N, H, W), 0 where ignored."""
        # Not reduced here: on CUDA the reduced form has no deterministic kernel.
        return functional.nll_loss(self.log_probabilities, self.truth, ignore_index=IGNORE_INDEX, reduction="none")

    def weights(self, class_weights: Tensor | None) -> Tensor:
        """Return the weight (K,) of the true class, (N, H, W), 0 where ignored."""
        if class_weights is None:
            return self.counted
        return class_weights.to(self.counted.dtype)[self.truth.clamp(max=len(class_weights) - 1)] * self.counted


class CrossEntropy(nn.Module):
    """Mean of -log p over the counted pixels, weighted by the true class: what Keras and torch call by this name."""

    class_weights: Tensor | None

    def __init__(
        self, num_channels: int, *, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        """Take one weight for each class, and the share 0..1 of the truth that is spread evenly over all classes."""
        super().__init__()
        if num_channels == 1:
            raise UserError("needs a channel for each class and the network has one for all; use binary_cross_entropy")
        self.register_buffer("class_weights", _weights("class_weights", class_weights, num_channels), persistent=False)
        self.label_smoothing = checked_number("label_smoothing", label_smoothing, 0, 1)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the mean, a scalar."""
        weights = pixels.weights(self.class_weights)
        losses = _smoothed_surprise(pixels, weights, self.class_weights, self.label_smoothing)
        return _ratio(losses.sum(), weights.sum())


class BinaryCrossEntropy(nn.Module):
    """Mean of -log p over the counted pixels of a network with one sigmoid channel."""

    class_weights: Tensor

    def __init__(self, num_channels: int, *, pos_weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        """Take the weight of the pixels of class 1, and the share 0..1 of the truth spread over both classes."""
        super().__init__()
        if num_channels != 1:
            raise UserError(
                f"needs the one channel of num_classes=1 and the network has {num_channels}; use cross_entropy"
            )
        weights = torch.tensor([1.0, checked_number("pos_weight", pos_weight, 0)])
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = checked_number("label_smoothing", label_smoothing, 0, 1)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the mean, a scalar."""
        weights = pixels.weights(self.class_weights)
        losses = _smoothed_surprise(pixels, weights, self.class_weights, self.label_smoothing)
        return _ratio(losses.sum(), pixels.counted.sum())


class Focal(nn.Module):
    """Mean over the counted pixels of -a (1 - p)^gamma log p for the probability p of the true class (Lin et al.)."""

    alpha: Tensor | None

    def __init__(self, num_channels: int, *, gamma: float = 2.0, alpha: float | Sequence[float] | None = None) -> None:
        """Take the focus and a: one for each class, or one number for the foreground, its rest to 1 for background."""
        super().__init__()
        self.gamma = checked_number("gamma", gamma, 0)
        if isinstance(alpha, (int, float)):
            foreground = checked_number("alpha", alpha, 0, 1)
            alpha = [1 - foreground, *[foreground] * (max(num_channels, 2) - 1)]
        self.register_buffer("alpha", _weights("alpha", alpha, max(num_channels, 2)), persistent=False)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the mean, a scalar."""
        surprise = pixels.surprise()
        # At p = 1 the power of a gamma below 1 has an infinite slope.
        missing = -torch.expm1(-surprise)
        focus = missing.clamp_min(torch.finfo(missing.dtype).eps) ** self.gamma
        return _ratio((pixels.weights(self.alpha) * focus * surprise).sum(), pixels.counted.sum())


class CategoricalFocalDice(nn.Module):
    """The loss of that name in the original's family: cross-entropy plus 1 - Dice, with a Dice for each single pixel.

    Summed over the classes of one pixel, truth and probabilities are 1 each, so that its Dice is
    (2 p + epsilon) / (2 + epsilon): close to p, with nothing focal in it.
    """

    def __init__(self, num_channels: int, *, epsilon: float = 1e-6) -> None:  # noqa: ARG002  one signature for all
        """Take the smoothing of the Dice."""
        super().__init__()
        self.epsilon = checked_number("epsilon", epsilon, 0)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the sum of both means, a scalar."""
        surprise = pixels.surprise()
        dice = (2 * torch.exp(-surprise) + self.epsilon) / (2 + self.epsilon)
        return _ratio((surprise + (1 - dice) * pixels.counted).sum(), pixels.counted.sum())


class Tversky(nn.Module):
    """1 - hits / (hits + alpha false alarms + beta misses), soft counts over the batch, mean over present classes.

    Present are the classes with truth pixels in the batch. An absent class has no overlap to improve; its false alarms
    are for a loss by pixels to see.
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
        """Take the weights of false alarms and misses, and what is added above and below the fraction's bar."""
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
        overlap = _ratio(
            hits + self.smooth,
            hits + self.alpha * false_alarms + self.beta * (support - hits) + self.smooth,
        )
        return _mean_over_present(1 - overlap, support > 0)


class Dice(Tversky):
    """1 - (2 hits + smooth) / (predicted + true + smooth), otherwise as Tversky."""

    def __init__(self, num_channels: int, *, smooth: float = 0.0, include_background: bool = False) -> None:
        """Take what is added above and below the fraction's bar."""
        half = checked_number("smooth", smooth, 0) / 2
        super().__init__(num_channels, alpha=0.5, beta=0.5, smooth=half, include_background=include_background)


class Jaccard(Tversky):
    """1 - (hits + smooth) / (predicted + true - hits + smooth), otherwise as Tversky."""

    def __init__(self, num_channels: int, *, smooth: float = 0.0, include_background: bool = False) -> None:
        """Take what is added above and below the fraction's bar."""
        super().__init__(num_channels, alpha=1.0, beta=1.0, smooth=smooth, include_background=include_background)


class Lovasz(nn.Module):
    """Lovasz-Softmax over the batch (Berman et al.): the Jaccard loss, extended to probabilities.

    The mean over the present classes, as for Tversky. One sigmoid channel is taken as its two-class softmax.
    """

    def __init__(self, num_channels: int, *, include_background: bool = False) -> None:  # noqa: ARG002  as the others
        """Count the background only on demand, as the other losses by overlap do."""
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


def _smoothed_surprise(pixels: Pixels, weights: Tensor, class_weights: Tensor | None, label_smoothing: float) -> Tensor:
    """Return -log p (N, H, W) times weights (N, H, W), mixed with the weighted mean over all classes."""
    losses = weights * pixels.surprise()
    if label_smoothing == 0:
        return losses
    everywhere = -pixels.log_probabilities
    if class_weights is not None:
        everywhere = everywhere * class_weights.to(everywhere.dtype).view(1, -1, 1, 1)
    return (1 - label_smoothing) * losses + label_smoothing * everywhere.mean(1) * pixels.counted


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and part itself where the whole is 0."""
    return part / torch.where(whole > 0, whole, 1)


def _mean_over_present(losses: Tensor, present: Tensor) -> Tensor:
    """Return the mean of losses (K,) over the present ones (K,), or 0."""
    return _ratio((losses * present).sum(), present.sum())


def _first_class(include_background: bool) -> int:
    if not isinstance(include_background, bool):
        raise UserError(f"include_background={include_background!r} must be true or false")
    return 0 if include_background else 1


def checked_number(key: str, value: object, low: float, high: float = math.inf) -> float:
    """Return ``value`` as a float, or raise the UserError that it must be a finite number of low..high."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or math.isinf(value):
        limits = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
        raise UserError(f"{key}={value!r} must be a number {limits}")
    return float(value)


def _weights(key: str, values: Sequence[float] | None, count: int) -> Tensor | None:
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != count:
        raise UserError(f"{key}={values!r} must be a list of {count} numbers, one for each class, background first")
    return torch.tensor([checked_number(f"{key}[{index}]", value, 0) for index, value in enumerate(values)])
