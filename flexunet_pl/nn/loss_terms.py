"""The losses by name. They never wait for the accelerator.

``register_loss`` adds a loss, here or in a plugin. A mask without counted pixels gives 0 with zero gradients.

Those of single pixels are here, those of overlaps in ``overlap_losses``.

segmentation-models-pytorch has losses of most of these names, and the tests compare ours with them where they are
right. Its multiclass focal loss is a sum of sigmoid focal losses, not the softmax focal loss of Lin et al.; its
cross-entropies divide by the ignored pixels too.
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
        return ratio(losses.sum(), weights.sum())


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
        return ratio(losses.sum(), pixels.counted.sum())


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
        return ratio((pixels.weights(self.alpha) * focus * losses).sum(), pixels.counted.sum())


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
        return ratio((losses + (1 - dice) * pixels.counted).sum(), pixels.counted.sum())


def _smoothed_losses(pixels: Pixels, weights: Tensor, class_weights: Tensor | None, label_smoothing: float) -> Tensor:
    """Return -log p (N, H, W) times weights (N, H, W), mixed with the weighted mean over all classes."""
    losses = weights * pixels.negative_log_likelihood()
    if label_smoothing == 0:
        return losses
    everywhere = -pixels.log_probabilities
    if class_weights is not None:
        everywhere = everywhere * class_weights.to(everywhere.dtype).view(1, -1, 1, 1)
    return (1 - label_smoothing) * losses + label_smoothing * everywhere.mean(1) * pixels.counted


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and part itself where the whole is 0."""
    return part / torch.where(whole > 0, whole, 1)


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
