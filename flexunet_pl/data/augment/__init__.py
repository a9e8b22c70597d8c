"""Joint augmentation of image and mask, online and offline; ``data.augment`` in YAML describes it."""

# These register their transforms.
from flexunet_pl.data.augment import distortion, filters, geometric, mixing, photometric  # noqa: F401
from flexunet_pl.data.augment.kinds import TRANSFORMS, Planes, register_transform
from flexunet_pl.data.augment.pipeline import build_augmentation
from flexunet_pl.data.augment.presets import PRESETS

__all__ = ["PRESETS", "TRANSFORMS", "Planes", "build_augmentation", "register_transform"]
