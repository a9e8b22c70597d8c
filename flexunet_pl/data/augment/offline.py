"""Offline augmentation: the variants of one sample, and their file names.

``flexunet_pl.data.sources.source_of`` reads the source back from these names.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.augment.distortion import Barrel, Elastic, Pincushion, SmoothNoise
from flexunet_pl.data.augment.filters import Sharpen
from flexunet_pl.data.augment.geometric import HorizontalFlip, RightAngle, Rotation, Shear, Shrink, VerticalFlip
from flexunet_pl.data.augment.kinds import Mix, Transform, UInt8Array
from flexunet_pl.data.augment.options import Interval
from flexunet_pl.data.augment.photometric import Brightening
from flexunet_pl.data.augment.pipeline import Augmentation
from flexunet_pl.data.augment.spec import KEY, Plan, read_plan

Variants = list[tuple[str, Transform]]


def _each(option: str, prefix: Callable[[Any, str], str]) -> Callable[[Any], Variants]:
    """Name one variant for each value of a list option."""
    return lambda transform: [
        (prefix(transform, _text(value)), replace(transform, **{option: (value,)}))
        for value in getattr(transform, option)
    ]


def _each_center(prefix: str) -> Callable[[Any], Variants]:
    """Name one variant for each centre, counted from 1001 as the original does."""
    return lambda lens: [
        (f"{prefix}_{1001 + place}_{_text(lens.radius)}_{_text(lens.amount)}", replace(lens, centers=(center,)))
        for place, center in enumerate(lens.centers)
    ]


def _each_fixed(prefix: str, transform: Transform, *options: Interval) -> Variants:
    """Name one variant if every option is one number; what is drawn from an interval has no name of its own."""
    if any(first != last for first, last in options):
        return []
    return [("_".join([prefix, *(_text(first) for first, _ in options)]), transform)]


def _text(value: float) -> str:
    """Write a number as it was given, 0.3 or 1300, and never with an exponent."""
    return f"{value:f}" if "e" in str(value) else str(value)


# The transforms for which the original has names.
_SCHEME: Mapping[type[Transform], Callable[[Any], Variants]] = {
    HorizontalFlip: lambda flip: [("hflipped", flip)],
    VerticalFlip: lambda flip: [("vflipped", flip)],
    RightAngle: lambda _: _each("angles", lambda _, angle: f"rotated_{angle}")(Rotation(angles=(90, 180, 270))),
    Rotation: _each("angles", lambda _, angle: f"rotated_{angle}"),
    Shrink: _each("shrinks", lambda _, share: f"shrinked_{share}"),
    Shear: _each("shears", lambda _, ratio: f"sheared_{float(ratio)}"),
    Elastic: _each("sigmoids", lambda elastic, sigma: f"deformed_alpha_{_text(elastic.alpha)}_sigmoid_{sigma}"),
    SmoothNoise: _each(
        "distortions",
        lambda noise, strength: (
            f"distorted_{strength}_rsigma{_text(noise.gaussian_filter_sigma)}_sigma{_text(noise.gaussian_filter_rsigma)}"
        ),
    ),
    Barrel: _each_center("barrdistorted"),
    Pincushion: _each_center("pincdistorted"),
    Sharpen: lambda sharpen: _each_fixed("sharpened", sharpen, sharpen.k),
    Brightening: lambda tone: _each_fixed("brightened", tone, tone.alpha, tone.beta),
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
    """Yield (new name, image, mask) for each variant of a sample: its stem, image uint8 (C, H, W), mask uint8 (H, W).

    The random numbers follow from ``seed`` (0 or more) and the new name alone, not from the order of the files.
    """
    for variant in variants:
        new_name = offline_name(variant.prefix, name)
        rng = np.random.default_rng([seed, zlib.crc32(new_name.encode())])
        yield new_name, *variant.augmentation(image, mask, rng)


def offline_name(prefix: str, name: str) -> str:
    """Return the name of the file that offline augmentation ``prefix`` makes of the sample ``name``."""
    return f"{prefix}_{name}"
