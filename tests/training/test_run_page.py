"""The page of a run, the line of an epoch, and the last five lines, of real small runs."""

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from test_validation_images import ALARM, MISSED, counted

from flexunet_pl.cli.main import main
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.training import run_page
from flexunet_pl.training.run_page import PAGE, RunPage
from flexunet_pl.training.run_status import RunStatus, Scored
from flexunet_pl.training.validation_images import ValidationImages

HOSTILE = "<script>alert(1)</script>"
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


class Links(HTMLParser):
    """Collects what a page refers to, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for key, value in attrs if key in ("src", "href", "content", "action")]


def last_lines(output: str) -> list[str]:
    """Return the five lines that a run ends with, before the path of its checkpoint."""
    return output.splitlines()[-6:-1]


def test_a_run_tells_how_it_goes_and_what_to_do(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = ["--trainer.callbacks+", "EpochPictures", "--trainer.callbacks.count", "1"]
    fit = ["fit", "--config", str(tiny_config), "--run_dir", "run", *pictures, "--trainer.callbacks+", "Curves"]
    assert main([*fit, "--trainer.max_epochs", "2"]) == 0
    output = capsys.readouterr().out
    score = r"val_mDice 0\.\d{3} \(best 0\.\d{3}\), worst \w+ 0\.\d{3}"
    assert re.search(rf"^Epoch 1/2, {score}, left \d+ s$", output, re.MULTILINE)
    assert re.search(rf"^Epoch 2/2, {score}, left 0 s$", output, re.MULTILINE)
    lines = last_lines(output)
    assert re.fullmatch(r"mDice 0\.\d{3}, .*; 6 validation images \(epoch [12], the best checkpoint\)\.", lines[0])
    assert re.fullmatch(r"Worst class: \w+, Dice \d\.\d{3}; .+: \d+% of its wrong pixels.*\.", lines[1])
    assert lines[2] == "Pictures: run/index.html, worst images in run/epoch_pictures/worst.png."
    assert lines[3] == "Next: flexunet report run"
    assert lines[4].startswith("Would help most: ")

    page = Path("run", PAGE).read_text()
    assert all(line in page for line in lines)
    assert ">finished<" in page
    assert "http-equiv" not in page, "a page that is complete is not renewed"
    assert page.count("(worst)") == 1
    links = Links(page)
    files = [target.partition("?")[0] for target in links.targets if "/" in target or "." in target]
    assert {"epoch_pictures/worst.png", "curves/scores.png", "config.yaml"} <= set(files)
    assert all(Path("run", file).is_file() for file in files if not file.startswith("width="))
    assert "script" not in links.tags

    kept = ValidationImages.load(Path("run"))
    assert kept is not None
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert kept.epoch == best["epoch"] + 1
    last = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert [epoch for epoch, _ in last["callbacks"]["RunStatus"]["history"]] == [1, 2]

    # A resumed run that gets no better ends with the score of its best checkpoint, which is of the part before.
    assert main([*fit, "--trainer.max_epochs", "3", "--ckpt_path", "last", "--model.learning_rate", "1e-30"]) == 0
    resumed = last_lines(capsys.readouterr().out)
    again = ValidationImages.load(Path("run"))
    assert again is not None
    assert torch.load("run/checkpoints/best.ckpt", weights_only=True)["epoch"] + 1 == again.epoch
    assert f"epoch {again.epoch}, the best checkpoint" in resumed[0]
    last = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert [epoch for epoch, _ in last["callbacks"]["RunStatus"]["history"]] == [1, 2, 3]


@pytest.mark.filterwarnings("ignore:.ModelCheckpoint.monitor=.val.loss")  # what there is to say
def test_without_validation_a_run_says_so(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--trainer.limit_val_batches", "0", "--trainer.limit_train_batches", "1", "--patience", "0"]
    pictures = ["--trainer.callbacks+", "EpochPictures", "--trainer.callbacks.count", "1"]
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(run), *options, *pictures]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^Epoch 1/1$", output, re.MULTILINE), "after one step nothing is known of the time"
    assert "No score: no validation took place" in output
    assert "Would help most" not in output
    assert ">finished<" in (run / PAGE).read_text()
    assert not (run / "epoch_pictures" / "worst.png").exists()


def test_a_run_without_checkpoints_has_no_page(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--trainer.enable_checkpointing", "false", "--trainer.callbacks", "[]"]
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(run), *options]) == 0
    assert "Epoch 1/1, val_mDice" in capsys.readouterr().out
    assert not (run / PAGE).exists()


def trainer_of(run: Path, **changes: Any) -> Any:
    status = RunStatus()
    status.history = [Scored(1, 0.25), Scored(2, 0.125)]
    status.latest = counted(MISSED, ALARM, names=[HOSTILE, "b"])
    datamodule = SimpleNamespace(
        layout=SimpleNamespace(root=Path("data") / HOSTILE), crop_size=None, batch_size=2, sampler="uniform"
    )
    values = {
        "default_root_dir": str(run),
        "is_global_zero": True,
        "callbacks": [status],
        "current_epoch": 1,
        "max_epochs": 8,
        "global_step": 4,
        "world_size": 1,
        "estimated_stepping_batches": 16,
        "early_stopping_callbacks": [],
        "checkpoint_callbacks": [],
        "sanity_checking": False,
        "precision": "32-true",
        "datamodule": datamodule,
    }
    return SimpleNamespace(**values | changes)


@pytest.fixture
def task() -> Any:
    palette = Palette(("background", HOSTILE, "a & b"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    settings = {"network": {"name": "unet", "encoder": "resnet18"}, "loss": {"dice": 1.0}, "optimizer": "adam"}
    settings |= {"learning_rate": 1e-3, "schedule": "constant"}
    return SimpleNamespace(
        palette=palette, hparams=settings, sizing=Sizing(32, 48, "stretch"), network=torch.nn.Linear(2, 3), tables={}
    )


def test_the_page_of_a_run_in_progress_renews_itself_and_escapes_names(tmp_path: Path, task: Any) -> None:
    RunPage().on_train_epoch_end(trainer_of(tmp_path), task)
    page = (tmp_path / PAGE).read_text()
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4, "class, choice of classes, image, and folder"
    assert '<meta http-equiv="refresh" content="20">' in page
    assert "2 of 8" in page
    assert "<b>0.125</b>" in page
    assert "best so far, epoch 1<b>0.250</b>" in page
    assert "32 x 48" in page
    assert not any("//" in target for target in Links(page).targets), "nothing is loaded from anywhere"


@pytest.mark.parametrize(
    ("epochs_rank", "has_begun", "expected"),
    [
        pytest.param(True, True, ">stopped<", id="stopped"),
        pytest.param(True, False, None, id="an error before it began"),
        pytest.param(False, True, None, id="another process"),
    ],
)
def test_a_run_that_is_stopped_says_how_to_go_on(
    epochs_rank: bool, has_begun: bool, expected: str | None, tmp_path: Path, task: Any
) -> None:
    callback = RunPage()
    callback.has_begun = has_begun
    callback.on_exception(trainer_of(tmp_path / "a run", is_global_zero=epochs_rank), task, KeyboardInterrupt())
    page = tmp_path / "a run" / PAGE
    assert page.is_file() == (expected is not None)
    if expected is not None:
        text = page.read_text()
        assert expected in text
        assert "flexunet resume &#39;" in text, "a path with a space is quoted"
        assert "http-equiv" not in text


def test_a_report_follows_where_there_are_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images: Any = SimpleNamespace(pairs=lambda split: ["pair"] if split == "test" else [])
    assert run_page.next_command(tmp_path / "runs" / "a b", images) == "flexunet report 'runs/a b'"
    none: Any = SimpleNamespace(pairs=lambda _: [])
    assert run_page.next_command(tmp_path / "runs" / "a", none) == "flexunet predict runs/a IMAGES"


@pytest.mark.full
def test_two_processes_count_what_one_counts_and_one_prints(tiny_config: Path, run_command: Run) -> None:
    pictures = ("--trainer.callbacks+", "EpochPictures", "--trainer.callbacks.count", "1")
    counts = {}
    for name, processes in (("two", TWO), ("one", ())):
        words = ("fit", "--config", str(tiny_config), "--run_dir", name, *pictures, *processes)
        # The same weights: nothing is learned.
        process = run_command(*words, "--model.learning_rate", "1e-30", "--seed_everything", "3", OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr
        assert len(re.findall("^(mDice|Worst class|Pictures|Next|Would)", process.stdout, re.MULTILINE)) == 5
        assert len(re.findall("^Epoch 1/1", process.stdout, re.MULTILINE)) == 1
        counts[name] = process.stdout.splitlines()[-6:-4]
    assert counts["one"] == counts["two"]


def test_the_status_keeps_the_best_and_the_order_of_the_images() -> None:
    """Two batches out of order, of images 2, 0 and 1, of 3 with 2x2 pixels."""
    status = RunStatus()
    status._places = {"folder/a.png": 0, "folder/b.png": 1, "folder/c.png": 2, "folder/unseen.png": 3}
    trainer: Any = SimpleNamespace(
        sanity_checking=False,
        current_epoch=4,
        callback_metrics={"val/mean_foreground_dice": torch.tensor(0.5)},
        strategy=SimpleNamespace(reduce=lambda rows, reduce_op: rows),  # noqa: ARG005  the sum of one process
        checkpoint_callbacks=[],
    )
    module: Any = SimpleNamespace(palette=["background", "crack"], device="cpu")
    truth = torch.tensor([[[0, 0], [1, 1]]], dtype=torch.uint8)
    for names, predicted in (("cb", [[[0, 0], [1, 1]], [[0, 0], [0, 1]]]), ("a", [[[1, 1], [1, 1]]])):
        masks = torch.tensor(predicted)
        confusions = torch.stack(
            [
                torch.tensor([[2 - int(m[0].sum()), int(m[0].sum())], [2 - int(m[1].sum()), int(m[1].sum())]])
                for m in masks
            ]
        )
        batch = {"mask": truth.expand(len(names), 2, 2), "path": [f"folder/{name}.png" for name in names]}
        batch["size"] = [(6, 6)] * len(names)
        status.on_validation_batch_end(trainer, module, {"predicted": masks, "confusions": confusions}, batch, 0)
    status.on_validation_end(trainer, module)
    assert status.latest is not None
    assert status.latest.names == ["a", "b", "c"]
    assert status.latest.indices.tolist() == [0, 1, 2]
    assert status.latest.confusions.tolist() == [[[0, 2], [0, 2]], [[2, 0], [1, 1]], [[2, 0], [0, 2]]]
    assert status.latest.edges.tolist() == [[0, 2], [1, 0]], "in 2x2 pixels, all are near the outline"
    assert status.latest.shrinkage == 3
    assert status.latest.epoch == 5
    assert status.history == [Scored(5, 0.5)]
    assert status.looks(4, 2) is None, "there was no validation in epoch 4"
    assert [look.place for look in status.looks(5, 2) or []] == [0, 1]
    assert not np.shares_memory(status.latest.confusions, status.latest.edges)
