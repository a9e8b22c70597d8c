"""Search for settings: short runs with other values of a few keys, the best of which become a config."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning
import optuna
import yaml
from lightning.pytorch.callbacks import Callback
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from flexunet_pl.core import console
from flexunet_pl.core.arguments import PROGRAM, without_option
from flexunet_pl.core.durations import days_of, seconds_of
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import scratch_folder, write_text
from flexunet_pl.core.ranges import Range, check_fields
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.nn.metric_registry import PRIMARY
from flexunet_pl.training import runs
from flexunet_pl.training.config_files import portable
from flexunet_pl.training.lightning_cli import TrainerCLI, run
from flexunet_pl.training.run_record import read_record
from flexunet_pl.training.search_space import (
    Config,
    chosen,
    default_space,
    distributions,
    read_space,
    stored,
    value_of,
    with_values,
)

BASE, BEST = "base.yaml", "best.yaml"
TRIALS, MINUTES = 20, 5.0  # by default
ENDS = ("--trainer.max_epochs", "--trainer.max_steps", "--trainer.max_time")
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
MOST_FAILURES = 3  # in a row
SCORE = f"val/{PRIMARY}"
EPOCH_PICTURES = "EpochPictures"  # take time that a short run needs


@dataclass(frozen=True)
class Search:
    """The options of the command ``search``.

    Attributes:
        trials: How many runs, in all calls and processes that share the storage (default: 20).
        time: How long this call begins new ones, such as 1h.
        minutes_each: How long each trains (default: 5, or as --trainer.max_epochs and the like say).
        storage: The file that several calls and processes share (default: search.journal in the folder).
        space: YAML map of what to try (default: as the network needs).
    """

    trials: Annotated[int, Range(1, 100_000)] | None = None
    time: str | None = None
    minutes_each: Annotated[float, Range(0.02, 100_000)] | None = None
    storage: str | None = None
    space: str | None = None

    def __post_init__(self) -> None:
        """Check the values; UserError if one is out of its range."""
        check_fields(self, "--")


class Pruning(Callback):
    """Tell a study the score of each validation, and end a run that does worse than the median of the others.

    Attributes:
        best: The best score so far, None before the first.
        is_pruned: Whether the run was ended.
    """

    def __init__(self, trial: Trial) -> None:
        """Report to ``trial``."""
        super().__init__()
        self.trial = trial
        self.best: float | None = None
        self.is_pruned = False

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Report the score."""
        score = float(trainer.callback_metrics.get(SCORE, math.nan))
        if trainer.sanity_checking or not math.isfinite(score):
            return
        self.best = score if self.best is None else max(self.best, score)
        self.trial.report(score, trainer.current_epoch)
        if self.trial.should_prune():
            self.is_pruned = trainer.should_stop = True


def search(words: Sequence[str], options: Search) -> None:
    """Run trials until there are enough, or the time is over; print them and write best.yaml.

    Args:
        words: Options of fit, which hold for all trials; with ``--run_dir`` of an earlier search it goes on.
        options: Those of the search.

    Raises:
        UserError: If an option or the space is wrong, or several trials in a row fail.
    """
    seconds = math.inf if options.time is None else seconds_of(options.time, "--time")
    ends = time.monotonic() + seconds
    given_space = None if options.space is None else read_space(Path(options.space))
    words, given = without_option(words, "--run_dir")
    run_dir = runs.new_run(f"{_name(words)}-search") if given is None else Path(given)
    try:
        base, text = _base(words, run_dir)
        distributions({} if given_space is None else given_space, base)  # before anything is written
        study = _study(run_dir, options)
        kept = _kept(study, options, given_space, words)
        space = distributions(default_space(base) if kept["space"] is None else kept["space"], base)
    except BaseException:
        with contextlib.suppress(OSError):
            run_dir.rmdir()  # new and still empty
        raise
    if not (run_dir / BASE).is_file():
        write_text(run_dir / BASE, text)
    console.say(f"Search folder: {run_dir}")
    if not study.trials:  # the config as it is comes first
        own = {key: value_of(base, key) for key in space}
        study.enqueue_trial({key: stored(space[key], own[key]) for key in space if own[key] is not None})
    failures = 0
    while len(study.get_trials(deepcopy=False, states=DONE)) < kept["trials"] and time.monotonic() < ends:
        try:
            trial = study.ask(space)
        except ValueError as error:
            raise UserError(f"--space: differs from that of the trials in this storage ({error})") from error
        failures = 0 if _try(study, trial, base, run_dir, kept["minutes_each"]) else failures + 1
        if failures == MOST_FAILURES:
            raise UserError(f"{failures} trials in a row failed, see above; try another --space")
        _write_best(study, base, run_dir)
    console.say(*_report(study, run_dir))


def _base(words: Sequence[str], run_dir: Path) -> tuple[Config, str]:
    """Return the config that all trials begin with, and its text to save in the folder; check it and the data set."""
    saved = run_dir / BASE
    if saved.is_file() and without_option(words, "--config")[1] is None:
        words = ["--config", str(saved), *words]
    texts: list[str] = []
    network: Config = {}

    class CheckingCLI(TrainerCLI):
        """Builds everything, and trains nothing."""

        def instantiate_classes(self) -> None:
            shared = portable(self.config.fit, self.run_dir, run_dir)
            super().instantiate_classes()
            texts.append(self._parser("fit").dump(shared))
            network.update(self.model.hparams["network"])

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    with scratch_folder() as scratch:
        run(["fit", *words, "--run_dir", str(scratch)], CheckingCLI)
    content: Config = load_yaml(texts[0])
    # So that the settings that the config leaves open are known too; weights of an encoder are no setting to try.
    filled = {key: value for key, value in network.items() if key not in ("name", "encoder_weights")}
    return content | {"model": filled | content["model"]}, texts[0]


