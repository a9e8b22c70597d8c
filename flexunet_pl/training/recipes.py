"""What a config leaves open, by its network: how the original trains FlexUNet, and what pretrained networks need."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexunet_pl.data.datamodule import NO_CROP

# docs/results.md has the measurements that chose these values.
AUGMENTATION: dict[str, Any] = {
    "crop": {"foreground_share": 0.8},
    "rotation": {"p": 0.5, "limit": 45},
    "scale": {"p": 0.5, "factor": [0.75, 1.35]},
    "hflip": 0.5,
    "vflip": 0.5,
    "right_angle": 0.5,
    "brightness": 0.5,
    "contrast": 0.5,
    "hue": 0.3,
    "saturation": 0.3,
}


@dataclass(frozen=True)
class Recipe:
    """Values of keys that are null.

    Attributes:
        model: Under ``model``.
        data: Under ``data``.
        monitor: The score that chooses best.ckpt.
        patience: Epochs without a better score until training stops; 0 never stops early.
        callbacks: Callbacks beside those of every run: class path and arguments.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    monitor: str = "val/loss"
    patience: int = 10
    callbacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


FLEXUNET = Recipe(
    model={
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "encoder_rate": 1.0,
        "tta": False,
    },
    data={"batch_size": 2, "sampler": "uniform", "min_samples_per_epoch": 0},
)
PRETRAINED = Recipe(
    model={
        "loss": {"cross_entropy": 1.0, "log_dice": 1.0},
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_steps": 0.05,
        "encoder_rate": 1.0,
        "tta": True,
    },
    data={
        "crop_size": 128,  # many small crops find small defects in a fraction of the steps that few large ones take
        "batch_size": 8,
        "sampler": "class_balanced",
        "min_samples_per_epoch": 1600,
        "augment": AUGMENTATION,
    },
    monitor="val/mean_foreground_dice",
    patience=0,
    callbacks={"lightning.pytorch.callbacks.EMAWeightAveraging": {"decay": 0.98}},
)
CROP_STEP = 32  # what the sides of an image must be a multiple of in most networks
ONE_CHANNEL_LOSSES = {"cross_entropy": "binary_cross_entropy"}


def recipe_of(network: str) -> Recipe:
    """Return the recipe for a network by its name."""
    return FLEXUNET if network == "flexunet" else PRETRAINED


def fill_model(settings: MutableMapping[str, Any], network: str, num_classes: int) -> None:
    """Fill in, in place, the settings of a task that are None."""
    plain = {"loss": {"cross_entropy": 1.0}}
    for key, value in (plain | dict(recipe_of(network).model)).items():
        if settings.get(key) is None:
            settings[key] = value if key != "loss" else _loss(value, num_classes)


def fill_data(settings: MutableMapping[str, Any], network: str) -> None:
    """Fill in, in place, the settings of a DataModule that are None; a crop is no larger than the images."""
    for key, value in recipe_of(network).data.items():
        if settings.get(key) is None:
            settings[key] = value if key != "crop_size" else _crop_size(value, settings)
    if settings.get("crop_size") == NO_CROP and "crop" in (settings.get("augment") or {}):
        settings["augment"] = {key: value for key, value in settings["augment"].items() if key != "crop"}


def _crop_size(side: int, settings: Mapping[str, Any]) -> int:
    size = settings.get("image_size")
    if size is None or settings.get("resize") == "none":
        return side
    least = min(size) if isinstance(size, Sequence) else int(size)
    return side if least >= side else max(least // CROP_STEP, 1) * CROP_STEP


def _loss(loss: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    if num_classes > 1:
        return dict(loss)
    return {ONE_CHANNEL_LOSSES.get(name, name): weight for name, weight in loss.items()}
