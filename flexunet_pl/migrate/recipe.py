"""From a train_eval_infer.config to the configuration that fit, test and predict read."""

import glob
import os
from pathlib import Path, PureWindowsPath
from typing import Any

from flexunet_pl.migrate.augment import LENSES, SECTIONS, build_augment
from flexunet_pl.migrate.keys import KEYS, place_of
from flexunet_pl.migrate.network import Network
from flexunet_pl.migrate.palette import MAP
from flexunet_pl.migrate.project import Project

SPLITS = [f"{split}.{kind}" for split in ("train", "valid", "test") for kind in ("images", "masks")]
PATHS = {**{f"{name}_dir": name.replace(".", "_") for name in SPLITS}, "infer.images_dir": "predict_dir"}
LOSSES = {
    "categorical_crossentropy": "cross_entropy",
    "categorical_focal_dice_loss": "categorical_focal_dice",
    "binary_crossentropy": "binary_cross_entropy",
}
OPTIMIZERS: dict[str, dict[str, float]] = {"adam": {}, "adamw": {"weight_decay": 0.004}}
# Where the original's keys are found in the YAML.
TARGETS = {
    "model.model": "model.network",
    "model.generator": "data.augment",
    "generator.augmentation": "data.augment",
    "model.image_width": "data.image_size",
    "model.image_height": "data.image_size",
    **{name: f"model.{key.network}" for name, key in KEYS.items() if key.network},
    "model.image_channels": "data.channels",
    "model.num_classes": "model.num_classes, data.palette",
    "model.final_activation": "model.num_classes",
    "model.optimizer": "model.optimizer",
    "model.learning_rate": "model.learning_rate",
    "model.clipvalue": "trainer.gradient_clip_val",
    "model.loss": "model.loss",
    "train.epochs": "trainer.max_epochs",
    "train.batch_size": "data.batch_size",
    "train.patience": "patience",
    "train.learning_rate_reducer": "model.schedule",
    "train.reducer_factor": "model.plateau_factor",
    "train.reducer_patience": "model.plateau_patience",
    "train.epoch_change_infer": "EpochPictures",
    "train.num_infer_images": "EpochPictures.count",
    "train.steps_per_epoch": "trainer.limit_train_batches",
    "image.color_order": "data.channels",
    "mask.rgb_map": "data.palette",
    **{name: f"data.{key}" for name, key in PATHS.items()},
}


def target_of(name: str) -> str:
    """Return where "section.key" of the original is found in the YAML."""
    return TARGETS.get(name, "data.augment")


def idle_keys(project: Project, num_classes: int) -> dict[str, str]:
    """Return the keys that would mean something here, but do not beside the others, with the reason."""
    idle = {}
    if num_classes > 1:
        idle["model.final_activation"] = "more than one class always ends in softmax"
    if not project["train.learning_rate_reducer"]:
        idle |= dict.fromkeys(("train.reducer_factor", "train.reducer_patience"), "learning_rate_reducer is False")
    if not project["train.epoch_change_infer"]:
        idle["train.num_infer_images"] = "epoch_change_infer is False"
    if not project["model.generator"]:
        idle["train.steps_per_epoch"] = "generator is False, so an epoch is once through the images"
    if not (project["model.generator"] and project["generator.augmentation"]):
        reason = "generator is False" if not project["model.generator"] else "[generator] augmentation is False"
        off = [name for name in project.config.settings if name.partition(".")[0] in (*SECTIONS, *LENSES)]
        idle |= dict.fromkeys(off, f"{reason}, so nothing is augmented")
    return {name: reason for name, reason in idle.items() if name in project.config.settings}


def build_recipe(project: Project, network: Network, palette: dict[str, list[int]], out: Path) -> dict[str, Any]:
    """Return the configuration as plain data; relative paths in it start at the folder ``out``."""
    num_classes = len(palette) if network.num_classes is None else network.num_classes
    if project["model.model"] != "TensorFlowFlexUNet":
        project.note("model.model", "builds the network of that name", "the network is FlexUNet")
    if project["image.color_order"].upper() != "RGB":
        project.note("image.color_order", "works on channels in this order", "images are RGB, always")
    return {
        "patience": project["train.patience"],
        "trainer": _trainer(project),
        "model": _model(project, network, num_classes),
        "data": _data(project, network, palette, out),
    }


def _trainer(project: Project) -> dict[str, Any]:
    steps = {"limit_train_batches": project["train.steps_per_epoch"]} if project["model.generator"] else {}
    pictures = project["train.num_infer_images"] if project["train.epoch_change_infer"] else 0
    return {
        **({"precision": "32-true"} if project.as_run else {}),
        "max_epochs": project["train.epochs"],
        **steps,
        "gradient_clip_val": float(project["model.clipvalue"]),
        "gradient_clip_algorithm": "value",
        "callbacks": [{"class_path": "EpochPictures", "init_args": {"count": pictures}}],
    }


def _model(project: Project, network: Network, num_classes: int) -> dict[str, Any]:
    settings = {key: value for key, value in network.settings.items() if key != "in_channels"}
    return {
        "network": "flexunet",
        **({"num_classes": 1} if num_classes == 1 else {}),
        **settings,
        "loss": {_loss(project, num_classes): 1.0},
        **_optimizer(project),
        "learning_rate": float(project["model.learning_rate"]),
        **_schedule(project),
    }


