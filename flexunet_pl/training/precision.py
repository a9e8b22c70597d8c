"""A Trainer that chooses its precision and can tune, and which precision `auto` means on this machine."""

import logging
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.connector import _PRECISION_INPUT  # type: ignore[attr-defined]  # Lightning has no public name for it

from flexunet_pl.training.tuning import Sought, tuned

logger = logging.getLogger(__name__)


class Trainer(lightning.Trainer):
    """Lightning's Trainer, with one more precision."""

    def __init__(self, *args: Any, precision: _PRECISION_INPUT | Literal["auto"] | None = None, **kwargs: Any) -> None:
        """Take what Lightning's Trainer takes.

        Args:
            *args: Lightning's.
            precision: One of Lightning's, or auto: bf16-mixed where this machine computes in bf16, else 32-true;
                validate, test and predict stay at 32-true, so that their scores are those of the exported model.
            **kwargs: Lightning's.
        """
        if precision == "auto":
            precision, reason = automatic_precision(str(kwargs.get("accelerator", "auto")))
            logger.info("Precision: %s; %s.", precision, reason)
        super().__init__(*args, precision=precision, **kwargs)

    def tune(
        self,
        model: lightning.LightningModule,
        datamodule: lightning.LightningDataModule,
        find: Sought = "learning_rate",
        steps: int = 100,
        largest_batch: int = 64,
    ) -> str:
        """Find a learning rate or a batch size for this network, data set and machine.

        Args:
            model: The task.
            datamodule: Its data.
            find: What to look for: learning_rate or batch_size.
            steps: Training steps of the search for a learning rate.
            largest_batch: Where the search for a batch size ends.
        """
        return tuned(self, model, datamodule, find, steps, largest_batch)


def automatic_precision(accelerator: str) -> tuple[Literal["bf16-mixed", "32-true"], str]:
    """Return Lightning's name of the precision to train with, and the reason in words.

    bf16 mixed precision where the hardware multiplies matrices in bf16: CPUs with AMX or AVX512-BF16, GPUs from Ampere
    on. Weights, optimizer and loss stay in float32.

    Args:
        accelerator: As for Lightning's Trainer: auto, cpu, gpu, cuda, mps ..
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"{name} computes in bf16"
        return "32-true", f"{name} does not compute in bf16"
    if accelerator not in ("auto", "cpu") or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "32-true", f"the accelerator {accelerator} is not known to gain by bf16"
    if feature := bf16_feature():
        return "bf16-mixed", f"this CPU has {feature}"
    return "32-true", "this CPU has neither AMX nor AVX512-BF16"


def bf16_feature() -> str | None:
    """Return what this CPU multiplies bf16 matrices with, None if with nothing."""
    # torch has no public name for these.
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None
