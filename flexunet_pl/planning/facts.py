"""The facts of a data set that a plan needs: sizes, channels, classes, defects and what is good."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair, raise_problems
from flexunet_pl.data.image_files import open_image
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE, Row, read_manifest
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.data.samples import (
    ReadingRules,
    array_shape,
    find_images,
    find_pairs,
    has_sixteen_bits,
    image_size,
    read_image,
    spread,
)
from flexunet_pl.data.sources import source_of
from flexunet_pl.planning.orientation import mirrored_classes, surface_direction
from flexunet_pl.planning.regions import RegionShape, region_shapes

# Enough to see what is typical; sizes are read of all files.
IMAGES_TO_READ = 48
MASKS_TO_READ = 400
# 16-bit values that fill at least this share of the range are read as they are, others are stretched image by image.
LEAST_RANGE = 0.25


@dataclass(frozen=True)
class Facts:
    """What a data set is like.

    Attributes:
        root: Folder with train, valid and perhaps test.
        palette: What class is what.
        images: Images of each split; with folds, those that train and validate are both in train.
        folds: Number of folds, 0 without.
        sizes: How many training images have each (height, width).
        channels: 1 if all images are grey, else 3, or what .npy images have.
        brightest: The largest value of 16-bit images that were read, 0 if all have 8 bits.
        moved: Blended mask pixels in the masks that were read.
        masks: How many masks were read.
        sources: Training sources that show each class, by class index.
        defective: Training images that show any defect.
        validates: Whether a validation image shows a defect.
        shapes: The regions of each class in the masks that were read, by class index, at native size.
        direction: How far the surface has one direction, 0..1.
    """

    root: Path
    palette: Palette
    images: Mapping[str, int]
    folds: int
    sizes: Mapping[tuple[int, int], int]
    channels: int
    brightest: int
    moved: int
    masks: int
    sources: Mapping[int, int]
    defective: int
    validates: bool
    shapes: Mapping[int, Sequence[RegionShape]] = field(repr=False)
    direction: float

    @cached_property
    def regions(self) -> list[RegionShape]:
        """All regions of all classes."""
        return [shape for shapes in self.shapes.values() for shape in shapes]

    @cached_property
    def thinnest(self) -> float | None:
        """The width in pixels that nine of ten defects exceed; None without a defect."""
        widths = [shape.width for shape in self.regions]
        return float(np.percentile(widths, 10)) if widths else None

    @cached_property
    def longest_side(self) -> int:
        """The median of the images' longer sides, in pixels."""
        return int(np.median([max(size) for size, count in self.sizes.items() for _ in range(count)]))

    @cached_property
    def shortest_side(self) -> int:
        """The median of the images' shorter sides, in pixels."""
        return int(np.median([min(size) for size, count in self.sizes.items() for _ in range(count)]))

    def exchanged(self, change: str) -> tuple[str, str] | None:
        """Return the names of two classes that ``flip`` or ``quarter`` would exchange, None if there are none."""
        found = mirrored_classes(self.shapes, change)
        return None if found is None else (self.palette.names[found[0]], self.palette.names[found[1]])


def facts_of(root: Path, palette: Palette) -> Facts:
    """Read what a plan needs of a data set with train and valid, or with folds.

    Raises:
        UserError: If a file cannot be read, or there is nothing to train with.
    """
    rows = {row.file: row for row in read_manifest(root)} if (root / MANIFEST_FILE).is_file() else {}
    pairs = _pairs(root, "train")
    sources, defective = _defective(root, pairs, rows)
    # Without a manifest only the masks say which images are good.
    chosen = spread(defective or pairs, MASKS_TO_READ) if rows else pairs
    shapes: dict[int, list[RegionShape]] = {}
    moved = 0
    shown: list[tuple[Pair, set[int]]] = []
    for pair in progress(chosen, "Measuring defects"):
        mask_index, blended = read_mask(pair.mask, palette, antialiased=True)
        moved += blended
        found = list(region_shapes(mask_index, len(palette)))
        shown.append((pair, {shape.index for shape in found}))
        for shape in found:
            shapes.setdefault(shape.index, []).append(shape)
    images, channels, brightest = _read_some(spread(pairs, IMAGES_TO_READ))
    if rows:
        of_class = {
            index: {row.group for row in rows.values() if row.split == "train" and row.pixels.get(name)}
            for index, name in enumerate(palette.names)
            if index
        }
    else:
        of_class = {
            index: {sources[pair.name] for pair, classes in shown if index in classes}
            for index in range(1, len(palette))
        }
    return Facts(
        root=root,
        palette=palette,
        images={split: len(find_images(root / split / "images")) for split in SPLITS if (root / split).is_dir()},
        folds=len({row.fold for row in rows.values() if row.fold is not None}),
        sizes=Counter(image_size(pair.image) for pair in pairs),
        channels=channels,
        brightest=brightest,
        moved=moved,
        masks=len(chosen),
        sources={index: len(found) for index, found in of_class.items()},
        defective=len(defective) if rows else sum(bool(classes) for _, classes in shown),
        validates=_validates(root, palette, rows),
        shapes=shapes,
        direction=surface_direction(images),
    )


def _pairs(root: Path, split: str) -> list[Pair]:
    pairs, problems = find_pairs(root / split / "images", root / split / "masks")
    raise_problems(problems, f"{root}: ", " in the data set")
    if not pairs:
        raise UserError(f"{root / split / 'images'}: no image here has a mask; add images and masks")
    return pairs


def _defective(root: Path, pairs: Sequence[Pair], rows: Mapping[str, Row]) -> tuple[dict[str, str], list[Pair]]:
    """Return the source of each name, and the pairs that show a defect as far as the manifest says."""
    row_of = {pair.name: rows.get(pair.image.relative_to(root).as_posix()) for pair in pairs}
    sources = {name: source_of(name) if row is None else row.group for name, row in row_of.items()}
    return sources, [pair for pair in pairs if (row := row_of[pair.name]) is None or row.classes]


def _validates(root: Path, palette: Palette, rows: Mapping[str, Row]) -> bool:
    """Return whether an image of valid, or with folds of any fold, shows a defect."""
    if rows:
        return any(row.classes for row in rows.values() if row.split == "valid" or row.fold is not None)
    if not (root / "valid").is_dir():
        return False
    masks = (read_mask(pair.mask, palette, antialiased=True)[0] for pair in _pairs(root, "valid"))
    return any(((mask > 0) & (mask < len(palette))).any() for mask in masks)


def _read_some(pairs: Sequence[Pair]) -> tuple[list[UInt8Array], int, int]:
    """Return some images, the channels that all of them need, and the brightest 16-bit value (0 without one)."""
    images: list[UInt8Array] = []
    channels, brightest = 1, 0
    for pair in pairs:
        if pair.image.suffix.lower() == ".npy":
            channels = array_shape(pair.image)[2]
            continue
        if has_sixteen_bits(pair.image):
            brightest = max(brightest, _brightest(pair.image))
        image = read_image(pair.image, ReadingRules(channels=3, sixteen_bit="full_range"))
        images.append(image)
        if (image[..., :1] != image).any():
            channels = max(channels, 3)
    return images, channels, brightest


def _brightest(path: Path) -> int:
    with open_image(path) as image:
        extrema = image.getextrema()
    values = [value for pair in extrema for value in (pair if isinstance(pair, tuple) else (pair,))]
    return int(max(values))
