"""Samples made from several: defects copied over, mosaics. Their partners must show the same kind of surface."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flexunet_pl.data.augment.crop import Window, foreground_classes, padded
from flexunet_pl.data.augment.kinds import Mix, Partner, Planes, UInt8Array, register_transform
from flexunet_pl.data.augment.options import draw, interval, number
from flexunet_pl.data.augment.smoothing import convolved, gaussian_weights

PARTNERS_TRIED = 3
# Pixels around a defect that give the colour of the surface.
SURFACE_MARGIN = 8

BoolArray = npt.NDArray[np.bool_]


@register_transform("mosaic")
class Mosaic(Mix):
    """Divide the picture into four about a random point: one part stays, three come from partners.

    The dividing lines are at a share ``split`` of height and width.
    """

    split: tuple[float, float] = interval((0.25, 0.75), 0, 1)

    def mix(self, image: UInt8Array, mask: UInt8Array, partner: Partner, rng: np.random.Generator) -> Planes:
        """Draw the point, which part stays, and from where in each partner the others come."""
        height, width = mask.shape
        row, column = round(draw(rng, self.split) * height), round(draw(rng, self.split) * width)
        parts = [
            Window(top, left, bottom - top, right - left)
            for top, bottom in ((0, row), (row, height))
            for left, right in ((0, column), (column, width))
        ]
        mixed_image, mixed_mask = np.array(image), np.array(mask)
        staying = int(rng.integers(len(parts)))
        for number_of_part, part in enumerate(parts):
            if number_of_part == staying or part.height == 0 or part.width == 0:
                continue
            other_image, other_mask = padded(*partner(), part.height, part.width)
            top = int(rng.integers(other_mask.shape[0] - part.height + 1))
            left = int(rng.integers(other_mask.shape[1] - part.width + 1))
            part_image, part_mask = part.cut(mixed_image, mixed_mask)
            part_image[:], part_mask[:] = Window(top, left, part.height, part.width).cut(other_image, other_mask)
        return mixed_image, mixed_mask


@register_transform("copy_paste")
class CopyPaste(Mix):
    """Copy the defect pixels of one class of a partner to a random place, mirrored by chance.

    The patch is shifted in colour by the difference between the two surfaces, and fades out over ``feather`` pixels
    about the defect; the mask gets the defect's class on the defect's own pixels alone. If a partner has no defect,
    up to two more are asked for.
    """

    feather: float = number(3, 0, 50)

    def mix(self, image: UInt8Array, mask: UInt8Array, partner: Partner, rng: np.random.Generator) -> Planes:
        """Draw a partner, a class among its foreground, a mirroring and a place."""
        for _ in range(PARTNERS_TRIED):
            donor_image, donor_mask = partner()
            classes = foreground_classes(donor_mask)
            if len(classes):
                break
        else:
            return image, mask
        class_index = rng.choice(classes)
        patch, patch_mask = self._patch(donor_image, donor_mask, donor_mask == class_index, mask.shape, rng)
        defect = patch_mask == class_index
        height, width = defect.shape
        target = Window(
            int(rng.integers(mask.shape[0] - height + 1)), int(rng.integers(mask.shape[1] - width + 1)), height, width
        )
        mixed_image, mixed_mask = np.array(image), np.array(mask)
        target_image, target_mask = target.cut(mixed_image, mixed_mask)
        surface = (patch_mask == 0) & (target_mask == 0)
        target_image[:] = _blended(target_image, patch, surface, self._weight(defect))
        target_mask[defect] = class_index
        return mixed_image, mixed_mask

    def _patch(
        self, image: UInt8Array, mask: UInt8Array, defect: BoolArray, most: tuple[int, ...], rng: np.random.Generator
    ) -> Planes:
        """Cut out the box about ``defect`` (H, W) with a margin, at most as large as ``most``, mirrored by chance."""
        margin = max(math.ceil(self.feather), SURFACE_MARGIN)
        top, height = _extent(np.any(defect, axis=1), margin, most[0], rng)
        left, width = _extent(np.any(defect, axis=0), margin, most[1], rng)
        patch, patch_mask = Window(top, left, height, width).cut(image, mask)
        if rng.random() < 0.5:
            patch, patch_mask = patch[:, :, ::-1], patch_mask[:, ::-1]
        if rng.random() < 0.5:
            patch, patch_mask = patch[:, ::-1], patch_mask[::-1]
        return patch, patch_mask

    def _weight(self, defect: BoolArray) -> npt.NDArray[np.float32]:
        """Return float32 (H, W): 1 on the defect, falling to 0 over ``feather`` pixels about it."""
        weight = defect.astype(np.float32)
        if self.feather > 0:
            halo = convolved(torch.from_numpy(weight), gaussian_weights(self.feather / 2)).numpy()
            weight = np.maximum(weight, np.minimum(1, 2 * halo))
        return weight


def _extent(occupied: npt.NDArray[Any], margin: int, most: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return start and length, at most ``most``, of the stretch of ``occupied`` (N,) with ``margin`` either side."""
    places = np.flatnonzero(occupied)
    first, last = max(0, int(places[0]) - margin), min(len(occupied) - 1, int(places[-1]) + margin)
    length = last - first + 1
    if length > most:
        first += int(rng.integers(length - most + 1))
        length = most
    return first, length


def _blended(below: UInt8Array, patch: UInt8Array, surface: BoolArray, weight: npt.NDArray[np.float32]) -> UInt8Array:
    """Lay ``patch`` over ``below``, uint8 (C, H, W) each, by ``weight`` (H, W), shifted to its mean on ``surface``."""
    shift = np.zeros(len(patch), dtype=np.float32)
    if surface.any():
        shift = (below[:, surface].mean(axis=1) - patch[:, surface].mean(axis=1)).astype(np.float32)
    lower = below.astype(np.float32)
    mixed = lower + weight * (patch + shift[:, None, None] - lower)
    blended: UInt8Array = np.rint(mixed.clip(0, 255)).astype(np.uint8)
    return blended