def _study(run_dir: Path, options: Search) -> optuna.Study:
    """Return the study in the storage, a new one if it is empty. The file is lines of JSON."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = run_dir / runs.SEARCH if options.storage is None else Path(options.storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name="search",
            sampler=optuna.samplers.TPESampler(n_startup_trials=6),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
            direction="maximize",
            load_if_exists=True,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no storage of a search ({error}); name another --storage") from error


def _kept(study: optuna.Study, options: Search, space: Config | None, words: Sequence[str]) -> Config:
    """Return trials, minutes_each and space: as given, or else as before; keep them for later calls."""
    given = {"trials": options.trials, "minutes_each": options.minutes_each, "space": space}
    has_end = any(without_option(words, end)[1] is not None for end in ENDS)
    kept: Config = {"trials": TRIALS, "minutes_each": None if has_end else MINUTES, "space": None}
    kept |= {key: study.user_attrs[key] for key in kept if key in study.user_attrs}
    kept |= {key: value for key, value in given.items() if value is not None}
    for key, value in kept.items():
        if study.user_attrs.get(key, "") != value:
            study.set_user_attr(key, value)
    return kept


def _try(study: optuna.Study, trial: Trial, base: Config, run_dir: Path, minutes: float | None) -> bool:
    """Train a trial in a run folder of its own, and tell the study; return whether it gave a score."""
    pruning = Pruning(trial)

    class TrialCLI(TrainerCLI):
        """Reports to the study."""

        def _make_trainer(self) -> None:
            self.trainer_defaults["callbacks"] = [*self.trainer_defaults["callbacks"], pruning]
            super()._make_trainer()

    values = chosen(trial.params)
    console.say("", f"Trial {trial.number}: {', '.join(f'{key}={_shown(value)}' for key, value in values.items())}")
    config = with_values(base, values)
    callbacks = config["trainer"].get("callbacks") or []
    config["trainer"]["callbacks"] = [one for one in callbacks if not one["class_path"].endswith(EPOCH_PICTURES)]
    if minutes is not None:
        config["trainer"] |= {"max_time": days_of(max(1, round(60 * minutes))), "max_epochs": -1, "max_steps": -1}
    path = run_dir / f"trial-{trial.number}.yaml"
    write_text(path, yaml.safe_dump(config, sort_keys=False))
    try:
        run(["fit", "--config", str(path), "--run_dir", str(path.with_suffix(""))], TrialCLI)
    except UserError as error:
        console.note(f"Trial {trial.number} failed: {error}")
        study.tell(trial, state=TrialState.FAIL)
        return False
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    finally:
        path.unlink(missing_ok=True)
    if pruning.best is None:
        console.note(f"Trial {trial.number} failed: it ended before its first validation; give it more --minutes_each")
        study.tell(trial, state=TrialState.FAIL)
        return False
    trial.set_user_attr("score", pruning.best)
    study.tell(trial, pruning.best, TrialState.COMPLETE) if not pruning.is_pruned else study.tell(
        trial, state=TrialState.PRUNED
    )
    console.say(f"Trial {trial.number}: mDice (foreground) {pruning.best:.4f}{', ended early' * pruning.is_pruned}")
    return True


def _best(study: optuna.Study) -> FrozenTrial | None:
    done = [trial for trial in study.get_trials(deepcopy=False, states=DONE) if "score" in trial.user_attrs]
    return max(done, key=lambda trial: (trial.user_attrs["score"], -trial.number), default=None)


def _write_best(study: optuna.Study, base: Config, run_dir: Path) -> None:
    best = _best(study)
    if best is not None:
        about = f"# Trial {best.number} of a search, mDice (foreground) {best.user_attrs['score']:.4f}:\n"
        values = chosen(best.params)
        lines = "".join(f"# {key}: {_shown(value)}\n" for key, value in values.items())
        body = yaml.safe_dump(with_values(base, values), sort_keys=False)
        write_text(run_dir / BEST, about + lines + body)


def _report(study: optuna.Study, run_dir: Path) -> list[str]:
    """Return the table of trials, the best first, and how to use the best."""
    trials = study.get_trials(deepcopy=False, states=(*DONE, TrialState.FAIL))
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    trials.sort(key=lambda trial: (-trial.user_attrs.get("score", -1.0), trial.number))
    rows = [_row(trial, keys, run_dir) for trial in trials]
    best = _best(study)
    last = (
        "No trial has a score."
        if best is None
        else f"Best: trial {best.number}; train it in full: {PROGRAM} fit --config {run_dir / BEST}"
    )
    return [
        "",
        console.table(["trial", "mDice", "epochs", *(key.partition(".")[2] for key in keys), ""], rows),
        "",
        last,
    ]


def _row(trial: FrozenTrial, keys: Sequence[str], run_dir: Path) -> list[object]:
    record = read_record(run_dir / f"trial-{trial.number}")
    values: Mapping[str, Any] = chosen(trial.params)
    notes = {TrialState.PRUNED: "ended early", TrialState.FAIL: "failed"}
    score = trial.user_attrs.get("score")
    return [
        trial.number,
        "" if score is None else f"{score:.4f}",
        "" if record is None else record.epochs,
        *(_shown(values.get(key)) for key in keys),
        notes.get(trial.state, ""),
    ]


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def _name(words: Sequence[str]) -> str:
    return runs.name_for(words) or "run"
