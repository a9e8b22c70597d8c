"""Whether the images of a data set can train a network: their size must survive its halving."""

from collections.abc import Mapping
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.datamodule import SegmentationDataModule


def check_training_size(datamodule: SegmentationDataModule, settings: Mapping[str, Any], step: int) -> None:
    """Check that the size of training images is a multiple of what the network halves it by.

    Args:
        datamodule: Has the size.
        settings: Of the network, for the message: ``network`` and ``num_layers``.
        step: The multiple.

    Raises:
        UserError: If it is not; the message names the next size.
    """
    size = datamodule.training_size
    if size is None or all(side % step == 0 for side in size):
        return
    key = "image_size" if datamodule.crop_size is None else "crop_size"
    fitting = [-(-side // step) * step for side in size]
    sides, repaired = (sizes[0] if sizes[0] == sizes[1] else list(sizes) for sizes in (size, fitting))
    name, levels = settings["network"], settings["num_layers"]
    which = f"network={name}" if levels is None else f"num_layers={levels}"
    raise UserError(f"data.{key}={sides} must be a multiple of {step} to train this network ({which}); try {repaired}")
