"""Read checkpoints that may come from anywhere."""

from pathlib import Path
from typing import Any

import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.renamed import current_hyper_parameters
from flexunet_pl.nn.networks import nested_settings
from flexunet_pl.nn.weight_files import reading


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
    content["hyper_parameters"] = nested_settings(current_hyper_parameters(settings))
    return content
