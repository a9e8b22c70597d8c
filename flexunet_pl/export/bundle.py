"""A trained model as one folder that runs elsewhere: written, tried against the checkpoint, and only then named."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.files import write_bytes, write_json, write_text
from flexunet_pl.data.samples import ReadingRules
from flexunet_pl.export.bundle_folder import CHECK, LABELS, bundle_folder, refuse_foreign_folder
from flexunet_pl.export.int8.accuracy import check_int8, refuse_loss, told
from flexunet_pl.export.int8.calibration import Pictures, demo_images
from flexunet_pl.export.int8.quantize import quantize_model
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.export.verify import TOLERANCE, ZOO_TOLERANCE, verify_onnx
from flexunet_pl.inference import onnx_infer
from flexunet_pl.keras import write_keras, write_legacy_h5, write_weights_h5
from flexunet_pl.nn.flexunet import FlexUNet
from flexunet_pl.summary.command import PICTURE, TEXT, describe_task, write_summary
from flexunet_pl.training.task import SegmentationTask

FORMAT = 1
MODEL, INT8_MODEL = "model.onnx", "model.int8.onnx"
KERAS_WRITERS: dict[str, Callable[[Path, FlexUNet, tuple[int, int] | None], None]] = {
    "keras": write_keras,
    "weights.h5": lambda path, network, _: write_weights_h5(path, network),
    "h5": write_legacy_h5,
}
FORMATS = ("onnx", *KERAS_WRITERS)
# Enough for stable ranges and for a Dice of rare classes; more would only take longer.
CALIBRATION_PICTURES = 32
VERIFICATION_PICTURES = 2

logger = logging.getLogger(__name__)


def export(
    ckpt: Path,
    out: Path,
    formats: str = "onnx",
    int8: bool = False,
    calibration: Path | None = None,
    force: bool = False,
    antialiased_masks: bool = False,
    min_region_area: int | None = None,
) -> int:
    """Write a trained model as a folder that runs without this package, and without PyTorch.

    The folder holds model.onnx, infer.py (a program and a module for it), labels.json, README.md, summary.txt and
    model.png, which show the network, and check.json, which tells how the files were compared with the checkpoint. If
    anything is over the tolerance, nothing is written.

    Args:
        ckpt: The checkpoint.
        out: The folder: new, empty, or an older bundle, which is replaced.
        formats: One or more of onnx, keras, weights.h5, h5, separated by commas.
        int8: Also write model.int8.onnx, in 8 bits: several times faster on CPUs with VNNI or AMX.
        calibration: Folder of typical images, or a folder with images and masks in it; it sets the ranges of int8 and
            is what the exported models are tried on.
        force: Write model.int8.onnx even if its mean foreground Dice is more than 0.01 lower.
        antialiased_masks: Whether masks in the calibration folder have blended edges, as data.antialiased_masks says.
        min_region_area: Pixels below which infer makes a defect background, in place of the checkpoint's.

    Returns:
        The exit code, 0.

    Raises:
        UserError: If the checkpoint, the folder or an option is not usable, or the export is not good enough.
    """
    asked = _checked_formats(formats)
    if int8 and (calibration is None or "onnx" not in asked):
        raise UserError(
            "--int8 needs --calibration DIR, a folder of typical images that sets the ranges"
            if calibration is None
            else f"--int8 needs onnx among --formats={formats}; add it"
        )
    refuse_foreign_folder(out)
    changes = {} if min_region_area is None else {"min_region_area": min_region_area}
    task = SegmentationTask.from_checkpoint(ckpt, **changes)
    network = task.network
    has_keras = len(asked) > ("onnx" in asked)
    if has_keras and not isinstance(network, FlexUNet):
        raise UserError(
            f"--formats={formats}: {ckpt} is a {task.hparams['network']!r}, and only FlexUNet has Keras files; "
            "use --formats onnx"
        )
    if has_keras and task.hparams["tta"]:
        logger.warning("Keras files are the network alone: they do not look at mirror images (model.tta)")
    pictures = None
    if calibration is not None:
        rules = ReadingRules(task.hparams["in_channels"], task.hparams["sixteen_bit"], antialiased_masks)
        pictures = Pictures.in_folder(calibration, task.palette, task.sizing, rules)
    facts = facts_of(task, ckpt)
    report: dict[str, Any] = {"checkpoint": ckpt.name, "checkpoint_sha256": facts["checkpoint_sha256"]}
    with bundle_folder(out) as folder:
        if "onnx" in asked:
            logger.info("writing %s", MODEL)
            export_onnx(task.predictor, facts, folder / MODEL)
            tolerance = TOLERANCE if isinstance(network, FlexUNet) else ZOO_TOLERANCE
            report[MODEL] = verify_onnx(
                task.predictor, folder / MODEL, facts, _verification_images(facts, pictures), tolerance
            )
            write_bytes(folder / "infer.py", Path(onnx_infer.__file__).read_bytes())
        if int8 and pictures is not None:
            logger.info("writing %s", INT8_MODEL)
            report[INT8_MODEL] = _write_int8(folder, pictures, force)
        for name in KERAS_WRITERS:
            if name in asked and isinstance(network, FlexUNet):
                size = None if task.sizing.rule == "none" else (task.sizing.height, task.sizing.width)
                KERAS_WRITERS[name](folder / f"model.{name}", network, size)
                report[f"model.{name}"] = {"read_back": "all weights and settings are those of the checkpoint"}
        write_json(folder / LABELS, facts)
        write_summary(describe_task(task), folder)
        write_text(folder / "README.md", _readme(out.name, facts, asked, int8))
        report["versions"] = {"flexunet_pl": __version__} | {
            package: version(package) for package in ("torch", "onnx", "onnxruntime")
        }
        report["files"] = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / CHECK, report)
    logger.info("wrote %s: %s", out, ", ".join([*report["files"], CHECK]))
    return 0


def facts_of(task: SegmentationTask, ckpt: Path) -> dict[str, Any]:
    """Return the content of labels.json: all that is needed to use the model, as built-in types.

    Raises:
        UserError: If the graph of this network takes one size only, and images keep theirs.
    """
    palette, settings = task.palette, task.hparams
    takes_any_size = getattr(task.network, "exports_any_size", True)
    if not takes_any_size and task.sizing.rule == "none":
        raise UserError(
            f"{ckpt}: the graph of a {settings['network']!r} takes one size only, and data.resize=none leaves images "
            "at theirs; train with data.resize=letterbox or stretch, or with another network"
        )
    return {
        "format": FORMAT,
        "version": __version__,
        "classes": [
            {"name": name, "color": list(color)} for name, color in zip(palette.names, palette.colors, strict=True)
        ],
        "ignore": None if palette.ignore is None else list(palette.ignore),
        "num_classes": settings["num_classes"],
        "channels": settings["in_channels"],
        "image_size": [task.sizing.height, task.sizing.width],
        "resize": task.sizing.rule,
        "sixteen_bit": settings["sixteen_bit"],
        "size_multiple": task.size_multiple,
        "fixed_size": None if takes_any_size else [task.sizing.height, task.sizing.width],
        "min_region_area": settings["min_region_area"],
        "checkpoint_sha256": _sha256(ckpt),
        "network": settings["network"],
    }


def _checked_formats(formats: str) -> list[str]:
    asked = [name.strip() for name in formats.split(",")]
    for name in asked:
        if name not in FORMATS:
            raise UserError(
                f"--formats={formats}: unknown format {name!r}; choose from {', '.join(FORMATS)}, separated by commas"
                f"{suggestion(name, FORMATS)}"
            )
    return asked


def _verification_images(facts: dict[str, Any], pictures: Pictures | None) -> Iterable[Any]:
    if pictures is not None:
        return pictures.some(VERIFICATION_PICTURES).images()
    return demo_images(facts["fixed_size"] or facts["image_size"], facts["channels"])


def _write_int8(folder: Path, pictures: Pictures, force: bool) -> dict[str, Any]:
    """Write the 8-bit model and return what was found when it was compared with the other one.

    Ranges come from one half of the pictures, the comparison from the other.
    """
    chosen = pictures.some(2 * CALIBRATION_PICTURES)
    for_ranges, for_comparison = chosen.every_second(0), chosen.every_second(1)
    quantize_model(folder / MODEL, for_ranges.images(), folder / INT8_MODEL)
    report = check_int8(folder / MODEL, folder / INT8_MODEL, for_comparison)
    logger.info("%s", told(report))
    refuse_loss(report, force)
    return {"calibration_images": len(for_ranges.pairs), **report}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readme(name: str, facts: dict[str, Any], formats: list[str], int8: bool) -> str:
    """Return the README of a bundle: what it is and three lines of use."""
    classes = ", ".join(entry["name"] for entry in facts["classes"])
    lines = [f"# {name}", "", f"A segmentation model exported by flexunet_pl {facts['version']}. Classes: {classes}."]
    if "onnx" in formats:
        lines += [
            "",
            "On the command line:",
            "",
            "```",
            "pip install numpy pillow onnxruntime",
            f"python infer.py {MODEL} photos --out masks",
            "python infer.py --help",
            "```",
            "",
            "In Python:",
            "",
            "```python",
            "from infer import Model",
            f'prediction = Model("{MODEL}").predict("photo.jpg")',
            "prediction.mask_index  # the class of each pixel, uint8 (H, W), at the photo's own size",
            "```",
        ]
    if int8:
        lines += [
            "",
            f"{INT8_MODEL} is the same model in 8 bits, faster on CPUs with VNNI or AMX; use it in the same way.",
        ]
    lines += [
        "",
        f"{LABELS} names classes, colours and sizes; {CHECK} tells how the files were compared with the checkpoint; "
        f"{TEXT} and {PICTURE} show the network.",
    ]
    return "\n".join(lines) + "\n"
