"""``python -m flexunet_pl summary``: what the network of a config or a checkpoint is."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flexunet_pl.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from flexunet_pl.summary.describe import NetworkSummary
    from flexunet_pl.training.task import SegmentationTask

TEXT, PICTURE = "summary.txt", "model.png"


def summary(source: Path, size: str | None = None, batch_size: int = 1, out: Path | None = None) -> int:
    """Tell the layers, parameters, FLOPs, receptive field and memory of a network, and draw it.

    Args:
        source: A config (YAML), a checkpoint, or a run folder.
        size: Size of the images, 512 or 512x768 (height x width); by default the working size.
        batch_size: Images in a training step, for its memory.
        out: Folder for summary.txt and model.png; without it the summary is only printed.

    Raises:
        UserError: If there is no network, or an option is not usable.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size} must be at least 1")
    image_size = None if size is None else _checked_size(size)
    task = _task_of(source)
    from flexunet_pl.summary.text import as_text

    found = describe_task(task, image_size, batch_size)
    print(as_text(found), end="")
    if out is None:
        print(f"\n--out DIR writes this to {TEXT} and the network's picture to {PICTURE}")
    else:
        write_summary(found, out)
        print(f"\nwritten: {out / TEXT} and {out / PICTURE}")
    return 0


def describe_task(
    task: "SegmentationTask", size: tuple[int, int] | None = None, batch_size: int = 1
) -> "NetworkSummary":
    """Describe the network of a task for images of ``size`` (height, width), by default its working size."""
    from flexunet_pl.summary.describe import describe

    height, width = (task.sizing.height, task.sizing.width) if size is None else size
    network: nn.Module = task.network
    return describe(network, (int(task.hparams["in_channels"]), height, width), batch_size)


def write_summary(found: "NetworkSummary", out: Path) -> None:
    """Write summary.txt and model.png into a folder."""
    from flexunet_pl.core.files import write_text
    from flexunet_pl.summary.drawing import draw
    from flexunet_pl.summary.text import as_text
    from flexunet_pl.visualization.pictures import save_picture

    write_text(out / TEXT, as_text(found))
    save_picture(out / PICTURE, draw(found))


def _checked_size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if match is None or 0 in (height := int(match[1]), width := int(match[2] or match[1])):
        raise UserError(f"--size {size}: is no size; write 512, or 512x768 for height x width")
    return height, width


def _task_of(source: Path) -> "SegmentationTask":
    from flexunet_pl.training.runs import checkpoint_file
    from flexunet_pl.training.task import SegmentationTask

    if source.is_dir():
        source = next(
            (path for which in ("best", "last") if (path := checkpoint_file(source, which)).is_file()), source
        )
        if source.is_dir():
            raise UserError(
                f"{source}: holds no checkpoint; give a run folder, a checkpoint (.ckpt) or a config (.yaml)"
            )
    if not source.is_file():
        raise UserError(f"{source}: does not exist; give a config (.yaml), a checkpoint (.ckpt) or a run folder")
    if source.suffix.lower() in (".yaml", ".yml"):
        return _task_of_config(source)
    return SegmentationTask.from_checkpoint(source)


def _task_of_config(path: Path) -> "SegmentationTask":
    from flexunet_pl.data.layout import find_palette
    from flexunet_pl.training.task import SegmentationTask

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({error}); mend it") from error
    model, data = (content.get(key) if isinstance(content, dict) else None for key in ("model", "data"))
    if not isinstance(model, dict) or not isinstance(data, dict):
        raise UserError(f"{path}: is no config; it needs the sections model and data, as in configs/demo.yaml")
    palette = find_palette(data.get("palette"), data.get("root"), int(data.get("synthetic_images", 0)))
    settings: dict[str, Any] = {key: value for key, value in model.items() if key != "class_weights"}
    for parameter, key in (("in_channels", "channels"), ("image_size", "image_size"), ("resize", "resize")):
        if key in data:
            settings[parameter] = data[key]
    try:
        return SegmentationTask(palette.to_mapping(), **settings)
    except TypeError as error:
        raise UserError(f"{path}: the section model does not fit ({error}); mend it") from error
