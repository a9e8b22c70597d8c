"""Export a checkpoint as one folder that runs elsewhere: write it, verify it, then rename it."""

import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_bytes, write_json, write_text
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.data.samples import ReadingRules
from flexunet_pl.export.bundle_folder import CHECK, LABELS, bundle_folder, refuse_foreign_folder
from flexunet_pl.export.int8.calibration import Pictures
from flexunet_pl.export.registry import Exporter, ExportJob, chosen_exporters, load_formats
from flexunet_pl.summary.source import PICTURE, TEXT, describe_task, write_summary
from flexunet_pl.training.decision_file import exported_decision
from flexunet_pl.training.drift_file import attach_drift
from flexunet_pl.training.task import SegmentationTask

FORMAT = 1

logger = logging.getLogger(__name__)
load_formats()


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
    """Write the bundle of a checkpoint and return the exit code, 0; ``flexunet_pl.cli.export`` explains the options.

    Raises:
        UserError: If the checkpoint, the folder or an option is not usable, or the export is not good enough.
    """
    names = [name.strip() for name in formats.split(",")] + (["int8"] if int8 else [])
    exporters = chosen_exporters(names, f"--formats={formats}{' --int8' if int8 else ''}")
    for exporter in exporters:
        if exporter.needs_calibration and calibration is None:
            raise UserError(
                f"--calibration DIR is missing: {exporter.name} needs a folder of typical images, which sets the ranges"
            )
    refuse_foreign_folder(out)
    changes = {} if min_region_area is None else {"min_region_area": min_region_area}
    task = SegmentationTask.from_checkpoint(ckpt, **changes)
    for exporter in exporters:
        if (reason := exporter.refusal(task)) is not None:
            name = task.hparams["network"]["name"]
            raise UserError(f"--formats={formats}: {ckpt} has the network {name!r}: {reason}")
    pictures = None
    if calibration is not None:
        rules = ReadingRules(task.hparams["in_channels"], task.hparams["sixteen_bit"], antialiased_masks)
        pictures = Pictures.in_folder(calibration, task.palette, task.sizing, rules)
    drift = attach_drift(task, ckpt)
    facts = facts_of(task, ckpt)
    if drift is not None:
        facts["drift"] = {"threshold": drift.statistics.threshold, **drift.facts}
    with bundle_folder(out) as folder:
        files = _write_bundle(ExportJob(task, facts, folder, pictures, force), exporters, out.name, ckpt.name)
    logger.info("wrote %s: %s", out, ", ".join(files))
    return 0


def _write_bundle(job: ExportJob, exporters: list[Exporter], bundle_name: str, ckpt_name: str) -> list[str]:
    """Write and verify all files of a bundle and return their names, check.json last."""
    report: dict[str, Any] = {"checkpoint": ckpt_name, "checkpoint_sha256": job.facts["checkpoint_sha256"]}
    for exporter in exporters:
        path = job.folder / exporter.file_name
        logger.info("writing %s", path.name)
        exporter.write(job, path)
        report[path.name] = exporter.verify(job, path)
        for name, source in exporter.companions.items():
            write_bytes(job.folder / name, source.read_bytes())
    write_json(job.folder / LABELS, job.facts)
    write_summary(describe_task(job.task), job.folder)
    write_text(job.folder / "README.md", _readme(bundle_name, job.facts, exporters))
    versions = {package: version(package) for package in ("torch", "onnx", "onnxruntime")}
    report["versions"] = {"flexunet_pl": __version__, **versions}
    report["files"] = {path.name: sha256_of(path) for path in sorted(job.folder.iterdir())}
    write_json(job.folder / CHECK, report)
    return [*report["files"], CHECK]


def facts_of(task: SegmentationTask, ckpt: Path) -> dict[str, Any]:
    """Return the content of labels.json: everything needed to use the model, as built-in types.

    Raises:
        UserError: If the graph of this network takes one size only, and images keep theirs.
    """
    palette, settings, image_size = task.palette, task.hparams, [task.sizing.height, task.sizing.width]
    takes_any_size = getattr(task.network, "exports_any_size", True)
    if not takes_any_size and task.sizing.rule == "none":
        raise UserError(
            f"{ckpt}: the graph of a {settings['network']['name']!r} takes one size only, and data.resize=none "
            "leaves images at theirs; train with data.resize=letterbox or stretch, or with another network"
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
        "image_size": image_size,
        "resize": task.sizing.rule,
        "sixteen_bit": settings["sixteen_bit"],
        "size_multiple": task.size_multiple,
        "fixed_size": None if takes_any_size else image_size,
        "min_region_area": settings["min_region_area"],
        "decision": exported_decision(ckpt),
        "checkpoint_sha256": sha256_of(ckpt),
        "network": settings["network"]["name"],
    }


def _readme(name: str, facts: Mapping[str, Any], exporters: list[Exporter]) -> str:
    """Return the README of a bundle: what it is, how to use it, and what each file is."""
    classes = ", ".join(entry["name"] for entry in facts["classes"])
    files = {exporter.file_name: exporter.description for exporter in exporters} | {
        LABELS: "classes, colours and sizes",
        CHECK: "how the files compare with the checkpoint",
        f"{TEXT}, {PICTURE}": "the network",
    }
    about = f"# {name}\n\nA segmentation model exported by flexunet_pl {facts['version']}. Classes: {classes}."
    usages = [exporter.usage for exporter in exporters if exporter.usage]
    listing = "".join(f"- {file}: {description}\n" for file, description in files.items())
    return "\n\n".join([about, *usages, listing])
