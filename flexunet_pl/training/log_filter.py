"""Leave out what Lightning prints and warns of without need, and count what it repeats."""

import logging
import re
import warnings

from flexunet_pl.core import console

NO_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own use of torch
    r".*custom batch sampler `ShardedBatches`.*",  # it returns every image once, as a test checks
    r".*when using `ckpt_path`, callbacks used to create the checkpoint.*",  # evaluation needs none of them
    r".*does not have many workers.*",  # data.num_workers is the user's choice
    r".*number of training batches .* is smaller than the logging interval.*",
    r".*your dataloader is not resumable.*",  # EpochBatches goes on with the next batch, as a test checks
    r".*The dirpath has changed.*",  # a new run that starts from another run's checkpoint has its own best
    r".*Precision .* is not supported by the model summary.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True\)`.*",  # what is logged is the same in all processes
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
)
# Lines to leave out, by the logger they come from; each fits a whole message.
NO_LINES = {
    "lightning.fabric.utilities.seed": (r"(\[rank: \d+\] )?Seed set to \d+",),  # config.yaml holds it
    "lightning.fabric.utilities.distributed": (r"Initializing distributed: GLOBAL_RANK: .*",),
    "lightning.pytorch.accelerators.cuda": (r"LOCAL_RANK: \d+ - CUDA_VISIBLE_DEVICES: .*",),
    "lightning.pytorch.trainer.connectors.checkpoint_connector": (r"`weights_only` was not set, defaulting to .*",),
    "lightning.pytorch.tuner.batch_size_scaling": (r"Finished batch size finder, will continue with full run .*",),
    "lightning.pytorch.utilities.rank_zero": (
        r"TPU available: False, using: 0 TPU cores",
        r"💡 Tip: For seamless cloud .* try installing \[lit\w+\].*",  # litlogger and litmodels
        r"-+\ndistributed_backend=\w+\nAll distributed processes registered\. .*\n-+\n",
        r"Loading `train_dataloader` to estimate number of stepping batches\.",
        r"Trainer already configured with model summary callbacks: .*NetworkSize.*",  # ours
        r"Restoring states from the checkpoint path at .*",  # another line follows when it is done
        r"Restored all states from the checkpoint at .*[/\\]\.(lr_find|scale_batch_size)_.*",  # a temporary file
    ),
}


def quieten_lightning() -> None:
    """Leave out lines and warnings that need no action for the rest of the process.

    Of several processes on a machine, only the first warns.
    """
    for message in NO_WARNINGS:
        warnings.filterwarnings("ignore", message)
    if not console.is_first_process():
        warnings.simplefilter("ignore")
    for name in NO_LINES:
        logging.getLogger(name).addFilter(_is_new)


def _is_new(record: logging.LogRecord) -> bool:
    """Return whether to print a line: one that is wanted, and has not been printed before."""
    message = record.getMessage()
    if any(re.fullmatch(pattern, message) for pattern in NO_LINES[record.name]):
        return False
    return console.is_first(message)
