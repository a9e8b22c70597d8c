"""Find a learning rate or a batch size for a network, a data set and a machine, with Lightning's Tuner."""

import math
from typing import Literal

import lightning
from lightning.pytorch.tuner.tuning import Tuner

from flexunet_pl.core.errors import UserError

Sought = Literal["learning_rate", "batch_size"]
FEWEST_STEPS = 20
SMALLEST_RATE, LARGEST_RATE = 1e-7, 1.0


def tuned(
    trainer: lightning.Trainer,
    model: lightning.LightningModule,
    datamodule: lightning.LightningDataModule,
    find: Sought,
    steps: int,
    largest_batch: int,
) -> str:
    """Search, and return what was found in words; the model is left as it was.

    The learning rate is the one of a range test (Smith, WACV 2017) where the loss falls fastest while the rate rises
    from 1e-7 to 1. The batch size is the largest power of two that trains without running out of memory.

    Args:
        trainer: Gets the callbacks of the search for a while; it should have no others that write.
        model: A task with the hyperparameter ``learning_rate``.
        datamodule: With the attribute ``batch_size``.
        find: What to look for.
        steps: Training steps of the range test, at least 20.
        largest_batch: Where the search for a batch size ends, at least 1.

    Raises:
        UserError: If a number is out of its range, or the losses of the range test suggest nothing.
    """
    tuner = Tuner(trainer)
    if find == "batch_size":
        if largest_batch < 1:
            raise UserError(f"--largest_batch {largest_batch} must be at least 1")
        trials = int(math.log2(largest_batch)) + 1
        size = tuner.scale_batch_size(model, datamodule=datamodule, init_val=1, max_trials=trials)
        why = "the largest power of two that was tried" if size == 2 ** (trials - 1) else "the largest that fits"
        return f"Batch size {size}: {why}.\nTo use it: --data.batch_size {size}"
    if steps < FEWEST_STEPS:
        raise UserError(f"--steps {steps} must be at least {FEWEST_STEPS}, as the first ten losses tell nothing")
    search = tuner.lr_find(
        model,
        datamodule=datamodule,
        min_lr=SMALLEST_RATE,
        max_lr=LARGEST_RATE,
        num_training=steps,
        update_attr=False,
    )
    rate = None if search is None else search.suggestion()
    if rate is None:
        raise UserError(f"--steps {steps} gave too few finite losses to suggest a learning rate; try more steps")
    return (
        f"Learning rate {rate:.2g}: where the loss fell fastest in {steps} steps.\n"
        f"To use it: --model.learning_rate {rate:.2g}"
    )
