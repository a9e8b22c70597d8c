"""Pretrained weights for FlexUNet from a file, all but the head."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.ranges import check_fields
from flexunet_pl.nn.encoder_weights import for_channels, read_weights
from flexunet_pl.nn.flexunet import GROUP_NORM, FlexUNet, FlexUNetSettings
from flexunet_pl.nn.weight_files import reading

KEY = "model.pretrained"
HEAD = "head."
PREFIXES = ("network.", "")  # of the names in checkpoints, and in files of a network alone
FIRST = "encoder.0.0.weight"
# Weights fit every rate of dropout, which is none of theirs.
FREE = ("dropout",)


@dataclass(frozen=True)
class FlexUNetOptions(FlexUNetSettings):
    """The settings of a FlexUNet, and where its training begins, which is no part of what the network is.

    Attributes:
        pretrained: Weights to begin with, a file of a FlexUNet (.ckpt, .safetensors, .pth). By default training begins
            with random weights.
    """

    pretrained: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_fields(self)

    @property
    def settings(self) -> FlexUNetSettings:
        """The settings of the network alone."""
        return FlexUNetSettings(**{field.name: getattr(self, field.name) for field in fields(FlexUNetSettings)})


def build_flexunet(num_classes: int, in_channels: int, options: FlexUNetOptions) -> FlexUNet:
    """Build a FlexUNet and load its pretrained weights, if any.

    Raises:
        UserError: If the weights are unknown or do not fit; see :func:`load_pretrained`.
    """
    network = FlexUNet(num_classes, in_channels, options.settings)
    if options.pretrained is not None:
        load_pretrained(network, options.pretrained)
    return network


def load_pretrained(network: FlexUNet, pretrained: str) -> None:
    """Load all weights but those of the head, which keeps its random ones.

    A first convolution for three channels is adapted to others, so that grey images given to all channels look the
    same.

    Args:
        network: The network; its buffers are loaded too.
        pretrained: A file; nothing in it is unpickled.

    Raises:
        UserError: If there is no such file, it holds no FlexUNet, or one of other settings, which are named.
    """
    path = Path(pretrained)
    weights = _without_prefix(read_weights(path, KEY))
    if FIRST not in weights:
        raise UserError(f"{KEY}={pretrained}: holds no FlexUNet ({FIRST} is missing); give a checkpoint of one")
    _check_settings(network, _shape_settings(weights) | _saved_settings(path), pretrained)
    needed = {key: value for key, value in network.state_dict().items() if not key.startswith(HEAD)}
    for key, value in needed.items():
        found = weights.get(key)
        found = None if found is None else for_channels(found.to(value.dtype), value)
        if found is None or found.shape != value.shape:
            there = "missing" if found is None else f"{list(found.shape)}, not {list(value.shape)}"
            raise UserError(f"{KEY}={pretrained}: {key} is {there}; give the weights of a FlexUNet of these settings")
        with torch.no_grad():
            value.copy_(found)


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = next((prefix for prefix in PREFIXES if prefix + FIRST in weights), "")
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _shape_settings(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings that the names and shapes of weights tell."""
    levels = {key.split(".")[1] for key in weights if key.startswith("encoder.")}
    is_batch_norm, is_normalized = "encoder.0.2.running_mean" in weights, "encoder.0.2.weight" in weights
    return {
        "base_filters": weights[FIRST].shape[0],
        "base_kernel": weights[FIRST].shape[-1],
        "num_layers": len(levels) + 1,
        "normalization": is_batch_norm or (GROUP_NORM if is_normalized else False),
    }


def _saved_settings(path: Path) -> dict[str, Any]:
    """Return the settings that a file states beside its weights: a checkpoint, or our .safetensors."""
    known = {field.name for field in fields(FlexUNetSettings)}
    with reading(f"{KEY}={path}", "weights", ""):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                stated = json.loads((file.metadata() or {}).get("network", "{}"))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            stated = content.get("hyper_parameters", {}).get("network", {}) if isinstance(content, Mapping) else {}
    return {key: value for key, value in stated.items() if key in known} if isinstance(stated, Mapping) else {}


def _check_settings(network: FlexUNet, theirs: Mapping[str, Any], pretrained: str) -> None:
    """Raise the UserError that names each setting in which weights and network differ."""
    ours = network.arguments
    wrong = [key for key, value in theirs.items() if key not in FREE and ours[key] != value]
    if wrong:
        listed = ", ".join(f"{key}={_text(ours[key])} instead of {_text(theirs[key])}" for key in wrong)
        repair = " ".join(f"--model.{key} {_text(theirs[key])}" for key in wrong)
        raise UserError(
            f"{KEY}={pretrained}: its weights are of another network: this one has {listed}; use {repair}, or leave "
            "pretrained out"
        )


def _text(value: Any) -> str:
    """Return a value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
