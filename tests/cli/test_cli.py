"""The command line: what wins, what is refused, and how it says so."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, TINY, Run

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.training import runs


def test_no_arguments_show_what_one_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "prepare", "audit", "export", "infer", "report"):
        assert f"\n  {command} " in shown


def test_an_unknown_command_suggests_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predct"]) == 2
    assert "did you mean 'predict'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        pytest.param(["--model.base_filter", "8"], "did you mean 'model.base_filters'?", id="option"),
        pytest.param(["--data.batchsize=8"], "did you mean 'data.batch_size'?", id="option with ="),
        pytest.param({"model": {"base_filtres": 8}}, "did you mean 'model.base_filters'?", id="key"),
        pytest.param({"dta": {"root": "x"}}, "did you mean 'data.root'?", id="section"),
        pytest.param({"trainer": {"max_epoch": 8}}, "did you mean 'trainer.max_epochs'?", id="trainer key"),
        pytest.param(
            {
                "trainer": {
                    "callbacks": [
                        {
                            "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                            "init_args": {"monitor": "x", "patiense": 3},
                        }
                    ]
                }
            },
            "did you mean 'patience'?",
            id="callback key",
        ),
    ],
)
def test_a_mistyped_key_is_an_error_with_the_right_one(
    arguments: list[str] | dict[str, object], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(arguments, dict):
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(arguments))
        arguments = ["--config", str(tmp_path / "wrong.yaml")]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--model.num_classes", "3"], "model.num_classes=3, but the palette has 6 classes", id="num_classes"
        ),
        pytest.param(["--model.loss", "{dyce: 1}"], "did you mean 'dice'?", id="loss"),
        pytest.param(["--model.optimizer", "adm"], "did you mean 'adam'?", id="optimizer"),
        pytest.param(["--model.schedule", "cosin"], "did you mean 'cosine'?", id="schedule"),
        pytest.param(["--model.learning_rate", "0"], "model.learning_rate=0.0 must be above 0", id="rate"),
        pytest.param(
            ["--model.learning_rate", ".inf"], "model.learning_rate=inf must be a finite number", id="infinite rate"
        ),
        pytest.param(["--trainer.limit_train_batches", "-1"], "trainer: You have passed invalid value -1", id="share"),
        pytest.param(["--trainer.max_time", "1"], "`Timer(duration='1')` is not a valid duration", id="duration"),
        pytest.param(
            ["--config", str(ROOT / "configs" / "multi_gpu.yaml")],
            "finds no GPU on this machine; leave it out, or the config that sets it, to train on the CPU\n",
            id="GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
        pytest.param(
            ["--trainer.accelerator", "gpux"], "trainer: You selected an invalid accelerator", id="accelerator"
        ),
        pytest.param(["--trainer.num_nodes", "-1"], "`num_nodes` must be a positive integer", id="nodes"),
        pytest.param(["--model.batchnorm_momentum", "0.1"], "this network has no BatchNorm", id="momentum of nothing"),
        pytest.param(
            ["--model.normalization", "true", "--model.batchnorm_momentum", "2"], "at most 1; try 0.1", id="momentum"
        ),
        pytest.param(["--model.normalization", "layer"], "choose from false, true (BatchNorm) and group", id="norm"),
        pytest.param(["--data.image_size", "30"], "data.image_size=30 must be a multiple of 4", id="size"),
        pytest.param(["--data.crop_size", "18"], "data.crop_size=18 must be a multiple of 4", id="crop"),
        pytest.param(["--data.resize", "squeeze"], "choose from stretch, letterbox, none", id="resize"),
        pytest.param(["--data.batch_size", "0"], "data.batch_size=0 must be at least 1", id="batch"),
        pytest.param(["--data.augment", "{hflop: 0.5}"], "hflip", id="augment"),
        pytest.param(["--data.root", "/nowhere"], "data.root=/nowhere: this folder does not exist", id="root"),
        pytest.param(["--data.palette", "{a: [0, 0, 0]}"], "a palette has 2 to 255", id="palette"),
        pytest.param(["--data.fold", "0"], "manifest.csv", id="fold"),
        pytest.param(
            ["--trainer.callbacks+", "flexunet_pl.training.callbacks.EpochPictures", "--trainer.callbacks.count=-1"],
            "EpochPictures: count=-1 must be a number of images",
            id="callback",
        ),
        pytest.param(
            ["--trainer.logger", "lightning.pytorch.loggers.CometLogger"],
            "trainer.logger: CometLogger needs the package comet_ml; pip install comet_ml",
            id="a package that is not there",
        ),
        pytest.param(["--ckpt_path", "absent.ckpt"], "absent.ckpt: this checkpoint does not exist", id="checkpoint"),
        pytest.param(["--ckpt_path", "last"], "last.ckpt: this checkpoint does not exist", id="nothing to resume"),
    ],
)
def test_wrong_values_give_one_message(
    arguments: list[str], message: str, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(run_dir), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not run_dir.exists(), "a run that cannot start leaves nothing behind"


def test_a_shipped_config_runs_without_its_progress_bar(tiny_config: Path, tmp_path: Path) -> None:
    bar = ["--trainer.callbacks+", "lightning.pytorch.callbacks.RichProgressBar"]
    arguments = ["fit", "--config", str(tiny_config), *bar, "--trainer.enable_progress_bar", "false"]
    assert main([*arguments, "--run_dir", str(tmp_path / "run")]) == 0


def test_missing_data_say_how_to_get_them(run_command: Run) -> None:
    process = run_command("fit", "--config", str(ROOT / "configs" / "tile.yaml"))
    assert process.returncode == 2
    assert "data.root=dataset/MVTEC-TILE: this folder does not exist" in process.stderr
    assert "prepare synthetic dataset/MVTEC-TILE" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_run_folder_is_never_overwritten(
    tiny_run: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_run / "checkpoints" / "last.ckpt").read_bytes()
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(tiny_run)]) == 2
    assert "already holds a run; resume it with --ckpt_path last" in capsys.readouterr().err
    assert (tiny_run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_the_command_line_wins_over_the_checkpoint_and_that_over_the_config(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**TINY, "data": {"root": str(tiny_data), "image_size": 64, "batch_size": 4, "num_workers": 0}}
    config["model"] = {"base_filters": 6, "base_kernel": 5, "num_layers": 3, "learning_rate": 0.5}
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(config))
    checkpoint = str(tiny_run / "checkpoints" / "last.ckpt")
    arguments = ["fit", "--config", str(path), "--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "4"]
    assert main([*arguments, "--ckpt_path", checkpoint, "--model.dropout", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("model.base_filters: 6 in the config, 4 in the checkpoint") == 1
    assert shown.count("data.image_size: 64 in the config, [32, 32] in the checkpoint") == 1
    facts = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
    network = facts["network"]
    assert (network["base_filters"], network["base_kernel"], facts["learning_rate"]) == (4, 3, 0.003)
    assert facts["image_size"] == [32, 32]
    assert network["dropout"] == 0.2


def test_a_checkpoint_that_contradicts_the_command_line_is_told(
    tiny_checkpoint: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["test", "--config", str(tiny_config), "--run_dir", str(tmp_path), "--ckpt_path", str(tiny_checkpoint)]
    assert main([*arguments, "--model.base_filters", "8"]) == 2
    assert "the checkpoint does not fit the network" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04broken"])
def test_a_broken_checkpoint_is_told(
    content: bytes, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(content)
    assert main(["test", "--config", str(tiny_config), "--ckpt_path", str(path)]) == 2
    assert f"{path}: cannot be read as a checkpoint" in capsys.readouterr().err


def test_a_checkpoint_that_would_run_code_is_refused(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"loss": os.system}}, path)
    assert main(["test", "--config", str(tiny_config), "--ckpt_path", str(path)]) == 2
    assert "cannot be read as a checkpoint" in capsys.readouterr().err


def test_data_paths_are_found_beside_the_config(
    tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(tiny_data, project / "tiles")
    config = {**TINY, "data": {"root": "tiles", "image_size": 32, "num_workers": 0}}
    (project / "tiles.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    arguments = ["test", "--config", "project/tiles.yaml", "--ckpt_path", str(tiny_checkpoint)]
    assert main([*arguments, "--run_dir", "run"]) == 0
    assert (tmp_path / "run" / "test_scores.json").is_file()


def test_predict_needs_out_and_a_folder(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = ["predict", "--ckpt_path", str(tiny_checkpoint), "--run_dir", str(tmp_path)]
    assert main([*predict, "--data.predict_dir", str(tmp_path)]) == 2
    assert "--out is not given" in capsys.readouterr().err
    assert main([*predict, "--out", str(tmp_path / "out")]) == 2
    assert "data.predict_dir is not given" in capsys.readouterr().err
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert main([*predict, "--out", str(tmp_path / "out"), "--data.predict_dir", str(tmp_path)]) == 2
    assert "would overwrite each other" in capsys.readouterr().err


def test_runs_are_numbered_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.new_run("tile") == Path("runs/tile-1")
    for name in ("tile-9", "tile-x", "other-12"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert runs.new_run("tile") == Path("runs/tile-10")
    assert runs.newest_run("tile") == Path("runs/tile-10")
    with pytest.raises(UserError, match="no run of this name yet"):
        runs.newest_run("demo")
    with pytest.raises(UserError, match="--ckpt_path FILE"):
        runs.newest_run(None)


def test_processes_started_from_outside_must_agree_on_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="--run_dir is needed"):
        runs.new_run("tile")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("model: &a {loss: *a}", "an anchor contains itself", id="anchor in itself"),
        pytest.param(
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{new}: &{new} [{', '.join(10 * [f'*{old}'])}]\n" for old, new in zip("abcde", "bcdef", strict=True)
            ),
            "100,000 values",
            id="anchors that multiply",
        ),
        pytest.param("model: []", "model", id="list for a section"),
    ],
)
def test_a_hostile_config_is_one_error(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hostile.yaml").write_text(text)
    try:
        code = main(["fit", "--config", str(tmp_path / "hostile.yaml"), "--run_dir", str(tmp_path / "run")])
    except SystemExit as stop:
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
