"""The data sets of drift.py: one class is left out of training, and all images that show it are kept apart."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from comparison_sets import prepared_split
from one_source import pairs_of, write_split

from flexunet_pl.core.types import Pair
from flexunet_pl.data.balance import count_masks
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.palette import Palette

UNKNOWN = "unknown"  # the split of the images that show the class left out
LEFT_OUT = {
    "magnets": ("Blowhole", "Fray"),
    "tile": ("oil", "glue_strip"),
    "wood": ("liquid", "hole"),
    "screw": ("manipulated_front", "thread_side"),
}


def left_out_set(name: str, unknown: str, data: Path, out: Path) -> Path:
    """Return a data set with ``train`` and ``valid`` without the class ``unknown``, and the split UNKNOWN with it.

    Sources are split as ``compare.py`` splits them with seed 0; the palette still has the class.

    Raises:
        UserError: If the set is not in ``data``.
    """
    target = out / f"{name}-without-{unknown}"
    if (target / PALETTE_FILE).is_file():
        return target
    whole = prepared_split(name, 0, data, out)
    palette = Palette.load(whole / PALETTE_FILE)
    shutil.rmtree(target, ignore_errors=True)
    shown: list[Pair] = []
    for split in ("train", "valid"):
        pairs = pairs_of(whole, split)
        shows = shows_class(pairs, palette, unknown)
        write_split([pair for pair, is_shown in zip(pairs, shows, strict=True) if not is_shown], target / split)
        shown += [pair for pair, is_shown in zip(pairs, shows, strict=True) if is_shown]
    write_split(shown, target / UNKNOWN)
    shutil.copy(whole / PALETTE_FILE, target)  # last: a folder with it is complete
    return target


def shows_class(pairs: Sequence[Pair], palette: Palette, name: str | None = None) -> list[bool]:
    """Return for each pair whether its mask has a pixel of the class ``name``, or of any but the background."""
    counts = np.array(count_masks([pair.mask for pair in pairs], palette, antialiased=False))
    columns = slice(1, None) if name is None else [palette.names.index(name)]
    return [bool(row.any()) for row in counts[:, columns]]
