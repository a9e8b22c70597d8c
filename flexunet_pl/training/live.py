"""The callbacks that every run has, which tell how it goes and keep its record."""

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback

from flexunet_pl.training.progress import EpochLine
from flexunet_pl.training.run_page import RunPage
from flexunet_pl.training.run_recorder import RunRecorder
from flexunet_pl.training.run_status import RunStatus


def live_callbacks(trainer: Namespace) -> list[Callback]:
    """Return new callbacks for the Trainer of a config; the page comes after the record, which it shows.

    Lightning refuses both where checkpoints are switched off, since they are checkpoint callbacks.
    """
    if trainer.barebones:
        return []
    if trainer.enable_checkpointing is False:
        return [RunStatus(), EpochLine()]
    return [RunStatus(), EpochLine(), RunRecorder(), RunPage()]