def _loss(project: Project, num_classes: int) -> str:
    given: str = project["model.loss"]
    plain = "binary_cross_entropy" if num_classes == 1 else "cross_entropy"
    loss = LOSSES.get(given.lower())
    if loss is None:
        project.note("model.loss", "looks for a loss of that name", f"it is {plain}; model.loss offers others")
        return plain
    if num_classes == 1 and project["model.final_activation"].lower() != "sigmoid":
        project.note("model.final_activation", "ends the network so", "one class ends in a sigmoid")
    if (num_classes == 1) != (loss == "binary_cross_entropy"):
        classes = "one class" if num_classes == 1 else f"{num_classes} classes"
        project.note("model.loss", f"takes it with {classes} too", f"it is {plain}, which fits {classes}")
        return plain
    return loss


def _optimizer(project: Project) -> dict[str, Any]:
    name = project["model.optimizer"].lower()
    if name not in OPTIMIZERS:
        project.note("model.optimizer", "knows only Adam and AdamW", "it is adam")
        name = "adam"
    if name == "adamw":
        project.note("model.optimizer", "decays all weights by Keras' 0.004", "0.004 too, but biases are spared")
    return {"optimizer": name, **OPTIMIZERS[name]}


def _schedule(project: Project) -> dict[str, Any]:
    if not project["train.learning_rate_reducer"]:
        return {"schedule": "constant"}
    meant = project["train.reducer_patience"]
    patience = 10 if project.as_run else meant
    original = "never passes it on, owing to a misspelt argument, so that Keras' 10 is in force"
    here = f"it is {patience}" + ("" if project.as_run else ", as meant; --as-run takes 10")
    project.note("train.reducer_patience", original, here)
    factor = float(project["train.reducer_factor"])
    return {"schedule": "plateau", "plateau_factor": factor, "plateau_patience": patience}


def _data(project: Project, network: Network, palette: dict[str, list[int]], out: Path) -> dict[str, Any]:
    folders = {key: _folder(project, name, out) for name, key in PATHS.items() if project[name]}
    augment = build_augment(project)
    height, width = network.image_size
    return {
        **folders,
        "palette": palette,
        **_mask_colors(project, palette),
        "image_size": height if height == width else [height, width],
        "resize": "stretch",
        "channels": network.settings["in_channels"],
        "batch_size": project["train.batch_size"],
        "num_workers": 2,
        **({} if augment is None else {"augment": augment}),
    }


def _mask_colors(project: Project, palette: dict[str, list[int]]) -> dict[str, Any]:
    """Return how mask colours of no class are read; the original takes the nearest colour of its map, always."""
    if not project.as_run:
        return {"antialiased_masks": True}
    colors = [list(color) for color in project[MAP]]
    return {"antialiased_masks": False, "nearest_classes": [name for name in palette if palette[name] in colors]}


def _folder(project: Project, name: str, out: Path) -> str:
    """Return the folder of a path in the config, relative to ``out``; note wildcards and missing folders."""
    given: str = project[name].strip()
    if PureWindowsPath(given).drive and os.name != "nt":
        project.note(name, "reads this folder", "it is kept, but this computer has no drives")
        return given
    base = project.config.path.absolute().parent
    folder = base / _without_wildcards(project, name, given, base)
    if not _is_folder(folder):
        project.warnings.append(f"{place_of(name)}: the folder {folder.resolve()} does not exist yet")
    if Path(given).is_absolute():
        return folder.as_posix()
    return _relative_to(out.absolute(), folder)


def _relative_to(out: Path, folder: Path) -> str:
    """Return the path of ``folder`` relative to ``out``, or the absolute one where there is none."""
    try:
        plain = os.path.relpath(folder, out)
        # Two dots lead to another place where a folder on the way is a symbolic link.
        leads_there = (out / plain).resolve() == folder.resolve()
        return Path(plain if leads_there else os.path.relpath(folder.resolve(), out.resolve())).as_posix()
    except (OSError, ValueError):  # another drive, or a name that no file can have
        return folder.as_posix()


def _without_wildcards(project: Project, name: str, given: str, base: Path) -> str:
    """Cut a path that ends in a pattern of files to its folder; a pattern of folders must fit one."""
    parts = Path(given).parts
    is_pattern = [any(sign in part for sign in "*?[") for part in parts]
    if not any(is_pattern) or _is_folder(base / given):
        return given
    folder = Path(*parts[:-1]) if is_pattern[-1] else Path(*parts)
    if any(is_pattern[: len(folder.parts)]):
        fitting = [found for found in glob.glob(str(folder), root_dir=base) if _is_folder(base / found)]  # noqa: PTH207  Path.glob refuses absolute patterns
        folder = Path(fitting[0]) if len(fitting) == 1 else Path(*parts[: is_pattern.index(True)])
    project.note(name, "reads the files that fit the pattern", f"the folder {folder.as_posix()} is read as a whole")
    return str(folder)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False
