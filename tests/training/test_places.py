"""Folders that stand first on a command line, and what run folders say about their runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flexunet_pl.cli.report import parse
from flexunet_pl.core.errors import UserError
from flexunet_pl.training import runs
from flexunet_pl.training.data_paths import test_data_of as data_of
from flexunet_pl.training.places import as_options
from flexunet_pl.training.run_record import KILLED, STOPPED, TRAINING, read_record, table_of_runs


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with two runs; tile-1 began last."""
    monkeypatch.chdir(tmp_path)
    for name, began in (("tile-1", 2000), ("tile-2", 1000)):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
        config = tmp_path / "runs" / name / "config.yaml"
        config.write_text(yaml.safe_dump({"data": {"root": "../../tiles"}, "model": {"network": "unet"}}))
        (tmp_path / "runs" / name / "checkpoints" / "last.ckpt").touch()
        os.utime(config, (began, began))
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("fit", "tiles --seed_everything 1", "--data.root tiles --seed_everything 1"),
        ("fit", "--config a.yaml", "--config a.yaml"),
        ("tune", "tiles --find batch_size", "--data.root tiles --find batch_size"),
        ("test", "runs/tile-2", "--run_dir runs/tile-2"),
        ("test", "tile-2 --model.tta true", "--run_dir runs/tile-2 --model.tta true"),
        ("validate", "latest", "--run_dir runs/tile-1"),
        ("predict", "latest photos", "--run_dir runs/tile-1 --out runs/tile-1/predictions --data.predict_dir photos"),
        ("predict", "latest photos --out masks", "--run_dir runs/tile-1 --data.predict_dir photos --out masks"),
        ("predict", "latest photos --out=masks", "--run_dir runs/tile-1 --data.predict_dir photos --out=masks"),
        (
            "test",
            "runs/tile-2/checkpoints/last.ckpt",
            "--run_dir runs/tile-2 --ckpt_path runs/tile-2/checkpoints/last.ckpt",
        ),
    ],
)
@pytest.mark.usefixtures("place")
def test_places_are_short_for_options(command: str, words: str, expected: str) -> None:
    assert as_options(command, words.split()) == expected.split()


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("fit", "tiles more", "fit tiles more: takes DATA before its options; leave 'more' out"),
        ("test", "tile-3", r"tile-3: is no run folder; .*runs/ holds tile-1, tile-2"),
        ("test", "runs/notes", "is no run folder"),
        ("predict", "latest photos more", "takes RUN IMAGES before its options; leave 'more' out"),
    ],
)
@pytest.mark.usefixtures("place")
def test_what_is_no_place_is_refused(command: str, words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_options(command, words.split())


def test_without_runs_there_is_no_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="latest: runs/ holds no run yet"):
        runs.find_run(Path("latest"))


def test_a_file_of_the_name_comes_before_a_run(place: Path) -> None:
    (place / "tile-1").mkdir()
    (place / "latest").touch()
    assert runs.named_run(Path("tile-1")) == Path("tile-1")
    assert runs.named_run(Path("latest")) == Path("latest")
    assert runs.find_checkpoint(Path("tile-2")) == Path("runs/tile-2/checkpoints/last.ckpt")


def test_a_run_knows_its_test_data(place: Path) -> None:
    run = place / "runs" / "tile-1"
    assert data_of(run) == {"data": place / "tiles", "antialiased_masks": False}
    data = {"root": None, "test_images": "../images", "test_masks": "/masks", "antialiased_masks": True}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    places = {"data": None, "images": run / "../images", "masks": Path("/masks"), "antialiased_masks": True}
    assert data_of(run) == places
    for text in ("data: {root: null}", "model: {}", "data: ["):
        (run / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config.yaml: .*; name (them|data) with --data"):
            data_of(run)


@pytest.mark.parametrize(("given", "blended"), [([], False), (["--antialiased_masks", "true"], True)])
def test_an_option_of_report_wins_over_the_run(place: Path, given: list[str], blended: bool) -> None:
    request = parse(["latest", *given])
    assert (request.antialiased, request.data, request.out) == (blended, Path("tiles"), Path("runs/tile-1/report"))
    assert place.is_dir()


def test_the_table_of_runs_has_what_can_be_read(place: Path) -> None:
    facts = {"state": TRAINING, "seconds": 90.0, "epochs": 7, "steps": 70, "monitor": "val/mean_foreground_dice"}
    (place / "runs" / "tile-1" / "run.json").write_text(json.dumps(facts | {"best": 0.91234, "has_lock": True}))
    (place / "runs" / "tile-1" / "test_scores.json").write_text('{"mean_foreground_dice": 0.9}')
    (place / "runs" / "tile-2" / "run.json").write_text('{"state": "training"}')
    lines = table_of_runs(runs.all_runs()).splitlines()
    assert [line.split()[0] for line in lines] == ["run", "tile-1", "tile-2"]
    row = lines[1].split()
    assert row == ["tile-1", "tiles", "unet", "7", "1.5", "0.912", "mean_foreground_dice", "0.900", KILLED]
    assert lines[2].split() == ["tile-2", "tiles", "unet"]


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
@pytest.mark.parametrize(("number", "state"), [(signal.SIGTERM, STOPPED), (signal.SIGKILL, KILLED)])
def test_a_run_that_ends_early_says_so(number: signal.Signals, state: str, tiny_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny-1"
    words = ["--config", str(tiny_config), "--run_dir", str(run), "--trainer.max_epochs", "100000"]
    process = subprocess.Popen([sys.executable, "-m", "flexunet_pl", "fit", *words], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while ((record := read_record(run)) is None or record.epochs < 1) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert table_of_runs([run]).split()[-1] == TRAINING
    finally:
        process.send_signal(number)
        process.wait(60)
    assert table_of_runs([run]).split()[-1] == state
