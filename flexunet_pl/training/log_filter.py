"""Silence warnings of Lightning that ask for no action."""

import logging
import warnings

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


def quieten_lightning() -> None:
    """Ignore warnings that need no action, and advertisements, for the rest of the process."""
    for message in NO_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("💡")
