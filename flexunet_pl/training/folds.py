"""Cross-validation: a network for each fold of a data set, their out-of-fold scores, and the ensemble of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flexunet_pl.core import console
from flexunet_pl.core.arguments import PROGRAM, without_option
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_json, write_text
from flexunet_pl.data.manifest import folds_of, sha256_of
from flexunet_pl.nn.metric_registry import PRIMARY, metrics_of
from flexunet_pl.nn.networks import MOST_MEMBERS
from flexunet_pl.nn.score_table import ScoreTable
from flexunet_pl.training import run_record, runs
from flexunet_pl.training.callbacks import ScoreWriter
from flexunet_pl.training.config_files import portable
from flexunet_pl.training.ensemble_checkpoint import write_ensemble
from flexunet_pl.training.lightning_cli import TrainerCLI, run

OPTION = "--folds"
# Options of fit that do not go with it, and why.
REFUSED = {"--data.fold": "all folds are trained", "--ckpt_path": "each fold goes on after its own last checkpoint"}
MEANS = (PRIMARY, "mean_foreground_iou", "mean_iou")  # columns of the table of folds


@dataclass
class Folds:
    """The content of folds.json.

    Attributes:
        folds: How many there are.
        classes: Names of the classes.
        scored: By the number of a fold the ``checkpoint``'s SHA-256, and the ``images`` and the ``confusion`` matrix of
            the images that validate in it, counted as ``validate`` counts.
        out_of_fold: The scores that follow from the sum of all matrices, once all folds are scored.
    """

    folds: int
    classes: list[str] = field(default_factory=list)
    scored: dict[str, dict[str, Any]] = field(default_factory=dict)
    out_of_fold: dict[str, Any] | None = None

    @classmethod
    def read(cls, run_dir: Path) -> "Folds":
        """Read the file of a run; UserError if it is damaged."""
        path = run_dir / runs.FOLDS
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); move it away, and repeat fit {OPTION}") from error

    def tables(self) -> list[ScoreTable]:
        """Return the scores of each fold, in order, and those of all images, last."""
        counts = [self.scored[str(fold)] for fold in range(self.folds)]
        tables = [ScoreTable(one["confusion"], one["images"]) for one in counts]
        confusion = np.sum([table.counts.confusion for table in tables], axis=0)
        return [*tables, ScoreTable(confusion, sum(table.images for table in tables))]


def fit_folds(words: Sequence[str], cli: type[TrainerCLI] = TrainerCLI) -> Path:
    """Run ``fit --folds K``: train and score the folds that are not yet, and write the checkpoint of their ensemble.

    Args:
        words: The options of fit, with ``--folds``.
        cli: What trains.

    Returns:
        The run folder.

    Raises:
        UserError: If the data set has no such folds, an option does not go with --folds, or as for fit.
    """
    others, number = without_option(words, OPTION)
    others, given = without_option(others, "--run_dir")
    folds = _checked_number(number)
    for option, why in REFUSED.items():
        if without_option(others, option)[1] is not None:
            raise UserError(f"{option} does not go with {OPTION}: {why}; leave one of them out")
    if not console.is_first_process() or runs.is_started_from_outside():
        raise UserError(f"{OPTION} trains one network after the other; start it without torchrun and SLURM")
    run_dir = runs.new_run(runs.name_for(others)) if given is None else Path(given)
    if runs.checkpoint_file(run_dir, "last").is_file():
        raise UserError(f"{run_dir}: this folder holds a run without folds; choose another --run_dir")
    config = runs.saved_config(str(run_dir))
    if config is not None and without_option(others, "--config")[1] is None:
        others = ["--config", str(config), *others]
    with runs.reserved(run_dir):
        try:
            _train_all(run_dir, folds, others, cli)
        except BaseException:
            if runs.has_folds(run_dir):
                _record(run_dir, folds, run_record.STOPPED)
            raise
    return run_dir


def resume_folds(run_dir: Path, words: Sequence[str]) -> None:
    """Go on with a run of :func:`fit_folds`; ``words`` are options of fit for the folds that are not finished.

    Raises:
        UserError: As :func:`fit_folds`.
    """
    fit_folds(["--run_dir", str(run_dir), OPTION, str(Folds.read(run_dir).folds), *words])


def check_folds(root: str | None, folds: int) -> None:
    """Raise the UserError that says how to get folds unless a data set has the folds 0 to ``folds`` - 1."""
    if root is None:
        raise UserError(f"{OPTION} {folds}: data.root is not given; name a data set that was prepared with {OPTION}")
    known = folds_of(Path(root))
    if not known:
        raise UserError(
            f"{OPTION} {folds}: {root} has no folds; make a data set that has them, {PROGRAM} prepare pairs {root} "
            f"{root}-folds {OPTION} {folds}, and train on that"
        )
    if known != list(range(folds)):
        raise UserError(
            f"{OPTION} {folds}: {root} has {len(known)} folds; give {OPTION} {len(known)}, or prepare it again"
        )


def _train_all(run_dir: Path, folds: int, words: Sequence[str], cli: type[TrainerCLI]) -> None:
    places = [run_dir / f"{runs.FOLD}{fold}" for fold in range(folds)]
    for fold, place in enumerate(places):
        record = run_record.read_record(place)
        if record is not None and record.state == run_record.FINISHED:
            console.say(f"{_title(fold, folds)}: finished before, in {place}")
        else:
            _train(run_dir, folds, fold, words, cli)
        _score(run_dir, fold, runs.find_checkpoint(place))
    found = Folds.read(run_dir)
    tables = found.tables()
    found.out_of_fold = tables[-1].to_mapping(found.classes)
    _write(run_dir, found)
    best = runs.checkpoint_file(run_dir, "best")
    write_ensemble([runs.find_checkpoint(place) for place in places], best)
    _record(run_dir, folds, run_record.FINISHED, tables[-1][PRIMARY])
    console.say(*_report(tables, found.classes), f"Ensemble of the {folds} networks: {best}")


def _train(run_dir: Path, folds: int, fold: int, words: Sequence[str], cli: type[TrainerCLI]) -> None:
    """Train the network of a fold, from its last checkpoint on if there is one."""

    class FoldCLI(cli):  # type: ignore[valid-type,misc]  # mypy knows no class that a parameter names
        """Checks the folds first; once the data are checked too, the run's own files appear."""

        def instantiate_classes(self) -> None:
            config = self.config.fit
            check_folds(config.data.root, folds)
            shared = portable(config, self.run_dir, run_dir)
            shared.data.fold = None
            super().instantiate_classes()
            if self.trainer.world_size > 1:
                raise UserError(
                    f"{OPTION} trains each network in one process; leave out --trainer.devices and --trainer.strategy, "
                    "or train the folds one by one with --data.fold"
                )
            if runs.saved_config(str(run_dir)) is None:
                write_text(run_dir / runs.CONFIG, self._parser("fit").dump(shared))
            if not runs.has_folds(run_dir):
                _write(run_dir, Folds(folds))
            if Folds.read(run_dir).folds != folds:
                raise UserError(f"{OPTION} {folds}: {run_dir} has other folds; choose another --run_dir")
            _record(run_dir, folds, run_record.TRAINING)

        def before_fit(self) -> None:
            console.say("", _title(fold, folds))
            super().before_fit()

    place = run_dir / f"{runs.FOLD}{fold}"
    last = ["--ckpt_path", "last"] if runs.checkpoint_file(place, "last").is_file() else []
    run(["fit", *words, "--data.fold", str(fold), "--run_dir", str(place), *last], FoldCLI)


