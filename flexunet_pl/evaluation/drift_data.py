"""The images that a run was trained and validated with, read again after training."""

from pathlib import Path
from typing import Any

from flexunet_pl.core.types import Pair
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.manifest import MANIFEST_FILE, read_manifest
from flexunet_pl.data.sources import source_of
from flexunet_pl.training.data_paths import data_settings
from flexunet_pl.training.runs import FOLD, has_folds
from flexunet_pl.training.task import SegmentationTask

FOLDERS = ("root", *(f"{split}_{kind}" for split in ("train", "valid", "test") for kind in ("images", "masks")))
READING = ("fold", "antialiased_masks", "nearest_classes", "max_pixels")  # other keys of ``data`` that matter here


def data_of(task: SegmentationTask, checkpoint: Path, data: Path | None) -> SegmentationDataModule:
    """Return the data that a checkpoint was trained with, or those of the folder ``data``, as its images are read.

    Of an ensemble they are those of the first fold, whose network computes the score.

    Raises:
        UserError: If the run does not say which they are, or a folder does not exist.
    """
    settings = _settings(checkpoint.parent.parent) if data is None else {"root": str(data)}
    settings |= {key: task.hparams[key] for key in ("image_size", "resize", "sixteen_bit")}
    return SegmentationDataModule(**settings, channels=task.hparams["in_channels"], palette=task.palette.to_mapping())


def sources_of(module: SegmentationDataModule, pairs: list[Pair]) -> list[str]:
    """Return the group of sources of each pair: by the manifest of the data set, else by its name."""
    root = module.layout.root
    groups: dict[str, str] = {}
    if root is not None and (root / MANIFEST_FILE).is_file():
        groups = {str(root / row.file): row.group for row in read_manifest(root)}
    return [groups.get(str(pair.image), source_of(pair.name)) for pair in pairs]


def _settings(run: Path) -> dict[str, Any]:
    """Return the keys of ``data`` in the config of a run that say which images it used."""
    run = run / f"{FOLD}0" if has_folds(run) else run
    data = data_settings(run, "name them: drift RUN DATA")
    # Relative paths of a saved config are relative to its folder.
    folders = {key: str(run / data[key]) for key in FOLDERS if isinstance(data.get(key), str)}
    return folders | {key: data[key] for key in READING if data.get(key) is not None}
