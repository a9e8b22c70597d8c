"""A Trainer with the precision `auto`, checkpoints that are whole, a time-out for processes, and the command tune."""

import logging
import math
import os
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.connector import _PRECISION_INPUT  # type: ignore[attr-defined]  # Lightning has no public name for it
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.tuner.tuning import Tuner

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.ranges import shortened
from flexunet_pl.training.checkpoint import AtomicCheckpoints
from flexunet_pl.training.processes import with_timeout

FEWEST_STEPS = 20  # of a search for a learning rate
MOST_DEVICES = 1024

logger = logging.getLogger(__name__)


class Trainer(lightning.Trainer):
    """Lightning's Trainer, with one more precision, a time-out, and checkpoints that appear whole or not at all."""

    def __init__(
        self,
        *args: Any,
        precision: _PRECISION_INPUT | Literal["auto"] | None = None,
        collective_timeout: float = 300.0,
        **kwargs: Any,
    ) -> None:
        """Accept the arguments of Lightning's Trainer.

        Args:
            *args: Lightning's.
            precision: One of Lightning's, or auto: bf16-mixed where this machine computes in bf16, else 32-true;
                validate, test and predict stay at 32-true, so that their scores are those of the exported model.
            collective_timeout: Seconds that one process of a run waits for another, with the strategy ddp.
            **kwargs: Lightning's.
        """
        if precision == "auto":
            precision, reason = automatic_precision(str(kwargs.get("accelerator", "auto")))
            logger.info("Precision: %s; %s.", precision, reason)
        _check_gpu(kwargs.get("accelerator"))
        _check_devices(kwargs.get("devices"), MOST_DEVICES)
        _adapt(kwargs, collective_timeout)
        super().__init__(*args, precision=precision, **kwargs)
        # With max_steps, Lightning would end the epoch of the checkpoint once more when a run is resumed.
        self.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
        if isinstance(self.accelerator, CPUAccelerator):
            _check_devices(self.num_devices, 4 * max(4, os.cpu_count() or 1))

    def tune(
        self,
        model: lightning.LightningModule,
        datamodule: lightning.LightningDataModule,
        find: Literal["learning_rate", "batch_size"] = "learning_rate",
        steps: int = 100,
        largest_batch: int = 64,
    ) -> str:
        """Find a learning rate or a batch size for this network, data set and machine; return it as text.

        The learning rate is the one of a range test (Smith, WACV 2017) where the loss falls fastest while the rate
        rises from 1e-7 to 1. The batch size is the largest power of two that trains without running out of memory.
        The Trainer should have no callbacks that write; the model does not change.

        Args:
            model: The task.
            datamodule: Its data.
            find: learning_rate or batch_size.
            steps: Training steps of the search for a learning rate, at least 20.
            largest_batch: The largest batch size to try, at least 1.

        Raises:
            UserError: If a number is out of its range, or the losses of the range test suggest nothing.
        """
        tuner = Tuner(self)
        if find == "batch_size":
            if largest_batch < 1:
                raise UserError(f"--largest_batch {largest_batch} must be at least 1")
            trials = int(math.log2(largest_batch)) + 1
            size = tuner.scale_batch_size(model, datamodule=datamodule, init_val=1, max_trials=trials)
            why = "the largest power of two that was tried" if size == 2 ** (trials - 1) else "the largest that fits"
            return f"Batch size {size}: {why}.\nTo use it: --data.batch_size {size}"
        if steps < FEWEST_STEPS:
            raise UserError(f"--steps {steps} must be at least {FEWEST_STEPS}, as the first ten losses are skipped")
        search = tuner.lr_find(
            model, datamodule=datamodule, min_lr=1e-7, max_lr=1.0, num_training=steps, update_attr=False
        )
        rate = None if search is None else search.suggestion()
        if rate is None:
            raise UserError(f"--steps {steps} gave too few finite losses to suggest a learning rate; try more steps")
        return (
            f"Learning rate {rate:.2g}: where the loss fell fastest in {steps} steps.\n"
            f"To use it: --model.learning_rate {rate:.2g}"
        )


def _adapt(options: dict[str, Any], timeout: float) -> None:
    """Add the time-out and the way to write checkpoints to the options of a Trainer, in place."""
    options["strategy"] = with_timeout(options.get("strategy", "auto"), timeout)
    plugins = options.get("plugins") or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        options["plugins"] = [*plugins, AtomicCheckpoints()]


def _check_gpu(accelerator: Any) -> None:
    """Refuse an accelerator of another machine, as configs/multi_gpu.yaml asks for."""
    is_there = {
        "gpu": torch.cuda.is_available() or torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
    }
    if isinstance(accelerator, str) and not is_there.get(accelerator, True):
        raise UserError(
            f"trainer.accelerator={accelerator}: PyTorch {torch.__version__} finds no GPU on this machine; leave it "
            "out, or the config that sets it, to train on the CPU"
        )


def _check_devices(devices: Any, most: int) -> None:
    """Refuse more processes than a machine can hold; other mistakes are found by Lightning."""
    number = int(devices) if isinstance(devices, str) and devices.strip().isdecimal() else devices
    if isinstance(number, int) and number > most:
        raise UserError(f"trainer.devices={shortened(devices)} must be at most {most} on this machine")


def automatic_precision(accelerator: str) -> tuple[Literal["bf16-mixed", "32-true"], str]:
    """Return Lightning's name of the precision to train with, and the reason.

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
        return "32-true", f"the accelerator {accelerator} is not known to be faster in bf16"
    if feature := bf16_feature():
        return "bf16-mixed", f"this CPU has {feature}"
    return "32-true", "this CPU has neither AMX nor AVX512-BF16"


def bf16_feature() -> str | None:
    """Return the bf16 instructions of this CPU, None if it has none."""
    # torch has no public name for these.
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None