def _title(fold: int, folds: int) -> str:
    return f"Network {fold + 1} of {folds}, validated on fold {fold}"


def _score(run_dir: Path, fold: int, checkpoint: Path) -> None:
    """Count the validation images of a fold, unless this checkpoint was counted before."""

    class SilentCLI(TrainerCLI):
        """Prints no table."""

        def _make_trainer(self) -> None:
            writers = self.trainer_defaults["callbacks"]
            self.trainer_defaults["callbacks"] = [one for one in writers if not isinstance(one, ScoreWriter)]
            super()._make_trainer()

    found, digest = Folds.read(run_dir), sha256_of(checkpoint)
    if found.scored.get(str(fold), {}).get("checkpoint") == digest:
        return
    cli = run(["validate", "--run_dir", str(run_dir / f"{runs.FOLD}{fold}"), "--ckpt_path", str(checkpoint)], SilentCLI)
    table = cli.model.tables["val"]
    found.classes = list(cli.model.palette.names)
    found.scored[str(fold)] = {"checkpoint": digest, "images": table.images, "confusion": table.confusion}
    _write(run_dir, found)


def _write(run_dir: Path, found: Folds) -> None:
    write_json(run_dir / runs.FOLDS, asdict(found))


def _record(run_dir: Path, folds: int, state: str, best: float | None = None) -> None:
    """Write run.json of the whole run: sums over its folds."""
    parts = [run_record.read_record(run_dir / f"{runs.FOLD}{fold}") for fold in range(folds)]
    known = [part for part in parts if part is not None]
    record = run_record.Record(
        state,
        round(sum(part.seconds for part in known), 1),
        sum(part.epochs for part in known),
        sum(part.steps for part in known),
        f"val/{PRIMARY}",
        best,
        has_lock=True,
    )
    run_record.write_record(run_dir, record)


def _report(tables: Sequence[ScoreTable], classes: Sequence[str]) -> list[str]:
    """Return the lines with the scores of the folds, and of all images together."""
    *parts, together = tables
    means = [metric for metric in metrics_of() if metric.key in MEANS]
    names = [*(f"fold {fold}" for fold in range(len(parts))), "all"]
    rows = [
        [name, table.images, *(_shown(table[metric.key]) for metric in means)]
        for name, table in zip(names, tables, strict=True)
    ]
    columns = metrics_of(per_class=True)
    by_class = [
        [name, *(_shown(together.of_class(index)[metric.key]) for metric in columns)]
        for index, name in enumerate(classes)
    ]
    title = f"Out-of-fold scores of {together.images} images, each predicted by the network that did not train on it"
    return [
        *("", title),
        console.table(["", "images", *(metric.name for metric in means)], rows),
        *("", "All images"),
        *(console.table(["class", *(metric.title for metric in columns)], by_class), ""),
    ]


def _shown(value: float | None) -> float | str:
    return "n/a" if value is None else value


def _checked_number(text: str | None) -> int:
    number = int(text) if text is not None and text.isdecimal() else 0
    if not 2 <= number <= MOST_MEMBERS:
        given = "" if text is None else text
        raise UserError(f"{OPTION} {given!r} must be a number of folds from 2 to {MOST_MEMBERS}, as the data set has")
    return number
