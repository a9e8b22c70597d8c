"""Defaults in code: what a run has without a config, how a config changes it, and that complete configs stay."""

import csv
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from conftest import ROOT
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EMAWeightAveraging

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.synthetic.dataset import write_dataset
from flexunet_pl.training.callbacks import averaged_weights
from flexunet_pl.training.defaults import fill_defaults
from flexunet_pl.training.runs import move_folders
from flexunet_pl.training.task import SegmentationTask

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
SMALL = [
    *("--model.base_filters", "2", "--model.base_kernel", "3", "--model.num_layers", "3"),
    *("--data.image_size", "32", "--data.batch_size", "8", "--data.num_workers", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
MODULE = "lightning.pytorch.callbacks"
CHECKPOINTS: list[dict[str, Any]] = [
    {"class_path": f"{MODULE}.ModelCheckpoint", "init_args": {"dirpath": "checkpoints", "filename": "best"} | extra}
    for extra in ({"monitor": "val/loss", "mode": "min"}, {"filename": "last"})
]
UNSET = {
    **dict.fromkeys(("devices", "precision", "num_sanity_val_steps", "log_every_n_steps", "max_epochs", "max_time")),
    "logger": None,
    "callbacks": None,
    "enable_checkpointing": None,
    "max_steps": -1,
    "barebones": False,
}


def as_namespace(value: Any) -> Any:
    """Return plain data as a parser has them: mappings are Namespaces."""
    if isinstance(value, list):
        return [as_namespace(one) for one in value]
    if not isinstance(value, dict):
        return value
    namespace = ArgumentParser().parse_args([])
    for key, one in value.items():
        namespace[key] = as_namespace(one)
    return namespace


def filled(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the defaults filled in, and check that filling it in again changes nothing."""
    namespace = as_namespace({**config, "trainer": UNSET | config.get("trainer", {})})
    fill_defaults(namespace)
    once: dict[str, Any] = namespace.as_dict()
    fill_defaults(namespace)
    assert namespace.as_dict() == once
    return once


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Return the config that ``fit --print_config`` prints."""
    with pytest.raises(SystemExit):
        main(["fit", *options, "--print_config"])
    content: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return content


def summary(config: dict[str, Any]) -> list[str]:
    """Return the callbacks of a config in short: class and options, without the defaults that printing may add."""
    keys = {"filename": None, "monitor": None, "mode": "min", "patience": None, "decay": None, "count": 6}
    lines = []
    for callback in config["trainer"]["callbacks"]:
        options = callback.get("init_args", {})
        words = [str(options[key]) for key, usual in keys.items() if options.get(key, usual) not in (None, usual)]
        lines.append(" ".join([callback["class_path"].rpartition(".")[2], *words]))
    return lines


REST = ["Curves", "EpochPictures"]
LOSS = ["EarlyStopping val/loss 10", "ModelCheckpoint best val/loss", "ModelCheckpoint last", *REST]
FLEXUNET: dict[str, Any] = {"model": {"network": "flexunet"}, "data": {}}
DICE = ["ModelCheckpoint best val/mean_foreground_dice max", "ModelCheckpoint last"]
PRETRAINED = ["EMAWeightAveraging 0.98", *DICE, *REST]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({}, LOSS, id="nothing given"),
        pytest.param({"trainer": {"callbacks": None}}, LOSS, id="null is nothing given"),
        pytest.param({"trainer": {"callbacks": []}}, [], id="an empty list switches off"),
        pytest.param(
            {"monitor": "val/mean_foreground_dice", "patience": 3},
            [
                "EarlyStopping val/mean_foreground_dice max 3",
                "ModelCheckpoint best val/mean_foreground_dice max",
                "ModelCheckpoint last",
                *REST,
            ],
            id="monitor and patience",
        ),
        pytest.param({"patience": 0}, LOSS[1:], id="patience 0"),
        pytest.param(
            {"trainer": {"callbacks": [{"class_path": "EpochPictures", "init_args": {"count": 0}}]}},
            ["EpochPictures 0", *LOSS[:-1]],
            id="an entry replaces the default of its class",
        ),
        pytest.param(
            {"trainer": {"callbacks": [{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}]}},
            ["EMAWeightAveraging 0.5", *LOSS],
            id="an entry of another class is added",
        ),
        pytest.param(
            {
                "trainer": {
                    "callbacks": [
                        {"class_path": "ModelCheckpoint", "init_args": {"filename": "best", "monitor": "train/loss"}},
                        {"class_path": "ModelCheckpoint", "init_args": {"filename": "top"}},
                    ]
                }
            },
            [
                "ModelCheckpoint best train/loss",
                "ModelCheckpoint top",
                "EarlyStopping val/loss 10",
                "ModelCheckpoint last",
                *REST,
            ],
            id="a checkpoint replaces the default of its filename",
        ),
        pytest.param({"trainer": {"enable_checkpointing": False}}, [LOSS[0], REST[1]], id="no checkpoints"),
        pytest.param(
            {"trainer": {"callbacks": CHECKPOINTS}},
            ["ModelCheckpoint best val/loss", "ModelCheckpoint last"],
            id="best and last: a complete list stays",
        ),
        pytest.param(
            {"trainer": {"callbacks": CHECKPOINTS}, "monitor": "val/dice/oil", "patience": 4},
            ["ModelCheckpoint best val/dice/oil max", "ModelCheckpoint last", "EarlyStopping val/dice/oil max 4"],
            id="monitor and patience change a complete list",
        ),
    ],
)
def test_callbacks_of_a_run(config: dict[str, Any], expected: list[str]) -> None:
    assert summary(filled(FLEXUNET | config)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({}, PRETRAINED, id="nothing given"),
        pytest.param({"model": {"network": "fpn"}, "data": {}}, PRETRAINED, id="another pretrained network"),
        pytest.param({"model": {"base_filters": 8}, "data": {}}, LOSS, id="a key of FlexUNet chooses it"),
        pytest.param(
            {"monitor": "val/loss", "patience": 5},
            [PRETRAINED[0], "ModelCheckpoint best val/loss", *PRETRAINED[2:], "EarlyStopping val/loss 5"],
            id="monitor and patience",
        ),
        pytest.param(
            {"trainer": {"callbacks": [{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}]}},
            ["EMAWeightAveraging 0.5", *PRETRAINED[1:]],
            id="another average",
        ),
    ],
)
def test_callbacks_of_a_run_follow_its_network(config: dict[str, Any], expected: list[str]) -> None:
    assert summary(filled(config)) == expected


