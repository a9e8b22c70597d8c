"""Joint augmentation of image and mask, online and offline; ``data.augment`` in YAML describes it."""

from flexunet_pl.data.augment.catalogue import CATALOGUE, ORIGINAL_NAMES, PRESETS
from flexunet_pl.data.augment.kinds import Partner, Planes
from flexunet_pl.data.augment.offline import (
    OfflineVariant,
    offline_name,
    offline_samples,
    offline_variants,
)
from flexunet_pl.data.augment.pipeline import Augmentation, build_augmentation

__all__ = [
    "CATALOGUE",
    "ORIGINAL_NAMES",
    "PRESETS",
    "Augmentation",
    "OfflineVariant",
    "Partner",
    "Planes",
    "build_augmentation",
    "offline_name",
    "offline_samples",
    "offline_variants",
]
