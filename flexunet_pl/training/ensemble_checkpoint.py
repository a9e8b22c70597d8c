"""One checkpoint of several: a model whose probabilities are the mean of theirs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_path
from flexunet_pl.nn.networks import ENSEMBLE, MEMBERS
from flexunet_pl.training.checkpoint import read_checkpoint
from flexunet_pl.training.task import SegmentationTask

# Settings in which the checkpoints may differ: each network has its own, and each fold counts its own pixels.
OWN_SETTINGS = ("network", "class_weights")
# What Lightning reads of a checkpoint that is not resumed.
KEPT = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "hyper_parameters")
NETWORK = "network."


def write_ensemble(checkpoints: Sequence[Path], path: Path) -> None:
    """Write the checkpoint of an ensemble, load it, and only then give it its name; its settings are the first's.

    Raises:
        UserError: If a checkpoint cannot be read, or its palette or another setting differs from the first's.
    """
    parts = [read_checkpoint(checkpoint) for checkpoint in checkpoints]
    first = parts[0]
    for checkpoint, part in zip(checkpoints, parts, strict=True):
        _check_alike(checkpoint, part["hyper_parameters"], first["hyper_parameters"], checkpoints[0])
    members = [part["hyper_parameters"]["network"] for part in parts]
    weights = {key: tensor for key, tensor in first["state_dict"].items() if not key.startswith(NETWORK)}
    for number, part in enumerate(parts):
        own = {key: tensor for key, tensor in part["state_dict"].items() if key.startswith(NETWORK)}
        weights |= {f"{NETWORK}{MEMBERS}.{number}.{key.removeprefix(NETWORK)}": own[key] for key in own}
    settings = first["hyper_parameters"] | {"network": {"name": ENSEMBLE, MEMBERS: members}}
    content: dict[str, Any] = {key: first[key] for key in KEPT if key in first}
    content |= {"callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    with atomic_path(path) as temporary:
        torch.save(content | {"state_dict": weights, "hyper_parameters": settings}, temporary)
        SegmentationTask.from_checkpoint(temporary)


def _check_alike(path: Path, settings: dict[str, Any], first: dict[str, Any], first_path: Path) -> None:
    for key in settings.keys() | first.keys():
        if key not in OWN_SETTINGS and settings.get(key) != first.get(key):
            raise UserError(
                f"{path}: has {key}={settings.get(key)}, but {first_path} has {first.get(key)}; the networks of an "
                "ensemble are trained alike: train one of them again"
            )
