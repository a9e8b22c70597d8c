"""Read checkpoints that may come from anywhere, and write them atomically."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes
from flexunet_pl.core.ranges import shortened
from flexunet_pl.core.renamed import current_hyper_parameters
from flexunet_pl.nn.networks import nested_settings
from flexunet_pl.nn.weight_files import reading
from flexunet_pl.nn.zoo import ZOO


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint on the CPU; no code in the file is run.

    Raises:
        UserError: If the file does not exist, is damaged, or is no checkpoint of this package.
    """
    if not path.is_file():
        raise UserError(f"{path}: this checkpoint does not exist; check the path")
    with reading(str(path), "a checkpoint", " or another kind of file"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise UserError(f"{path}: is no checkpoint of flexunet_pl (weights or hyperparameters are missing)")
    if not isinstance(settings := content["hyper_parameters"], dict):
        raise UserError(f"{path}: its hyperparameters are {type(settings).__name__}, not a map; the file is damaged")
    if not all(isinstance(key, str) for key in settings):
        raise UserError(f"{path}: its hyperparameters have keys that are no text; the file is damaged")
    network = settings.get("network", "flexunet")
    if not isinstance(network.get("name") if isinstance(network, dict) else network, str):
        raise UserError(f"{path}: its network={shortened(network)} must be a name, or a map of name and settings")
    current = nested_settings({"network": "flexunet"} | current_hyper_parameters(settings))
    if current["network"]["name"] in ZOO:
        # Written before there was such a head, and one rate for all weights.
        current["network"].setdefault("defect_head", False)
        current["network"].setdefault("defect_gate", False)
        current.setdefault("encoder_rate", 1.0)
    content["hyper_parameters"] = current
    return content


class AtomicCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its place, flush it to the disk, then rename it.

    Lightning's own way goes through the folder for temporary files, so that on another disk it is a copy, which a full
    disk or a kill cuts short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; UserError if the disk is full or the folder cannot be written to."""
        if "://" in str(path):  # a remote file system
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())
