"""search: what it tries, what it writes, and that it goes on."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from flexunet_pl.cli.main import main
from flexunet_pl.core.durations import days_of, seconds_of
from flexunet_pl.core.errors import UserError
from flexunet_pl.training.search import Pruning
from flexunet_pl.training.search_space import (
    chosen,
    default_space,
    distributions,
    read_space,
    stored,
    value_of,
    with_values,
)

CONFIG: dict[str, Any] = {
    "model": {"network": "unet", "learning_rate": 1e-3, "loss": {"cross_entropy": 1.0, "log_dice": 0.5}},
    "data": {"image_size": 160, "crop_size": 128, "augment": {"crop": {"foreground_share": 0.8}, "hflip": 0.5}},
    "trainer": {},
}


@pytest.mark.parametrize(
    ("text", "seconds", "days"),
    [
        ("90s", 90, "00:00:01:30"),
        ("12m", 720, "00:00:12:00"),
        ("1.5h", 5400, "00:01:30:00"),
        ("30h", 108_000, "01:06:00:00"),
    ],
)
def test_durations(text: str, seconds: int, days: str) -> None:
    assert seconds_of(text, "--time") == seconds
    assert days_of(seconds) == days


@pytest.mark.parametrize("text", ["12", "m", "-3m", "0s", "2400h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--time {text} must be a number with s, m or h"):
        seconds_of(text, "--time")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.learning_rate", 1e-3),
        ("data.augment.crop.foreground_share", 0.8),
        pytest.param("model.loss.log_dice.epsilon", 0.05, id="the default of a loss that is a number"),
        ("model.loss.dice.smooth", None),
        ("data.batch_size", None),
    ],
)
def test_a_key_has_the_value_of_the_config(key: str, value: object) -> None:
    assert value_of(CONFIG, key) == value


def test_other_values_go_where_the_key_says_and_the_config_stays() -> None:
    before = yaml.safe_dump(CONFIG)
    found = with_values(
        CONFIG,
        {"model.loss.log_dice.epsilon": 0.2, "data.augment.hflip.p": 1.0, "data.batch_size": 4, "data.crop_size": 64},
    )
    assert found["model"]["loss"] == {"cross_entropy": 1.0, "log_dice": {"weight": 0.5, "epsilon": 0.2}}
    assert found["data"]["augment"]["hflip"] == {"p": 1.0}
    assert (found["data"]["batch_size"], found["data"]["crop_size"]) == (4, 64)
    assert yaml.safe_dump(CONFIG) == before


def test_the_default_space_fits_the_config() -> None:
    space = default_space(CONFIG)
    assert space["data.crop_size"] == [96, 128]  # the images have 160 pixels
    assert "model.loss.log_dice.epsilon" in space
    assert "data.crop_size" not in default_space({**CONFIG, "data": {**CONFIG["data"], "image_size": 64}})
    plain = {**CONFIG, "model": {**CONFIG["model"], "loss": {"cross_entropy": 1.0}}}
    assert "model.loss.log_dice.epsilon" not in default_space(plain)
    assert len(space) <= 6


def test_the_own_value_is_always_among_those_to_try(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "model.learning_rate: {low: 1e-2, high: 1, log: true}\n"
        "data.crop_size: [64, none]\n"
        "data.batch_size: {low: 2, high: 8}\n"
    )
    found = distributions(read_space(path), CONFIG)
    assert found["model.learning_rate"] == FloatDistribution(1e-3, 1.0, log=True)
    assert found["data.crop_size"] == CategoricalDistribution(["64", '"none"', "128"])
    assert found["data.batch_size"] == IntDistribution(2, 8)
    drawn = {key: stored(found[key], value) for key, value in {"data.crop_size": "none", "data.batch_size": 3}.items()}
    assert chosen(drawn) == {"data.crop_size": "none", "data.batch_size": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must be a map from keys"),
        ("learning_rate: [1, 2]", "'learning_rate' must be a key of a config, such as model.learning_rate"),
        ("model.learning_rate: 3", "must be a list of choices, or a map of low and high"),
        ("model.learning_rate: {low: 1}", "must be a list of choices, or a map of low and high"),
        ("model.learning_rate: {low: a, high: 2}", "from or to 'a', which is no number"),
        ("model.dropout: {low: 3, high: 2}", "is no range"),
        ("model.dropout: !!python/object:os.system {}", "cannot be read"),
    ],
)
def test_what_is_no_space_is_one_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        distributions(read_space(tmp_path / "space.yaml"), CONFIG)


class FakeTrainer:
    sanity_checking = should_stop = False
    current_epoch = 0

    def __init__(self, score: float) -> None:
        self.callback_metrics = {"val/mean_foreground_dice": score}


def test_a_run_below_the_median_of_the_others_ends_early() -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    ended = []
    for score in (0.5, 0.7, 0.8, 0.4):  # the median before the last is 0.7
        pruning, trainer = Pruning(study.ask()), FakeTrainer(score)
        pruning.on_validation_end(cast(Any, trainer), cast(Any, None))
        study.tell(pruning.trial, score)
        assert pruning.best == score
        ended.append((pruning.is_pruned, trainer.should_stop))
    assert ended == [(False, False), (False, False), (False, False), (True, True)]


def test_a_score_that_is_no_number_is_not_reported() -> None:
    pruning = Pruning(optuna.create_study().ask())
    pruning.on_validation_end(cast(Any, FakeTrainer(float("nan"))), cast(Any, None))
    assert pruning.best is None


def test_a_search_writes_a_config_and_goes_on(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, run_dir = tmp_path / "space.yaml", tmp_path / "found"
    space.write_text("model.learning_rate: {low: 1e-3, high: 1e-2, log: true}\ndata.batch_size: [4, 8]\n")
    words = ["--config", str(tiny_config), "--trainer.max_epochs", "1", "--space", str(space)]
    assert main(["search", *words, "--trials", "2", "--run_dir", str(run_dir)]) == 0
    output = capsys.readouterr().out
    assert "Trial 0: model.learning_rate=0.003, data.batch_size=4\n" in output  # the config as it is
    assert f"train it in full: flexunet fit --config {run_dir / 'best.yaml'}" in output
    # Without further options the search goes on as it was begun.
    assert main(["search", "--run_dir", str(run_dir), "--trials", "3"]) == 0
    output = capsys.readouterr().out
    assert "Trial 2: " in output
    assert "Trial 1: " not in output
    assert sorted(path.name for path in run_dir.glob("trial-*")) == ["trial-0", "trial-1", "trial-2"]
    (study,) = optuna.get_all_study_summaries(storage(run_dir))
    assert study.best_trial is not None
    best = yaml.safe_load((run_dir / "best.yaml").read_text())
    assert best["model"]["learning_rate"] == pytest.approx(study.best_trial.params["model.learning_rate"])
    assert best["trainer"]["max_epochs"] == 1
    # best.yaml is a config, and its trial is repeated by it.
    assert main(["fit", "--config", str(run_dir / "best.yaml"), "--run_dir", str(tmp_path / "full")]) == 0


def storage(run_dir: Path) -> optuna.storages.JournalStorage:
    backend = optuna.storages.journal.JournalFileBackend(str(run_dir / "search.journal"))
    return optuna.storages.JournalStorage(backend)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "many"], "--trials 'many' is no number"),
        (["--trials", "0"], "--trials=0 must be at least 1"),
        (["--time", "soon"], "--time soon must be a number with s, m or h"),
        (["--space", "nowhere.yaml"], "--space nowhere.yaml: cannot be read"),
    ],
)
def test_a_wrong_option_is_one_error_and_leaves_nothing(
    words: list[str], message: str, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "--config", str(tiny_config), "--run_dir", str(tmp_path / "found"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_without_optuna_the_extra_is_named(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["search", "--config", str(tiny_config)]) == 2
    assert "this needs the package optuna; run: pip install 'flexunet_pl[search]'" in capsys.readouterr().err


@pytest.mark.full
def test_two_processes_share_a_search(tiny_config: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "found"
    words = [sys.executable, "-m", "flexunet_pl", "search", "--config", str(tiny_config), "--run_dir", str(run_dir)]
    words += ["--trainer.max_epochs", "1", "--trials", "4"]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    ran = [set(re.findall(r"^Trial (\d+): model", output, re.MULTILINE)) for output in outputs]
    assert all(ran)  # each ran some
    assert not ran[0] & ran[1]  # none was run twice
    (study,) = storage(run_dir).get_all_studies()
    trials = storage(run_dir).get_all_trials(study._study_id)
    assert {trial.state for trial in trials} == {optuna.trial.TrialState.COMPLETE}
    assert len(trials) in (4, 5)  # the last of each may have begun at once
    assert {str(trial.number) for trial in trials} == ran[0] | ran[1]
    best = max(trials, key=lambda trial: (trial.user_attrs["score"], -trial.number))
    found = yaml.safe_load((run_dir / "best.yaml").read_text())
    assert found["model"]["learning_rate"] == pytest.approx(best.params["model.learning_rate"])
