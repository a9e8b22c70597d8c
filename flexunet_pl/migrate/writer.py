"""Write a project of TensorFlowFlexUNet as a config and a checkpoint."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import __version__ as lightning_version

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_path, write_text
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.migrate.config_parser import read_config
from flexunet_pl.migrate.keys import known_key, place_of
from flexunet_pl.migrate.network import Network, find_network
from flexunet_pl.migrate.palette import build_palette
from flexunet_pl.migrate.project import Project
from flexunet_pl.migrate.recipe import build_recipe, idle_keys, target_of
from flexunet_pl.nn.networks import nested_settings
from flexunet_pl.training.checkpoint import read_checkpoint
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.training.training_size import check_training_size

logger = logging.getLogger(__name__)
HEADER = "# Migrated from"


def migrate_project(source: Path, folder: Path, weights: Path | None, as_run: bool, names: str | None) -> list[str]:
    """Write the files of a migrated project and return the lines of the report.

    Raises:
        UserError: If a file cannot be read, weights and config contradict each other, or a name is wrong.
    """
    target = _target(source, folder)
    project = Project(read_config(source), as_run)
    network = find_network(project, weights)
    palette = build_palette(project, network.num_classes, names)
    recipe = build_recipe(project, network, palette, folder)
    task = _checked_task(recipe, with_weights=network.state_dict is not None)
    report = list(_report(project, len(palette) if network.num_classes is None else network.num_classes))
    written = [target]
    if network.state_dict is not None:
        written.append(target.with_name(f"{source.stem}.ckpt"))
        _write_checkpoint(written[1], task, network)
    write_text(target, _yaml(source, recipe, project))
    for warning in project.warnings:
        logger.warning("warning: %s", warning)
    return [*report, "", *map(str, written)]


def _target(source: Path, folder: Path) -> Path:
    """Return the path of the YAML, unless a file of someone else is there."""
    target = folder / f"{source.stem}.yaml"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder to write to")
    if target.exists() and not target.read_bytes().startswith(HEADER.encode()):
        raise UserError(f"{target}: exists, and was not written by migrate; name another folder")
    return target


def _checked_task(recipe: dict[str, Any], *, with_weights: bool) -> SegmentationTask:
    """Build DataModule and task as the command line does, so that no config is written that cannot run."""
    data, model = recipe["data"], recipe["model"]
    module = SegmentationDataModule(**data)
    known = {"in_channels": data["channels"], "image_size": data["image_size"], "resize": data["resize"]}
    # Weights that are replaced at once need no memory and no random numbers; torch's meta device has neither.
    with torch.device("meta"):
        task = SegmentationTask(palette=module.palette.to_mapping(), **known, **nested_settings(model))
    check_training_size(task.size_multiple, task.hparams["network"], module)
    if with_weights:
        task.to_empty(device="cpu")
    return task


def _write_checkpoint(path: Path, task: SegmentationTask, network: Network) -> None:
    """Write a checkpoint as Lightning does, of a run that is about to begin, and read it back before it appears."""
    weights = {f"network.{key}": tensor for key, tensor in (network.state_dict or {}).items()}
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning_version,
        "state_dict": weights,
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        task.CHECKPOINT_HYPER_PARAMS_KEY: dict(task.hparams),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
        again = read_checkpoint(temporary)["state_dict"]
        if again.keys() != weights.keys() or not all(torch.equal(again[key], weights[key]) for key in weights):
            raise UserError(f"{path}: was read back with other weights; the disk may be full or faulty")


def _report(project: Project, num_classes: int) -> Iterator[str]:
    """Yield the new place of each key of the file, and all findings."""
    settings = project.config.settings
    no_effect = project.without_effect() | idle_keys(project, num_classes)
    yield f"{project.config.path}: {len(settings)} keys"
    for name in settings:
        if name not in no_effect and known_key(name) is not None:
            yield f"  {place_of(name)} = {project.text(name)} -> {target_of(name)}"
    if no_effect:
        yield f"\n{len(no_effect)} keys have no effect here:"
        yield from (f"  {place_of(name)}: {reason}" for name, reason in no_effect.items())
    if project.findings:
        yield f"\n{len(project.findings)} findings:"
        yield from map(str, sorted(project.findings))


def _yaml(source: Path, recipe: dict[str, Any], project: Project) -> str:
    """Return the recipe as YAML, the findings as comments above it."""
    title = f"{HEADER} {source.name} by flexunet_pl {__version__}{', as run' if project.as_run else ''}."
    findings = "\n".join(str(finding) for finding in sorted(project.findings)).splitlines()
    comments = ["".join(character if character.isprintable() else "?" for character in line) for line in findings]
    body = yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    return "\n".join([title, *(f"# {line}" for line in comments), body])
