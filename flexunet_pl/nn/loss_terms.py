"""The losses by name. They never wait for the accelerator.

``register_loss`` adds a loss, here or in a plugin. A mask without counted pixels gives 0 with zero gradients.

segmentation-models-pytorch has losses of most of these names, and the tests compare ours with them where they are
right. Its dice, jaccard and tversky count absent classes as perfect and expand the truth to 8 bytes for each pixel; its
multiclass focal loss is a sum of sigmoid focal losses, not the softmax focal loss of Lin et al.; its cross-entropies
divide by the ignored pixels too; its lovasz waits for the accelerator.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.score_table import IGNORE_INDEX

LOSSES: dict[str, type[nn.Module]] = {}
Loss = TypeVar("Loss", bound=type[nn.Module])


def register_loss(name: str) -> Callable[[Loss], Loss]:
    """Add a loss under ``name``, the key in ``model.loss``.

    The decorated class is built from ``num_channels``, the channels of the logits, and keyword-only options with
    defaults, which become options in a config. It maps :class:`Pixels` to a scalar.

    Raises:
        UserError: If another class has this name.
    """

    def register(loss: Loss) -> Loss:
        if name in LOSSES and LOSSES[name].__qualname__ != loss.__qualname__:
            raise UserError(f"loss {name!r} is already registered by {LOSSES[name].__qualname__}; choose another name")
        LOSSES[name] = loss
        return loss

    return register


@dataclass(frozen=True)
class Pixels:
    """A batch as the losses read it. ``K`` is at least 2: one sigmoid channel becomes background and class 1."""

    log_probabilities: Tensor  # float (N, K, H, W)
    truth: Tensor  # class index, int64 (N, H, W), 255 = ignore
    counted: Tensor  # float (N, H, W): 1, or 0 where the truth is ignored

    @classmethod
    def of(cls, logits: Tensor, mask: Tensor) -> "Pixels":
        """Prepare logits (N, K or 1, H, W), any float type, and mask uint8 (N, H, W); compute in float32 or float64."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if logits.shape[1] == 1:
            log_probabilities = functional.logsigmoid(torch.cat([-logits, logits], dim=1))
        else:
            log_probabilities = functional.log_softmax(logits, dim=1)
        return cls(log_probabilities, mask.long(), (mask != IGNORE_INDEX).to(logits.dtype))

    def negative_log_likelihood(self) -> Tensor:
        """Return -log p (N, H, W) of the true class, 0 where ignored."""
        # Not reduced here: on CUDA the reduced form has no deterministic kernel.
        return functional.nll_loss(self.log_probabilities, self.truth, ignore_index=IGNORE_INDEX, reduction="none")

    def weights(self, class_weights: Tensor | None) -> Tensor:
        """Return the weight (K,) of the true class, (N, H, W), 0 where ignored."""
        if class_weights is None:
            return self.counted
        return class_weights.to(self.counted.dtype)[self.truth.clamp(max=len(class_weights) - 1)] * self.counted


@register_loss("cross_entropy")
class CrossEntropy(nn.Module):
    """Mean of -log p over the counted pixels, weighted by the true class: what Keras and torch call by this name."""

    class_weights: Tensor | None

    def __init__(
        self, num_channels: int, *, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        """Take one weight for each class, and the share 0..1 of the truth that is spread evenly over all classes."""
        super().__init__()
        if num_channels == 1:
            raise UserError("needs a channel for each class, and the network has one channel; use binary_cross_entropy")
        self.register_buffer("class_weights", _weights("class_weights", class_weights, num_channels), persistent=False)
        self.label_smoothing = checked_number("label_smoothing", label_smoothing, 0, 1)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the mean, a scalar."""
        weights = pixels.weights(self.class_weights)
        losses = _smoothed_losses(pixels, weights, self.class_weights, self.label_smoothing)
        return _ratio(losses.sum(), weights.sum())


@register_loss("binary_cross_entropy")
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
        losses = _smoothed_losses(pixels, weights, self.class_weights, self.label_smoothing)
        return _ratio(losses.sum(), pixels.counted.sum())


@register_loss("focal")
class Focal(nn.Module):
    """Mean over the counted pixels of -a (1 - p)^gamma log p for the probability p of the true class (Lin et al.)."""

    alpha: Tensor | None

    def __init__(self, num_channels: int, *, gamma: float = 2.0, alpha: float | Sequence[float] | None = None) -> None:
        """Take gamma and a: a number per class, or one for the foreground, 1 minus it for the background."""
        super().__init__()
        self.gamma = checked_number("gamma", gamma, 0)
        if isinstance(alpha, (int, float)):
            foreground = checked_number("alpha", alpha, 0, 1)
            alpha = [1 - foreground, *[foreground] * (max(num_channels, 2) - 1)]
        self.register_buffer("alpha", _weights("alpha", alpha, max(num_channels, 2)), persistent=False)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the mean, a scalar."""
        losses = pixels.negative_log_likelihood()
        # At p = 1 the power of a gamma below 1 has an infinite slope.
        missing = -torch.expm1(-losses)
        focus = missing.clamp_min(torch.finfo(missing.dtype).eps) ** self.gamma
        return _ratio((pixels.weights(self.alpha) * focus * losses).sum(), pixels.counted.sum())


@register_loss("categorical_focal_dice")
class CategoricalFocalDice(nn.Module):
    """The original's loss of this name: cross-entropy plus 1 - Dice, with the Dice of each single pixel.

    Summed over the classes of one pixel, truth and probabilities are 1 each, so its Dice is
    (2 p + epsilon) / (2 + epsilon): close to p. Nothing in it is focal.
    """

    def __init__(self, num_channels: int, *, epsilon: float = 1e-6) -> None:  # noqa: ARG002  one signature for all
        """Take the smoothing of the Dice."""
        super().__init__()
        self.epsilon = checked_number("epsilon", epsilon, 0)

    def forward(self, pixels: Pixels) -> Tensor:
        """Return the sum of both means, a scalar."""
        losses = pixels.negative_log_likelihood()
        dice = (2 * torch.exp(-losses) + self.epsilon) / (2 + self.epsilon)
        return _ratio((losses + (1 - dice) * pixels.counted).sum(), pixels.counted.sum())


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
        overlap = _ratio(hits + self.smooth, whole + self.smooth)
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


def _smoothed_losses(pixels: Pixels, weights: Tensor, class_weights: Tensor | None, label_smoothing: float) -> Tensor:
    """Return -log p (N, H, W) times weights (N, H, W), mixed with the weighted mean over all classes."""
    losses = weights * pixels.negative_log_likelihood()
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
