"""What ``predict`` has besides the options of the other commands."""

from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser

from flexunet_pl.core.errors import UserError
from flexunet_pl.inference.onnx_infer import DEFAULT_OVERLAP
from flexunet_pl.training.prediction_writer import OVERLAYS_HELP, writer_for
from flexunet_pl.training.task import SegmentationTask

FORMAT_HELP = "Also write annotations to correct in a labelling tool: coco, labelme, cvat, labelstudio, yolo or voc."


def add_predict_options(parser: LightningArgumentParser) -> None:
    """Add the options of ``predict`` to its parser."""
    parser.set_defaults({"return_predictions": False})
    tile = "Predict at native size in tiles of this side, such as 512."
    overlap = f"How far tiles overlap (default: {DEFAULT_OVERLAP})."
    parser.add_argument("--out", type=str | None, default=None, help="Folder for the predicted masks.")
    parser.add_argument("--format", type=str | None, default=None, help=FORMAT_HELP)
    parser.add_argument("--overlays", type=str, default="filled", help=OVERLAYS_HELP)
    parser.add_argument("--tile", type=int | None, default=None, help=tile)
    parser.add_argument("--overlap", type=int | None, default=None, help=overlap)


def prediction_writers(config: Namespace, task: SegmentationTask) -> list[Callback]:
    """Return the callbacks that write the predictions of a task.

    Raises:
        UserError: If there is no folder to write to, or no such format.
    """
    if config.out is None:
        raise UserError("--out is not given; name the folder for the predicted masks")
    writers: list[Callback] = [writer_for(task, Path(config.ckpt_path), Path(config.out), config.overlays)]
    if config.format is not None:
        from flexunet_pl.training.annotation_writer import AnnotationWriter

        writers.append(AnnotationWriter(Path(config.out), config.format))
    return writers
