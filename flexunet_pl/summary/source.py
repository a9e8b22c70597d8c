"""The network of a config, a checkpoint or a run folder."""

import re
from pathlib import Path
from typing import Any

import yaml

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_text
from flexunet_pl.core.renamed import current_config
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.data.layout import find_palette
from flexunet_pl.nn.ensemble import Ensemble
from flexunet_pl.nn.networks import nested_settings
from flexunet_pl.nn.zoo import RANDOM_WEIGHTS, ZOO
from flexunet_pl.summary.describe import FLOAT_BYTES, NetworkSummary, describe
from flexunet_pl.summary.drawing import draw
from flexunet_pl.summary.text import as_text
from flexunet_pl.training.runs import NAMED_CHECKPOINTS, checkpoint_file
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.visualization.pictures import save_picture

TEXT, PICTURE = "summary.txt", "model.png"
LEFT_OUT = ("loss", "class_weights", "pretrained")  # keys under ``model`` that say nothing of the network's layers


def summarize(source: Path, size: str | None, batch_size: int, out: Path | None) -> list[str]:
    """Return the lines of the command ``summary``, whose options these are; write files if ``out`` is a folder.

    Raises:
        UserError: If there is no network, or an option has an invalid value.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size} must be at least 1")
    image_size = None if size is None else _checked_size(size)
    found = describe_task(_task_of(source), image_size, batch_size)
    if out is None:
        return [as_text(found), f"--out DIR writes this to {TEXT} and the network's picture to {PICTURE}"]
    write_summary(found, out)
    return [as_text(found), f"written: {out / TEXT} and {out / PICTURE}"]


def describe_task(task: SegmentationTask, size: tuple[int, int] | None = None, batch_size: int = 1) -> NetworkSummary:
    """Describe the network of a task for images of ``size`` (height, width), by default its working size."""
    height, width = (task.sizing.height, task.sizing.width) if size is None else size
    image = (int(task.hparams["in_channels"]), height, width)
    views = 2 if task.hparams["tta"] else 1
    if not isinstance(task.network, Ensemble):
        return describe(task.network, image, batch_size, views=views)
    count = len(task.network.members)
    one = describe(task.network.members[0], image, batch_size, views=views)
    return one._replace(
        name=f"The mean of {count} {one.name}, of which this is the first",
        parameters=count * one.parameters,
        flops=count * one.flops,
        inference_bytes=one.inference_bytes + (count - 1) * FLOAT_BYTES * one.parameters,
    )


def write_summary(found: NetworkSummary, out: Path) -> None:
    """Write summary.txt and model.png into a folder."""
    write_text(out / TEXT, as_text(found))
    save_picture(out / PICTURE, draw(found))


def _checked_size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if match is None or 0 in (height := int(match[1]), width := int(match[2] or match[1])):
        raise UserError(f"--size {size} must be a side in pixels such as 512, or height x width such as 512x768")
    return height, width


def _task_of(source: Path) -> SegmentationTask:
    candidates = [source, *(checkpoint_file(source, which) for which in NAMED_CHECKPOINTS)]
    found = next(filter(Path.is_file, candidates), None)
    if found is None:
        fault = "holds no checkpoint" if source.is_dir() else "does not exist"
        raise UserError(f"{source}: {fault}; give a config (.yaml), a checkpoint (.ckpt) or a run folder")
    is_config = found.suffix.lower() in (".yaml", ".yml")
    return _task_of_config(found) if is_config else SegmentationTask.from_checkpoint(found)


def _task_of_config(path: Path) -> SegmentationTask:
    try:
        content = current_config(load_yaml(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({error}); fix it") from error
    model, data = (content.get(key) if isinstance(content, dict) else None for key in ("model", "data"))
    model = {} if isinstance(content, dict) and model is None else model  # the default network
    if not isinstance(model, dict) or not isinstance(data, dict):
        raise UserError(f"{path}: is not a config; it needs the section data, as in configs/tile_strong.yaml")
    palette = find_palette(data.get("palette"), data.get("root"), int(data.get("synthetic_images", 0)))
    settings: dict[str, Any] = {key: value for key, value in model.items() if key not in LEFT_OUT}
    for parameter, key in (("in_channels", "channels"), ("image_size", "image_size"), ("resize", "resize")):
        if key in data:
            settings[parameter] = data[key]
    try:
        nested = nested_settings(settings)
        if nested["network"]["name"] in ZOO:
            nested["network"]["encoder_weights"] = RANDOM_WEIGHTS
        return SegmentationTask(palette.to_mapping(), **nested)
    except TypeError as error:
        raise UserError(f"{path}: the section model does not fit ({error}); fix it") from error
