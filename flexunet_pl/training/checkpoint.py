"""Read checkpoints that may come from anywhere."""

import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from flexunet_pl.core.errors import UserError

# What torch's unpickler raises on files that are no checkpoints: it follows whatever their bytes say.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint on the CPU; no code in the file is run.

    Raises:
        UserError: If the file does not exist, is damaged, or is no checkpoint of this package.
    """
    if not path.is_file():
        raise UserError(f"{path}: this checkpoint does not exist; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd files before it raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as a checkpoint ({reason}); it may be damaged or another kind of file"
        ) from error
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise UserError(f"{path}: is no checkpoint of flexunet_pl (weights or hyperparameters are missing)")
    return content
