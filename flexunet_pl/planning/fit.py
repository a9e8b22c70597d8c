"""Plan a training, and train as planned."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.console import is_first_process, note
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import scratch_folder, write_text
from flexunet_pl.planning.plan import PLAN_FILE, Plan, make_plan
from flexunet_pl.planning.request import Request, options_of
from flexunet_pl.planning.source import Source, source_from
from flexunet_pl.training.folds import fit_folds
from flexunet_pl.training.lightning_cli import TrainerCLI
from flexunet_pl.training.lightning_cli import run as run_trainer
from flexunet_pl.training.runs import is_started_from_outside

Project = tuple[Path, Mapping[str, Sequence[int]]]
# Names the file in which the first process of a run leaves the words that it trains with, between zero bytes.
WORDS_FILE = "FLEXUNET_PLANNED_WORDS"


def plan_for(request: Request, project: Project | None) -> tuple[Source, Plan]:
    """Find, audit and plan for the data of a request.

    Args:
        request: What the user asks for.
        project: Folder and colours of the TensorFlowFlexUNet project that the data are, if they are one.

    Raises:
        UserError: If they cannot be read, or keys contradict each other.
    """
    path, colors = (request.data, None) if project is None else project
    source = source_from(path, request.palette, colors, folds=request.folds)
    return source, make_plan(source.root, source.palette, request.length.part(request.folds), request.given)


def fit_planned(
    request: Request,
    project: Project | None,
    cli: type[TrainerCLI] = TrainerCLI,
) -> TrainerCLI:
    """Train as planned; the run folder gets the plan as plan.yaml.

    Args:
        request: What the user asks for.
        project: As for :func:`plan_for`.
        cli: What trains.

    Raises:
        UserError: For a mistake that the user can fix.
    """
    # Lightning repeats the command for the other processes of a run, which train by the plan of the first.
    if not is_first_process() and WORDS_FILE in os.environ:
        words = Path(os.environ[WORDS_FILE]).read_text(encoding="utf-8").split("\0")
        return run_trainer(words, cli)
    with planned_words(request, project) as (words, plan), scratch_folder() as folder:
        file = folder / "words"
        file.write_text("\0".join(["fit", *words]), encoding="utf-8")
        os.environ[WORDS_FILE] = str(file)
        try:
            return run_trainer(["fit", *words], _with_plan(cli, plan, request))
        finally:
            del os.environ[WORDS_FILE]


def fit_planned_folds(request: Request, project: Project | None, cli: type[TrainerCLI] = TrainerCLI) -> Path:
    """Train a network for each fold as planned, and make an ensemble of them; ``--time`` is that of all.

    Returns:
        The run folder.

    Raises:
        UserError: For a mistake that the user can fix.
    """
    with planned_words(request, project) as (words, plan):
        run_dir = fit_folds(words, cli)
    write_text(run_dir / PLAN_FILE, plan.text(run_dir.absolute(), request.given))
    return run_dir


@contextlib.contextmanager
def planned_words(request: Request, project: Project | None) -> Iterator[tuple[list[str], Plan]]:
    """Plan, say what was found and chosen, and yield the options of fit that train so, and the plan.

    Raises:
        UserError: For a mistake that the user can fix.
    """
    if is_started_from_outside():
        raise UserError(
            f"{request.data}: torchrun or SLURM starts several processes, which cannot plan together; first make a "
            f"config with {PROGRAM} plan {request.data}, then train with {PROGRAM} fit --config FILE"
        )
    source, plan = plan_for(request, project)
    note(*source.notes, "", *plan.lines(), "")
    with scratch_folder() as folder:
        config = folder / f"{source.name}.yaml"
        write_text(config, plan.text(folder, {}))
        yield ["--config", str(config), "--data.root", str(source.root), *_without_palette(request.words, source)], plan


def _without_palette(words: Sequence[str], source: Source) -> list[str]:
    """Return the words without a palette that became the view's own."""
    options, _ = options_of(words)
    return [
        word
        for option in options
        if not (source.is_view and option.name.startswith("data.palette"))
        for word in option.words
    ]


def _with_plan(cli: type[TrainerCLI], plan: Plan, request: Request) -> type[TrainerCLI]:
    """Return the class that trains, which also saves the plan in the run folder."""

    class PlannedCLI(cli):  # type: ignore[valid-type,misc]  # mypy knows no class that a parameter names
        def before_fit(self) -> None:
            super().before_fit()
            if is_first_process():
                folder: Any = self.run_dir
                write_text(folder / PLAN_FILE, plan.text(folder.absolute(), request.given))

    return PlannedCLI
