"""Send pictures to loggers, and check that the package of a logger is installed."""

import importlib.util
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import UInt8Array

PACKAGE_OF_LOGGER = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml"}


def log_picture(loggers: list[Logger], key: str, rgb: UInt8Array, step: int) -> None:
    """Log a picture uint8 (H, W, 3) with the loggers that take pictures: TensorBoard, W&B and MLflow."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, rgb, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(key, [rgb], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, rgb, key=key.replace("/", "-"), step=step)


def check_packages(loggers: list[Any]) -> None:
    """Check the loggers of a config before they are built, whose own error would not name the package.

    Raises:
        UserError: If the package of a logger is not installed.
    """
    for logger in loggers:
        name = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        package = PACKAGE_OF_LOGGER.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(f"trainer.logger: {name} needs the package {package}; pip install {package}")
