"""Run folders: each run has its own, and everything that is needed later."""

import fcntl
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from lightning.pytorch.cli import LightningArgumentParser

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.synthetic.dataset import write_dataset
from flexunet_pl.training import runs
from flexunet_pl.training.config_files import given_keys
from flexunet_pl.training.lightning_cli import TrainerCLI

CONFIGS = [path.stem for path in sorted((ROOT / "configs").glob("*.yaml")) if path.stem != "multi_gpu"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_runs_that_begin_at_the_same_moment_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(runs.new_run, ["tile"] * 64))
    assert sorted(folders) == sorted(Path(f"runs/tile-{number}") for number in range(1, 65))


def test_a_folder_in_which_a_process_trains_is_refused(tmp_path: Path) -> None:
    with (tmp_path / runs.LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training in this folder"), runs.reserved(tmp_path):
            pass
    with runs.reserved(tmp_path):  # the lock of a killed process does not count
        assert (tmp_path / runs.LOCK).is_file()
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_begin_leaves_no_folder(tiny_config: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(tiny_config), "--data.root", "nowhere"]) == 2
    assert not list(Path("runs").iterdir())


def test_brackets_in_the_name_of_a_config_are_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert runs.new_run("tile[a]*") == Path(f"runs/tile[a]*-{number}")
    assert runs.newest_run("tile[a]*") == Path("runs/tile[a]*-2")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("configs/tile.yaml", "tile"),
        ("projects/wood/train_eval_infer.yaml", "wood"),
        ("runs/tile-12/config.yaml", "tile"),
        ("my-2/experiment-3.yaml", "experiment-3"),
    ],
)
def test_a_run_is_named_after_what_tells_configs_apart(config: str, name: str) -> None:
    assert runs.run_name(Path(config)) == name


def test_a_saved_config_names_no_run_and_works_from_anywhere(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(tiny_config.read_text())
    shutil.copytree(config["data"]["root"], tmp_path / "work" / "tiles")
    config["data"]["root"] = "tiles"
    (tmp_path / "work" / "tiny.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path / "work")
    assert main(["fit", "--config", "tiny.yaml"]) == 0
    run = tmp_path / "work" / "runs" / "tiny-1"
    text = (run / "config.yaml").read_text()
    assert str(tmp_path) not in text
    before = files_of(run)

    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(run / "config.yaml"), "--run_dir", "other"]) == 0
    assert files_of(run) == before
    assert (tmp_path / "other" / "checkpoints" / "best.ckpt").is_file()
    again = (tmp_path / "other" / "config.yaml").read_text()
    assert yaml.safe_load(again) == yaml.safe_load(text.replace("../../tiles", "../work/tiles"))

    capsys.readouterr()
    assert main(["test", "--run_dir", str(run)]) == 0
    assert "differs" not in capsys.readouterr().out
    assert (run / "test_scores.json").is_file()
    assert main(["fit", f"--run_dir={run}", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text()).get("ckpt_path") is None
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_a_map_on_the_command_line_wins_over_the_checkpoint(tiny_run: Path, tiny_config: Path, tmp_path: Path) -> None:
    words = ["--config", str(tiny_config), "--ckpt_path", str(tiny_run / "checkpoints" / "last.ckpt")]
    words += ["--model", "{learning_rate: 0.01, tta: true}", "--trainer.max_epochs", "4"]
    assert main(["fit", *words, "--run_dir", str(tmp_path)]) == 0
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["hyper_parameters"]["learning_rate"] == 0.01
    assert content["hyper_parameters"]["tta"] is True
    assert content["hyper_parameters"]["network"]["base_filters"] == 4


def test_the_keys_of_the_command_line_include_those_within_maps(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("dropout: 0.5")
    words = [
        "fit",
        "--model={loss: {dice: 1}, tta: true}",
        "--data",
        "{root: x}",
        "--model",
        str(tmp_path / "part.yaml"),
    ]
    assert given_keys(words) >= {"model.loss", "model.loss.dice", "model.tta", "data.root", "model.dropout"}
    assert given_keys(["fit", "--config", "{model: {tta: true}}", "--model", "{: broken"]) == {"config", "model"}


class Parsing(TrainerCLI):
    """TrainerCLI as far as the settings of model and data."""

    def _run_subcommand(self, _: str) -> None:
        pass

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        config.model.encoder_weights = None


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_of_a_shipped_config_does_not_differ_from_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "tiles", 12, (64, 64), 0)
    words = ["--config", str(ROOT / "configs" / f"{name}.yaml"), "--data.root", "tiles", "--data.synthetic_images", "0"]
    with torch.device("meta"), ExitStack() as resources:
        cli = Parsing(["fit", *words, "--run_dir", "run"], resources)
        settings = dict(cli.model.hparams)
        torch.save({"state_dict": {}, "hyper_parameters": settings}, "some.ckpt")
        capsys.readouterr()
        Parsing(["test", *words, "--ckpt_path", "some.ckpt", "--run_dir", "run"], resources)
    assert "differs" not in capsys.readouterr().out
