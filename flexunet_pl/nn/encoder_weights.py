"""Weights for the encoder of a zoo network from a file of any of the usual kinds, never unpickled."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.efficientnet_names import timm_names
from flexunet_pl.nn.weight_files import reading

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Where files keep the weights, if not at the top.
CONTAINERS = ("state_dict", "model_state_dict", "state_dict_ema", "model")
# What may stand before the names of an encoder's weights: nothing, this package, segmentation-models-pytorch, others.
PREFIXES = ("", "network.model.encoder.", "model.encoder.", "encoder.", "model.", "module.", "backbone.")
# How timm names the layers of a model used as features: "stages.0.x" becomes "stages_0.x", and smp adds "model.".
SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: f"model.{name}",
    lambda name: "model." + name.replace(".", "_", 1),
)


def is_file(encoder_weights: str) -> bool:
    """Return whether a setting is a file, not the name of published weights."""
    return "/" in encoder_weights or encoder_weights.endswith(SUFFIXES) or Path(encoder_weights).is_file()


def load_encoder_weights(encoder: nn.Module, path: str, name: str) -> None:
    """Load weights from a file into an encoder; the rest of the file, such as a classifier, is ignored.

    A first layer for three channels is adapted to others: its weights are repeated in turn and scaled, so that grey
    images given to all channels look the same.

    Args:
        encoder: The encoder; its buffers are loaded too.
        path: A file of safetensors, or one that torch.save wrote; the latter is read without unpickling anything.
        name: The encoder's name, for messages.

    Raises:
        UserError: If the file does not exist, is damaged, or lacks weights of this encoder.
    """
    weights = read_weights(Path(path))
    needed = encoder.state_dict()
    found = max(_candidates(weights, needed), key=len)
    found = {key: for_channels(value, needed[key]) for key, value in found.items()}
    # Batch counters matter only in training, and older files lack them.
    missing = [key for key in needed if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"model.encoder_weights={path}: holds {len(needed) - len(missing)} of the {len(needed)} weights of the "
            f"encoder {name!r}; the first one missing is {missing[0]!r}. Give the file of that encoder, or name "
            "another in model.encoder"
        )
    for key, value in found.items():
        if value.shape != needed[key].shape:
            raise UserError(
                f"model.encoder_weights={path}: {key} is {list(value.shape)} in the file and "
                f"{list(needed[key].shape)} in the encoder {name!r}; name the file's encoder in model.encoder"
            )
    with torch.no_grad():
        for key, value in found.items():
            needed[key].copy_(value)


def read_weights(path: Path, key: str = "model.encoder_weights") -> dict[str, Tensor]:
    """Return the tensors of a file by name; no code in the file is run. ``key`` stands in messages.

    Raises:
        UserError: If the file does not exist, is damaged or holds none.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: this file does not exist; check the path")
    repair = ", or hold objects, which are never unpickled: save the state_dict alone"
    with reading(f"{key}={path}", "weights", repair):
        is_safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    tensors = content.items() if isinstance(content, Mapping) else ()
    weights = {name: value for name, value in tensors if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{key}={path}: holds no weights by name; save the state_dict of a model")
    return weights


def _candidates(weights: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return, for each way to read the names in a file, the weights that are needed."""
    candidates = []
    for prefix in PREFIXES:
        inner = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        spelt = [{spell(key): value for key, value in inner.items()} for spell in SPELLINGS]
        for named in (*spelt, timm_names(inner, needed)):
            candidates.append({key: value for key, value in named.items() if key in needed})
    return candidates


def for_channels(weight: Tensor, needed: Tensor) -> Tensor:
    """Adapt the weight (O, 3, k, k) of a first convolution to the channels of ``needed`` (O, C, k, k)."""
    if weight.ndim != 4 or weight.shape[1] != 3 or weight.shape[0] != needed.shape[0] or needed.shape[1] == 3:
        return weight
    channels = needed.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)
