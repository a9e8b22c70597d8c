"""Optimizers by name, gradient clipping, and the momentum of BatchNorm statistics."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.nn.zoo import ZooNetwork


class _FusedAdam(torch.optim.Adam):
    """Adam on torch's fused kernel, without its copies of weights in channels_last layout.

    The kernel works element by element, so contiguous views of a weight, its gradient and its moments give the same.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex: bool = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]  # as torch has it
        weights, gradients, *moments = lists[:4]
        for index, weight in enumerate(weights):
            if weight.is_contiguous() or not weight.is_contiguous(memory_format=torch.channels_last):
                continue
            for tensors in (weights, *moments):
                tensors[index] = tensors[index].permute(0, 2, 3, 1)
            gradients[index] = gradients[index].permute(0, 2, 3, 1).contiguous()  # it already is, after backward()
        return has_complex


class FusedAdamW(_FusedAdam, torch.optim.AdamW):
    """torch's AdamW on its fused kernel."""


class KerasAdam(_FusedAdam):
    """Adam in the form and with the eps of Keras, on torch's fused kernel.

    Keras: ``w -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)``. Torch adds its eps after dividing sqrt(v)
    by ``sqrt(1 - b2^t)``; with ``eps / sqrt(1 - b2^t)`` in each step t both are the same.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-4, weight_decay: float = 0.0) -> None:
        """Start with betas 0.9 and 0.999 and Keras' eps of 1e-7."""
        super().__init__(params, lr=lr, betas=(0.9, 0.999), eps=1e-7, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            group["keras_eps"] = group["eps"]
            group["steps"] = 0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        """Do one step; ``closure`` computes the loss again, as for any torch optimizer."""
        for group in self.param_groups:
            group["steps"] += 1
            group["eps"] = group["keras_eps"] / math.sqrt(1 - group["betas"][1] ** group["steps"])
        loss: float | None = super().step(closure)
        return loss


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": KerasAdam,
    "adamw": partial(FusedAdamW, fused=True),
    "sgd": lambda params, lr, weight_decay: SGD(params, lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True),
}


def build_optimizer(
    name: str, network: nn.Module, learning_rate: float, weight_decay: float, encoder_rate: float = 1.0
) -> Optimizer:
    """Return the optimizer of that name; weight decay spares biases and normalisation layers.

    Args:
        name: A key of ``OPTIMIZERS``.
        network: What it trains.
        learning_rate: The rate.
        weight_decay: Decay of the weights.
        encoder_rate: The encoder of a network that has one trains with this share of the rate.

    Raises:
        UserError: If the name is unknown or a number is out of its range.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"model.optimizer={name!r}; choose from {', '.join(OPTIMIZERS)}{suggestion(name, OPTIMIZERS)}")
    if not 0 < learning_rate < math.inf:
        raise UserError(f"model.learning_rate={learning_rate} must be above 0 and finite")
    if weight_decay < 0:
        raise UserError(f"model.weight_decay={weight_decay} must be at least 0")
    if not 0 < encoder_rate <= 1:
        raise UserError(f"model.encoder_rate={encoder_rate} must be above 0 and at most 1; try 0.3")
    groups = _decayed_and_not(network.parameters(), learning_rate)
    if encoder_rate != 1:
        if not isinstance(network, ZooNetwork):
            raise UserError(f"model.encoder_rate={encoder_rate}, but this network has no encoder; leave it out")
        encoder = network.encoder_parameters()
        known = {id(parameter) for parameter in encoder}
        others = [parameter for parameter in network.parameters() if id(parameter) not in known]
        groups = _decayed_and_not(others, learning_rate) + _decayed_and_not(encoder, encoder_rate * learning_rate)
    optimizer = OPTIMIZERS[name](groups, lr=learning_rate, weight_decay=weight_decay)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
    # A fused optimizer can unscale gradients itself; with mixed precision Lightning then refuses to clip them.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # torch declares it nowhere
    return optimizer


def _decayed_and_not(parameters: Iterable[nn.Parameter], learning_rate: float) -> list[dict[str, Any]]:
    """Return the groups of an optimizer: weights, and biases and normalisation layers; none is empty."""
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": learning_rate},
        {"params": [], "lr": learning_rate, "weight_decay": 0.0},
    ]
    for parameter in parameters:
        groups[parameter.ndim <= 1]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def _lay_out_as_weights(optimizer: Optimizer) -> None:
    """Give loaded state the memory layout of its weights, because fused kernels read both in memory order."""
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == weight.shape and value.stride() != weight.stride():
                state[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def clip_by_value(optimizer: Optimizer, limit: float) -> None:
    """Limit each element of the gradients to -limit..limit, in place."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad.clamp_(-limit, limit)


def set_batchnorm_momentum(network: nn.Module, momentum: float | None) -> None:
    """Set the share of a batch in the running statistics (above 0, at most 1); None changes nothing.

    Raises:
        UserError: If the number is out of its range, or the network has no BatchNorm.
    """
    if momentum is None:
        return
    if not 0 < momentum <= 1:
        raise UserError(f"model.batchnorm_momentum={momentum} must be above 0 and at most 1; try 0.1")
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers:
        repair = "leave it out, or set model.normalization: true for FlexUNet"
        raise UserError(f"model.batchnorm_momentum={momentum}, but this network has no BatchNorm; {repair}")
    for layer in layers:
        layer.momentum = momentum


def scale_rates(checkpoint: dict[str, Any], factor: float) -> None:
    """Multiply the learning rates in the state of a run by ``factor``, in place; weights and moments stay."""
    for optimizer in checkpoint.get("optimizer_states", []):
        for group in optimizer["param_groups"]:
            group |= {key: group[key] * factor for key in ("lr", "initial_lr", "max_lr", "min_lr") if key in group}
    for schedule in checkpoint.get("lr_schedulers", []):
        rates = {key: schedule[key] for key in ("base_lrs", "_last_lr") if key in schedule}
        schedule |= {key: [rate * factor for rate in values] for key, values in rates.items()}
