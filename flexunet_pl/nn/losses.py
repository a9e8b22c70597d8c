"""Build the loss that a config describes: a weighted sum of losses by name."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.nn import overlap_losses  # noqa: F401  # registers its losses
from flexunet_pl.nn.loss_terms import LOSSES, Pixels, checked_number, register_loss

__all__ = ["LOSSES", "Pixels", "WeightedLoss", "build_loss", "register_loss"]


class WeightedLoss(nn.Module):
    """Weighted sum of losses of logits and index masks; see :func:`build_loss`."""

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float], num_channels: int) -> None:
        """Multiply each term, which maps :class:`Pixels` to a scalar, by the weight of the same name."""
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.num_channels = num_channels

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Map logits (N, K, H, W), any float type, and mask uint8 (N, H, W), 255 = ignore, to a scalar.

        Computed in float32, or in float64 if the logits are.
        """
        if logits.shape[1] != self.num_channels:
            raise ValueError(f"logits have {logits.shape[1]} channels; this loss was built for {self.num_channels}")
        if logits.shape[0] != mask.shape[0] or logits.shape[2:] != mask.shape[1:]:
            raise ValueError(f"logits are {tuple(logits.shape)}, mask {tuple(mask.shape)}: N, H and W must agree")
        pixels = Pixels.of(logits, mask)
        return torch.stack([self.weights[name] * term(pixels) for name, term in self.terms.items()]).sum()

    @torch.no_grad()
    def per_image(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Map logits and mask to the loss of each image (N,), without gradients.

        Computed in float64 where the device has it, so that the scores depend neither on the rest of the batch nor on
        the number of threads.
        """
        precise = logits.float() if logits.device.type == "mps" else logits.double()
        return torch.stack([self(precise[n : n + 1], mask[n : n + 1]) for n in range(len(mask))])


def build_loss(
    spec: Mapping[str, float | Mapping[str, Any]], num_classes: int, class_weights: Sequence[float] | None = None
) -> WeightedLoss:
    """Build the loss that ``model.loss`` describes.

    Args:
        spec: From the name of a loss to its weight, ``{"cross_entropy": 1.0, "dice": 0.5}``, or to its weight and
            options, ``{"tversky": {"weight": 1.0, "beta": 0.8}}``. Weights are at least 0, 1 if left out, not all 0.
        num_classes: Channels of the logits: the classes with background, or 1 for one sigmoid channel.
        class_weights: One for each class, for the ``cross_entropy`` of the spec.

    Raises:
        UserError: If a name or an option is unknown, or a value does not fit the network.
    """
    if not isinstance(spec, Mapping) or not spec:
        raise UserError(
            f"loss={spec!r} must map names of losses to weights, for example {{cross_entropy: 1.0, dice: 1.0}}"
        )
    if class_weights is not None and "cross_entropy" not in spec:
        raise UserError(
            f"class_weights apply to cross_entropy, and loss has only {', '.join(spec)}; remove them, or add it"
        )
    weights: dict[str, float] = {}
    terms: dict[str, nn.Module] = {}
    for name, setting in spec.items():
        options = _options(name, setting)
        if name == "cross_entropy" and class_weights is not None:
            options.setdefault("class_weights", class_weights)
        try:
            weights[name] = checked_number("weight", options.pop("weight", 1.0), 0)
            terms[name] = LOSSES[name](num_classes, **options)
        except UserError as error:
            raise UserError(f"loss.{name}: {error}") from error
    if not any(weights.values()):
        raise UserError(f"loss={dict(spec)!r} has only weights of 0; give at least one loss a weight above 0")
    return WeightedLoss(terms, weights, num_classes)


def _options(name: str, setting: float | Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a loss, its weight among them; names are checked, values are not."""
    if name not in LOSSES:
        known = sorted(LOSSES)
        raise UserError(f"loss.{name}: no such loss{suggestion(str(name), known)}; choose from {', '.join(known)}")
    if not isinstance(setting, Mapping):
        return {"weight": setting}
    known = ["weight", *(key for key in inspect.signature(LOSSES[name]).parameters if key != "num_channels")]
    for key in setting:
        if key not in known:
            raise UserError(
                f"loss.{name}.{key}: no such option{suggestion(str(key), known)}; choose from {', '.join(known)}"
            )
    return dict(setting)
