"""The augmentation of one training sample: mix, crop and warp, flip, tone, colour, filter."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.augment.crop import Crop, Window, padded
from flexunet_pl.data.augment.kinds import (
    Color,
    Field,
    Filter,
    Flip,
    FloatArray,
    Homography,
    Mix,
    Partner,
    Planes,
    Radial,
    Tone,
    TransformT,
    UInt8Array,
)
from flexunet_pl.data.augment.sampling import sample, source_points
from flexunet_pl.data.augment.spec import KEY, Plan, read_plan


class Augmentation:
    """Changes image and mask together, every random number from the generator it is given.

    The same generator state, sample and partners give the same result, in any process.
    """

    def __init__(self, plan: Plan, crop_size: tuple[int, int] | None = None) -> None:
        """Take the checked ``plan`` and the crop's (height, width) in pixels, None for the whole picture.

        Raises:
            UserError: If the crop size is not two positive numbers, or a crop is described without a size.
        """
        if crop_size is not None and (len(crop_size) != 2 or min(crop_size) < 1):
            raise UserError(f"data.crop_size={list(crop_size)}; it must be two positive numbers, [height, width]")
        if crop_size is None and plan.crop is not None:
            raise UserError(f"{KEY}.crop says how to crop, but data.crop_size is not set; set it or remove {KEY}.crop")
        self.plan = plan
        self.crop_size = crop_size
        self._crop = Crop() if plan.crop is None else plan.crop
        transforms = plan.transforms.values()
        self._mixes = [transform for transform in transforms if isinstance(transform, Mix)]
        self._warps = [transform for transform in transforms if isinstance(transform, Homography | Radial | Field)]
        self._flips = [transform for transform in transforms if isinstance(transform, Flip)]
        self._tones = [transform for transform in transforms if isinstance(transform, Tone)]
        self._colors = [transform for transform in transforms if isinstance(transform, Color)]
        self._filters = [transform for transform in transforms if isinstance(transform, Filter)]

    def __call__(
        self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator, partner: Partner | None = None
    ) -> Planes:
        """Return the augmented image and mask, contiguous.

        Args:
            image: uint8 (C, H, W), 0..255, any number of channels; it is not changed.
            mask: uint8 (H, W), class index, 255 = ignore; it is not changed.
            rng: Source of every random number.
            partner: Reads another training sample of the same kind of surface, with as many channels, of any size.
                Which one is the caller's choice; to stay reproducible it should draw from ``rng``.

        Returns:
            Image uint8 and mask uint8 of the shape (h, w) of the crop if there is one, else (H, W).

        Raises:
            ValueError: If the arrays do not belong together, or a partner is needed and missing.
        """
        if image.ndim != 3 or image.shape[1:] != mask.shape or image.dtype != np.uint8 or mask.dtype != np.uint8:
            raise ValueError(
                f"image {image.dtype} {image.shape} and mask {mask.dtype} {mask.shape}; "
                "they must be uint8 (C, H, W) and uint8 (H, W)"
            )
        image, mask = self._mixed(image, mask, rng, partner)
        image, mask = self._reframed(image, mask, rng)
        for flip in _drawn(self._flips, rng):
            image, mask = flip.flip(image, mask, rng)
        # The views of crop and flips, and pictures that come as (H, W, C) with turned axes, are copied once, here.
        return self._recolored(np.ascontiguousarray(image), rng), np.ascontiguousarray(mask)

    def _mixed(self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator, partner: Partner | None) -> Planes:
        if not self._mixes:
            return image, mask
        if partner is None:
            raise ValueError("copy_paste and mosaic need a partner: pass a function that reads another sample")
        for mix in _drawn(self._mixes, rng):
            image, mask = mix.mix(image, mask, partner, rng)
        return image, mask

    def _reframed(self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator) -> Planes:
        """Crop and warp with one resampling at most, none if no warp is drawn.

        The warps act on the crop, but look into the whole picture: what turns into view is real where there is any.
        """
        window = Window(0, 0, *mask.shape)
        if self.crop_size is not None:
            image, mask = padded(image, mask, *self.crop_size)
            window = self._crop.window(mask, *self.crop_size, rng)
        warps = list(_drawn(self._warps, rng))
        if not warps:
            return window.cut(image, mask)
        x, y = source_points(warps, window.height, window.width, rng)
        return sample(image, mask, (x + window.left, y + window.top), ignore_outside=self.plan.fill == "ignore")

    def _recolored(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        if tones := list(_drawn(self._tones, rng)):
            image = _toned(image, tones, rng)
        if colors := list(_drawn(self._colors, rng)):
            image = _colored(image, colors, rng)
        for filtering in _drawn(self._filters, rng):
            image = filtering.filter(image, rng)
        return image


def build_augmentation(spec: Mapping[str, Any] | None, crop_size: tuple[int, int] | None = None) -> Augmentation:
    """Build the augmentation that ``spec``, the value of the YAML key ``data.augment``, describes.

    Args:
        spec: A map from transform to its options, each with its probability ``p``; a bare number stands for ``p``.
            ``preset`` names a set that the other entries change or extend; ``crop`` and ``fill`` say how crops are
            chosen and how pixels beyond the image are filled. None means no augmentation but the crop.
        crop_size: Height and width of the training crop, or None.

    Raises:
        UserError: Naming the key, the value, the rule and the repair.
    """
    return Augmentation(read_plan(spec), crop_size)


def _drawn(transforms: Sequence[TransformT], rng: np.random.Generator) -> Iterator[TransformT]:
    """Yield those of ``transforms`` that chance picks for this sample."""
    for transform in transforms:
        if rng.random() < transform.p:
            yield transform


def _toned(image: UInt8Array, tones: list[Tone], rng: np.random.Generator) -> UInt8Array:
    """Apply all tones to uint8 (C, H, W) as one table of 256 levels, rounded once."""
    thumbnail = image[:, ::4, ::4]
    levels: FloatArray = np.arange(256, dtype=np.float64)
    for tone in tones:
        levels = tone.curve(levels, float(np.take(levels, thumbnail).mean()), rng)
    table = np.rint(levels.clip(0, 255)).astype(np.uint8)
    return np.take(table, image)


def _colored(image: UInt8Array, colors: list[Color], rng: np.random.Generator) -> UInt8Array:
    """Apply all colour changes to uint8 (3, H, W) as one matrix, rounded once; leave other images as they are."""
    matrix: FloatArray = np.eye(3)
    for color in colors:
        matrix = color.matrix(rng) @ matrix
    if len(image) != 3:
        return image
    values = torch.from_numpy(image.reshape(3, -1).astype(np.float32))
    mixed = torch.from_numpy(matrix.astype(np.float32)) @ values
    rounded: UInt8Array = mixed.clamp_(0, 255).add_(0.5).to(torch.uint8).numpy()
    return rounded.reshape(image.shape)