def test_a_recipe_fills_what_is_not_given() -> None:
    given = {"network": None, "learning_rate": 0.5, "loss": None, "optimizer": None, "tta": None}
    default = filled({"model": given, "data": {"crop_size": None, "image_size": 100, "augment": None}})
    assert default["model"]["network"] == "unet"
    assert (default["model"]["learning_rate"], default["model"]["optimizer"]) == (0.5, "adamw")
    assert default["model"]["tta"] is True
    assert default["model"]["loss"] == {"cross_entropy": 1.0, "log_dice": 1.0}
    assert default["data"]["crop_size"] == 96, "the largest multiple of 32 that is within the image"
    assert default["data"]["augment"]["hflip"] == 0.5
    of_flexunet = filled({"model": given | {"num_layers": 5}, "data": {"crop_size": None, "augment": None}})
    assert of_flexunet["model"]["network"] == "flexunet"
    assert (of_flexunet["model"]["learning_rate"], of_flexunet["model"]["optimizer"]) == (0.5, "adam")
    assert of_flexunet["model"]["loss"] == {"cross_entropy": 1.0}
    assert of_flexunet["data"]["crop_size"] is None
    assert of_flexunet["data"]["augment"] is None


def test_one_channel_gets_a_loss_that_it_can_have() -> None:
    model = {"network": None, "num_classes": 1, "loss": None}
    assert filled({"model": model, "data": {}})["model"]["loss"] == {"binary_cross_entropy": 1.0, "log_dice": 1.0}


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        pytest.param({}, (1, "auto", 0, 10, 100, 2), id="nothing given"),
        pytest.param(
            {"devices": 2, "precision": "16-mixed", "num_sanity_val_steps": 3, "log_every_n_steps": 7, "max_epochs": 9},
            (2, "16-mixed", 3, 7, 9, 2),
            id="all given",
        ),
        pytest.param(
            {"max_time": "00:00:01:00", "logger": False}, (1, "auto", 0, 10, None, 0), id="ended by the clock"
        ),
        pytest.param({"max_steps": 5, "devices": "auto"}, ("auto", "auto", 0, 10, None, 2), id="ended by steps"),
        pytest.param({"callbacks": CHECKPOINTS}, ("auto", None, None, None, None, 0), id="complete: Lightning's own"),
    ],
)
def test_trainer_values_and_loggers_of_a_run(trainer: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = filled({"trainer": trainer})["trainer"]
    keys = ("devices", "precision", "num_sanity_val_steps", "log_every_n_steps", "max_epochs")
    assert (*(found[key] for key in keys), len(found["logger"] or [])) == expected


def test_the_printed_config_has_the_defaults_and_is_a_config_of_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    average = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}
    content = {"model": {"num_layers": 3}, "data": {"root": "x"}, "trainer": {"callbacks": average}, "patience": 3}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(content))
    one_more = ["--trainer.callbacks+", "ValidationTable", "--monitor", "val/pixel_accuracy"]
    whole = printed(capsys, "--config", str(tmp_path / "short.yaml"), *one_more)
    assert summary(whole) == [
        "EMAWeightAveraging 0.5",
        "ValidationTable",
        "EarlyStopping val/pixel_accuracy max 3",
        "ModelCheckpoint best val/pixel_accuracy max",
        "ModelCheckpoint last",
        *REST,
    ]
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    assert summary(printed(capsys, "--config", str(tmp_path / "whole.yaml"))) == summary(whole)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        pytest.param("--patience=-1", "patience=-1 must be a number of epochs, or 0 ", id="patience"),
        pytest.param("--monitor=val/los", "did you mean 'val/loss'?", id="monitor"),
    ],
)
def test_wrong_choices_are_errors(
    option: str, message: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--data.root", str(tiny_data), "--run_dir", str(tmp_path / "run"), *SMALL, option]) == 2
    assert message in capsys.readouterr().err


def test_fit_without_a_config_has_checkpoints_curves_pictures_and_logs(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--data.root", str(tiny_data), *SMALL, "--trainer.max_epochs", "2"]) == 0
    run = tmp_path / "runs" / f"{tiny_data.name}-1"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    pictures = {path.name for path in (run / "epoch_pictures").glob("*.*")}
    assert pictures == {"epoch_0001.png", "epoch_0002.png", "strip.png", "strip.webp", "worst.png"}
    curves = {path.name for path in (run / "curves").iterdir()}
    assert curves == {"losses.csv", "losses.png", "scores.csv", "scores.png"}
    with next((run / "csv").rglob("metrics.csv")).open() as file:
        assert len([row for row in csv.DictReader(file) if row["val/loss"]]) == 2
    assert list((run / "tensorboard").glob("events.out.tfevents*"))

    best = (run / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    again = ["fit", "--config", str(run / "config.yaml"), "--run_dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert (run / "checkpoints" / "best.ckpt").stat().st_mtime_ns == best, "another run leaves this one alone"
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (run, tmp_path / "again")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (run, tmp_path / "again")]
    assert summary(configs[0]) == summary(configs[1]) == ["EMAWeightAveraging 0.95", *DICE, *REST]


def test_a_new_run_from_an_old_config_leaves_the_folders_of_the_old_run(tmp_path: Path) -> None:
    parts = as_namespace(
        [
            {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(tmp_path / "old" / "checkpoints")}},
            {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "old")}},
            {"class_path": "WandbLogger", "init_args": {"save_dir": str(tmp_path / "elsewhere")}},
            {"class_path": "Curves"},
        ]
    )
    move_folders(parts, tmp_path / "new", str(tmp_path / "old"))
    assert [one.get("init_args.dirpath", one.get("init_args.save_dir")) for one in parts] == [
        str(tmp_path / "new" / "checkpoints"),
        str(tmp_path / "new"),
        str(tmp_path / "elsewhere"),
        None,
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_is_short(name: str) -> None:
    lines = (ROOT / "configs" / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 125


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of made-up tiles that are large enough for the crops of the shipped configs."""
    root = tmp_path_factory.mktemp("data") / "tiles"
    write_dataset(root, 12, (256, 256), 0)
    return root


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "multi_gpu"])
def test_a_shipped_config_trains_for_a_step_as_shipped(name: str, tiles: Path, tmp_path: Path) -> None:
    config = ROOT / "configs" / f"{name}.yaml"
    has_crops = "crop_size" in yaml.safe_load(config.read_text())["data"]
    options = [
        *("--data.root", str(tiles), "--data.synthetic_images", "0", "--data.num_workers", "0"),
        *("--data.image_size", "256" if has_crops else "128"),  # 512 takes too long on a CPU
        *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    ]
    assert main(["fit", "--config", str(config), *options, "--run_dir", str(tmp_path / "run")]) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"checkpoints", "curves", "csv", "epoch_pictures"}
    assert torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 1


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "multi_gpu"])
def test_a_shipped_config_has_these_callbacks(name: str) -> None:
    expected = {
        "demo": PRETRAINED,
        "tile": LOSS,
        "zoo": PRETRAINED,
        "tile_strong": PRETRAINED,
        "tile_flexunet": ["EMAWeightAveraging 0.95", *DICE, *REST],
        "magnetic_tile": ["EpochPictures 10", *PRETRAINED[:-1]],
        "magnetic_tile_flexunet": ["EMAWeightAveraging 0.99", "EpochPictures 10", *DICE, "Curves"],
    }
    content = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    assert summary(filled({"model": {}} | content)) == expected[name]


def test_pictures_are_predicted_with_the_averaged_weights() -> None:
    task = SegmentationTask(
        {"background": [0, 0, 0], "crack": [0, 0, 255]}, network={"base_filters": 2, "num_layers": 2}
    )
    average = EMAWeightAveraging(decay=0.5)
    trainer: Any = lightning.Trainer(logger=False, callbacks=[average], enable_checkpointing=False)
    average.setup(trainer, task, "fit")
    weight = next(task.parameters())
    before = weight.detach().clone()
    for step in (1, 2):  # the average starts with the weights of the first step
        with torch.no_grad():
            weight.copy_(before + step)
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        average.on_train_batch_end(trainer, task, None, None, 0)
    with averaged_weights(trainer, task):
        assert torch.allclose(weight, before + 1.5)
    assert torch.equal(weight, before + 2), "training goes on with its own weights"
    with pytest.raises(UserError), averaged_weights(trainer, task):
        raise UserError("a broken image")
    assert torch.equal(weight, before + 2)
