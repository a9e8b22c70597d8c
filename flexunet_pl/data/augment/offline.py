"""Offline augmentation: what files to make of one sample, and names from which the source can be read back."""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flexunet_pl.data.augment.distortion import Barrel, Elastic, Pincushion, SmoothNoise
from flexunet_pl.data.augment.filters import Sharpen
from flexunet_pl.data.augment.geometric import HorizontalFlip, RightAngle, Rotation, Shear, Shrink, VerticalFlip
from flexunet_pl.data.augment.kinds import Mix, Transform, UInt8Array
from flexunet_pl.data.augment.photometric import Brightening
from flexunet_pl.data.augment.pipeline import Augmentation
from flexunet_pl.data.augment.spec import KEY, Plan, read_plan
from flexunet_pl.errors import UserError

Variants = list[tuple[str, Transform]]

_NUMBER = r"-?\d+(?:[._]\d+)?"
OFFLINE_PREFIX = re.compile(
    "(?:"
    # The original writes hflipped in one of its tools and hfliped in another, 0.8 in one and 0_8 in another.
    r"(?:h|v|hv)flipp?ed"
    rf"|rotated_{_NUMBER}|shrinked_{_NUMBER}|sheared_{_NUMBER}"
    rf"|deformed_alpha_{_NUMBER}_sigmoid_{_NUMBER}"
    rf"|distorted_{_NUMBER}_rsigma{_NUMBER}_sigma{_NUMBER}"
    rf"|(?:barr|pinc)distorted_\d+_{_NUMBER}_{_NUMBER}"
    rf"|sharpened_{_NUMBER}|brightened_{_NUMBER}_{_NUMBER}"
    r"|augmented_\d+"
    ")_"
)
"""One prefix of an offline file, with its underscore; prefixes may follow one another."""


def _each(option: str, prefix: str) -> Callable[[Any], Variants]:
    """Name one variant for each value of a list option."""
    return lambda transform: [
        (prefix.format(value=value, of=transform), replace(transform, **{option: (value,)}))
        for value in getattr(transform, option)
    ]


def _each_center(prefix: str) -> Callable[[Any], Variants]:
    """Name one variant for each centre, counted from 1001 as the original does."""
    return lambda lens: [
        (f"{prefix}_{1001 + place}_{lens.radius}_{lens.amount}", replace(lens, centers=(center,)))
        for place, center in enumerate(lens.centers)
    ]


# The transforms for which the original has names. Values keep the form in which they were written: 0.3, 1300.
_SCHEME: Mapping[type[Transform], Callable[[Any], Variants]] = {
    HorizontalFlip: lambda flip: [("hflipped", flip)],
    VerticalFlip: lambda flip: [("vflipped", flip)],
    RightAngle: lambda _: _each("angles", "rotated_{value}")(Rotation(angles=(90, 180, 270))),
    Rotation: _each("angles", "rotated_{value}"),
    Shrink: _each("shrinks", "shrinked_{value}"),
    Shear: _each("shears", "sheared_{value}"),
    Elastic: _each("sigmoids", "deformed_alpha_{of.alpha}_sigmoid_{value}"),
    SmoothNoise: _each(
        "distortions", "distorted_{value}_rsigma{of.gaussian_filter_sigma}_sigma{of.gaussian_filter_rsigma}"
    ),
    Barrel: _each_center("barrdistorted"),
    Pincushion: _each_center("pincdistorted"),
    Sharpen: lambda sharpen: [(f"sharpened_{sharpen.k[0]}", sharpen)] if sharpen.k[0] == sharpen.k[1] else [],
    Brightening: lambda tone: (
        [(f"brightened_{tone.alpha[0]}_{tone.beta[0]}", tone)]
        if tone.alpha[0] == tone.alpha[1] and tone.beta[0] == tone.beta[1]
        else []
    ),
}


@dataclass(frozen=True)
class OfflineVariant:
    """One file that offline augmentation makes of a sample.

    Attributes:
        prefix: What stands before the sample's name, without the underscore.
        augmentation: What is done to the sample.
    """

    prefix: str
    augmentation: Augmentation


def offline_variants(spec: Mapping[str, Any] | None, copies: int = 0) -> list[OfflineVariant]:
    """List the files that offline augmentation with ``spec``, as in ``data.augment``, makes of each sample.

    Every transform for which the original has a name gives one file for each of its values, applied alone and
    whatever its probability. ``copies`` further files each get all transforms of ``spec`` by their probabilities.

    Raises:
        UserError: If ``spec`` breaks a rule, mixes samples (a file would have several sources) or asks for nothing.
    """
    plan = read_plan(spec)
    if copies < 0:
        raise UserError(f"copies={copies}; it must be 0 or more")
    if plan.crop is not None:
        raise UserError(f"{KEY}.crop: offline augmentation keeps the size of the pictures; remove it")
    for name, transform in plan.transforms.items():
        if isinstance(transform, Mix):
            raise UserError(
                f"{KEY}.{name}: offline, a picture of several sources could leak between splits; "
                f"switch it off with {{{name}: false}} and use it while training"
            )
    named: dict[str, Plan] = {}
    for name, transform in plan.transforms.items():
        for prefix, single in _SCHEME.get(type(transform), lambda _: [])(transform):
            named.setdefault(prefix, replace(plan, transforms={name: replace(single, p=1)}))
    for copy in range(1, copies + 1):
        named[f"augmented_{copy}"] = plan
    if not named:
        raise UserError(
            f"{KEY}: none of {', '.join(plan.transforms) or 'the transforms'} gives an offline file of its own; "
            "ask for copies, or for a preset such as flexunet"
        )
    return [OfflineVariant(prefix, Augmentation(part)) for prefix, part in named.items()]


def offline_samples(
    name: str, image: UInt8Array, mask: UInt8Array, variants: list[OfflineVariant], seed: int
) -> Iterator[tuple[str, UInt8Array, UInt8Array]]:
    """Yield (new name, image, mask) for each variant of one sample.

    The random numbers follow from ``seed`` and the new name alone, not from the order of the files.

    Args:
        name: The sample's stem, without suffix.
        image: uint8 (C, H, W).
        mask: uint8 (H, W), class index, 255 = ignore.
        variants: What :func:`offline_variants` returned.
        seed: Any whole number of at least 0.
    """
    for variant in variants:
        new_name = offline_name(variant.prefix, name)
        rng = np.random.default_rng([seed, zlib.crc32(new_name.encode())])
        yield new_name, *variant.augmentation(image, mask, rng)


def offline_name(prefix: str, name: str) -> str:
    """Return the name of the file that offline augmentation ``prefix`` makes of the sample ``name``."""
    return f"{prefix}_{name}"


def without_offline_prefixes(name: str) -> str:
    """Return the source's name: ``barrdistorted_1001_0.3_0.3_crack_16`` comes from ``crack_16``."""
    while found := OFFLINE_PREFIX.match(name):
        name = name[found.end() :]
    return name
