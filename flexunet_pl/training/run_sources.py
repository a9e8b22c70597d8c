"""Which sources the images of a run come from: by the manifest of its data set, else by their names."""

from collections.abc import Sequence

import numpy as np

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.balance import counts_in_manifest
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.manifest import MANIFEST_FILE, Row, read_manifest
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX
from flexunet_pl.data.sources import source_of

MOST_MASKS = 200  # that are read at the end of a run where no manifest says which classes they show


def validation_groups(datamodule: SegmentationDataModule, indices: Sequence[int]) -> list[str]:
    """Return the group of validation images, given by their places in the split."""
    pairs, rows = datamodule.pairs("valid"), _manifest(datamodule)
    chosen = [pairs[index] for index in indices]
    return [rows[str(pair.image)].group if str(pair.image) in rows else source_of(pair.name) for pair in chosen]


def training_sources(datamodule: SegmentationDataModule) -> dict[int, int]:
    """Return from how many sources the training images of each class come, by the class' index.

    Empty if no manifest says which classes they show, and there are too many masks to read.
    """
    pairs, rows = datamodule.pairs("train"), _manifest(datamodule)
    root, palette, rules = datamodule.layout.root, datamodule.palette, datamodule.rules
    counts = None
    if rows and root is not None:
        counts = counts_in_manifest(root, [pair.image for pair in pairs], palette)
    if counts is None:
        if len(pairs) > MOST_MASKS:
            return {}
        # Not count_masks, whose own bar would stand in that of the run.
        masks = (read_mask(pair.mask, palette, rules.antialiased_masks, rules.max_pixels)[0] for pair in pairs)
        counts = np.array([np.bincount(mask.reshape(-1), minlength=IGNORE_INDEX + 1) for mask in masks])
    sources = [rows[str(pair.image)].source if str(pair.image) in rows else source_of(pair.name) for pair in pairs]
    return {
        index: len({source for source, pixels in zip(sources, counts[:, index], strict=True) if pixels})
        for index in range(1, len(palette))
    }


def _manifest(datamodule: SegmentationDataModule) -> dict[str, Row]:
    """Return the lines of the manifest by the path of the image; none if there is no manifest that can be read."""
    root = datamodule.layout.root
    if root is None or not (root / MANIFEST_FILE).is_file():
        return {}
    try:
        return {str(root / row.file): row for row in read_manifest(root)}
    except UserError:
        return {}
