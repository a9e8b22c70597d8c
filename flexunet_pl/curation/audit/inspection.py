"""Read one image and its mask: problems, class pixels, regions and appearance."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import label as connected

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair, Problem, collected
from flexunet_pl.curation.appearance import Appearance, appearance_of
from flexunet_pl.curation.conversion import read_any_image
from flexunet_pl.data.manifest import count_pixels, sha256_of
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, Palette, UInt8Array
from flexunet_pl.data.samples import size_problems

ERROR, WARNING, NOTE = "error", "warning", "note"
# Pixels that touch at a corner belong to one region, as a thin crack needs it.
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class Inspection:
    """What reading an image and its mask gave.

    Attributes:
        split: The split it is in.
        file: The image, relative to the root, with slashes.
        mask: The mask, relative to the root, with slashes.
        name: The stem they share.
        size: (height, width) of the image, None if it cannot be read.
        sha256: Of the image file.
        pixels: Number of pixels of each class; empty if the mask cannot be read.
        areas: Pixels of each region of each foreground class.
        blended: Number of mask pixels with a colour between palette colours.
        findings: The problems found.
    """

    split: str
    file: str
    mask: str
    name: str
    size: tuple[int, int] | None = None
    sha256: str = ""
    pixels: Mapping[str, int] = field(default_factory=dict)
    areas: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    blended: int = 0
    findings: tuple[Problem, ...] = ()


def inspect(root: Path, split: str, pair: Pair, palette: Palette, look: bool) -> tuple[Inspection, Appearance | None]:
    """Read an image and its mask once; with ``look``, return its appearance too."""
    file, mask = (path.relative_to(root).as_posix() for path in (pair.image, pair.mask))
    findings: list[Problem] = []
    image: UInt8Array | None = None
    mask_index: UInt8Array | None = None
    blended = 0
    with collected(findings, "unreadable", (file,)):
        image = read_any_image(pair.image)
    try:
        mask_index, blended = read_mask(pair.mask, palette, antialiased=True)
    except UserError as error:
        kind = "unreadable" if "cannot be read" in str(error) else "off-palette"
        findings.append(Problem(str(error), kind=kind, files=(mask,)))
    if blended:
        what = _where_blended(pair.mask, palette, blended)
        findings.append(Problem(what, mask, kind="blended", severity=WARNING, files=(mask,)))
    if image is not None and mask_index is not None:
        for problem in size_problems(pair.image, image.shape[:2], mask_index.shape):
            findings.append(replace(problem, kind="size", files=(file, mask)))
    inspection = Inspection(
        split=split,
        file=file,
        mask=mask,
        name=pair.name,
        size=None if image is None else (image.shape[0], image.shape[1]),
        sha256=sha256_of(pair.image),
        pixels={} if mask_index is None else count_pixels(mask_index, palette),
        areas={} if mask_index is None else region_areas(mask_index, palette),
        blended=blended,
        findings=tuple(findings),
    )
    return inspection, appearance_of(image) if look and image is not None else None


def region_areas(mask_index: UInt8Array, palette: Palette) -> dict[str, tuple[int, ...]]:
    """Return the pixels of each connected region of each foreground class that occurs in a mask uint8 (H, W)."""
    areas = {}
    for index in np.flatnonzero(np.bincount(mask_index.reshape(-1), minlength=IGNORE_INDEX + 1)).tolist():
        if 0 < index < len(palette):
            regions, _ = connected(mask_index == index, structure=EIGHT_NEIGHBOURS)
            areas[palette.names[index]] = tuple(np.bincount(regions.reshape(-1))[1:].tolist())
    return areas


def _where_blended(path: Path, palette: Palette, count: int) -> str:
    """Say how many pixels have a colour between palette colours, and where the first one is."""
    mask_rgb = read_any_image(path)
    row, column = np.argwhere(palette.encode(mask_rgb)[1])[0].tolist()
    color = mask_rgb[row, column].tolist()
    return f"{count:,} pixels have blended colours, first at row {row}, column {column} ({color})"
