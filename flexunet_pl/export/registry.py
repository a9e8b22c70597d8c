"""The registry of export formats: what each one is called, and how it is written and verified."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.export import formats
from flexunet_pl.export.int8.calibration import Pictures
from flexunet_pl.training.task import SegmentationTask


@dataclass(frozen=True)
class ExportJob:
    """What exporters work on.

    Attributes:
        task: The checkpoint.
        facts: The content of labels.json.
        folder: Where the files of the bundle are written.
        pictures: The calibration images, if there are any.
        force: Whether to accept a model that loses accuracy.
    """

    task: SegmentationTask
    facts: Mapping[str, Any]
    folder: Path
    pictures: Pictures | None = None
    force: bool = False


@dataclass(frozen=True)
class Exporter:
    """One format of a bundle.

    Attributes:
        name: What ``--formats`` calls it.
        suffix: The file is called "model" and this.
        description: What the file is, a phrase for the README of a bundle.
        write: Writes the file of a job to a path.
        verify: Checks the written file and returns what check.json says about it. It raises UserError if the file is
            not good enough; then nothing of the bundle appears.
        refusal: Returns why a checkpoint cannot have this format, with the repair, or None. By default all can.
        needs_calibration: Whether calibration images are required.
        made_from: Names of the formats whose files this one is made from.
        companions: Files that belong beside it in the bundle, by name.
        usage: Markdown on how to use the file, for the README of a bundle.
    """

    name: str
    suffix: str
    description: str
    write: Callable[[ExportJob, Path], None]
    verify: Callable[[ExportJob, Path], dict[str, Any]]
    refusal: Callable[[SegmentationTask], str | None] = lambda _task: None
    needs_calibration: bool = False
    made_from: tuple[str, ...] = ()
    companions: Mapping[str, Path] = field(default_factory=dict)
    usage: str = ""

    @property
    def file_name(self) -> str:
        """Name of the file in the bundle."""
        return f"model{self.suffix}"


EXPORTERS: dict[str, Exporter] = {}


def register_exporter(exporter: Exporter) -> Exporter:
    """Add a format, which ``--formats`` then accepts; ValueError if another has its name or writes the same file."""
    for known in EXPORTERS.values():
        if exporter.name == known.name or exporter.file_name == known.file_name:
            raise ValueError(f"export format {known.name!r} exists and writes {known.file_name}; choose other names")
    EXPORTERS[exporter.name] = exporter
    return exporter


def chosen_exporters(names: Iterable[str], option: str) -> list[Exporter]:
    """Return the exporters of ``names``, each after those whose files it is made from; messages begin with ``option``.

    Raises:
        UserError: If a format is unknown, or a format it is made from is missing.
    """
    asked = dict.fromkeys(names)
    for name in asked:
        if name not in EXPORTERS:
            known = f"{', '.join(sorted(EXPORTERS))}, separated by commas{suggestion(name, EXPORTERS)}"
            raise UserError(f"{option}: unknown format {name!r}; choose from {known}")
        for source in EXPORTERS[name].made_from:
            if source not in asked:
                raise UserError(f"{option}: {name} is made from {source}; add it, --formats {source},{name}")
    return sorted((EXPORTERS[name] for name in asked), key=_depth)


def _depth(exporter: Exporter) -> int:
    return max((1 + _depth(EXPORTERS[name]) for name in exporter.made_from), default=0)


def load_formats() -> None:
    """Import every module of ``flexunet_pl.export.formats``, each of which registers its formats."""
    for module in sorted(module.name for module in pkgutil.iter_modules(formats.__path__)):
        importlib.import_module(f"{formats.__name__}.{module}")
