"""Whether the size of training images fits a network."""

from collections.abc import Mapping
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.datamodule import SegmentationDataModule


def check_training_size(step: int, network: Mapping[str, Any], datamodule: SegmentationDataModule) -> None:
    """Raise a UserError if the size of training images is no multiple of a network's total downsampling.

    Args:
        step: The total downsampling.
        network: Name and settings of the network.
        datamodule: The data.
    """
    size = datamodule.training_size
    if size is None or all(side % step == 0 for side in size):
        return
    key = "image_size" if datamodule.crop_size is None else "crop_size"
    fitting = [-(-side // step) * step for side in size]
    sides, repaired = (sizes[0] if sizes[0] == sizes[1] else list(sizes) for sizes in (size, fitting))
    which = f"num_layers={network['num_layers']}" if "num_layers" in network else f"network={network['name']}"
    raise UserError(f"data.{key}={sides} must be a multiple of {step} to train this network ({which}); try {repaired}")
