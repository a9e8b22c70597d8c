"""From a folder to a model without a config: plan DATA, and fit DATA."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from curation_data import spot, surface, write_image, write_mvtec
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.data.manifest import read_manifest
from flexunet_pl.planning.draft import Draft
from flexunet_pl.planning.facts import facts_of
from flexunet_pl.planning.machine import this_machine
from flexunet_pl.planning.rules import choose
from flexunet_pl.planning.source import source_from
from flexunet_pl.training.recipes import PRETRAINED
from flexunet_pl.training.run_record import read_record

QUICK = ("--epochs", "1", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0")
FEW = (*QUICK, "--data.min_samples_per_epoch", "8")


def test_from_an_archive_to_a_report_in_two_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mvtec(tmp_path / "in" / "tile", {"crack": 6, "hole": 6}, size=(96, 96))
    shutil.make_archive(str(tmp_path / "tile"), "zip", tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "tile.zip", *FEW]) == 0
    printed = capsys.readouterr()
    assert "tile.zip: MVTec AD, 24 images, split by source in runs/data/tile" in printed.err
    assert "data.crop_size" in printed.err
    run = Path("runs/tile-1")
    assert (run / "checkpoints" / "best.ckpt").is_file()
    plan = load_yaml((run / "plan.yaml").read_text())
    assert plan["data"]["root"] == "../data/tile"
    assert plan["data"]["crop_size"] == 96
    assert plan["trainer"]["max_epochs"] == 1
    assert main(["report", "latest", "--draws", "10"]) == 0
    assert (run / "report" / "report.html").is_file()

    # Again: nothing is read anew, and the split is the same, so that the two runs can be compared.
    before = [(row.name, row.split) for row in read_manifest(Path("runs/data/tile"))]
    assert main(["plan", "tile.zip", "--data.crop_size", "64"]) == 0
    printed = capsys.readouterr()
    assert "nothing in it has changed since an earlier run" in printed.err
    assert "written: tile.yaml; train with flexunet fit --config tile.yaml" in printed.out
    assert [(row.name, row.split) for row in read_manifest(Path("runs/data/tile"))] == before
    plan = load_yaml(Path("tile.yaml").read_text())
    assert (plan["data"]["crop_size"], plan["data"]["batch_size"]) == (64, 16)
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", "tile.yaml", "--print_config"])


def test_a_plan_is_never_overwritten_and_faults_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tile").mkdir()
    Path("tile.yaml").write_text("mine")
    for words, message in [
        (["plan", "nowhere"], "nowhere: this folder does not exist"),
        (["plan", "tile", "--data.crop_sise", "64"], "--data.crop_sise: is no option of fit; did you mean"),
        (["plan", "tile", "--tiem", "12m"], "plan --tiem: is no option"),
        (["plan", "tile", "--data.batch_size", "0"], "data.batch_size=0 must be at least 1"),
        (["plan", "tile", "--data.crop_size", "-64"], "data.crop_size=-64 must be at least 1"),
        (["plan", "tile", "--data.crop_size", "abc"], "data.crop_size='abc' must be a number of pixels, or none"),
        (["plan", "tile", "--data.image_size", "big"], "data.image_size=big must be"),
        (["plan", "tile", "other"], "fit tile other: name one folder of data"),
        (["plan", "tile", "--data.root", "other"], "fit tile other: name one folder of data"),
        (["plan", "tile", "--time", "12m", "other"], "'other' belongs to no option"),
        (["plan", "tile", "--out", "tile.yaml"], "tile.yaml: is there already"),
        (["fit", "tile", "--epochs", "many"], "--epochs many must be a whole number"),
        (["plan"], "give the folder of a data set first"),
        (["plan", "tile", "--time", "12"], "--time 12 must be a number with s, m or h"),
        (["plan", "tile"], "tile: holds no layout"),
    ]:
        assert main(words) == 2
        assert message in capsys.readouterr().err
    write_mvtec(tmp_path / "tile", {"crack": 3})
    assert main(["plan", "tile"]) == 2
    assert "tile.yaml: is there already; name another file with --out" in capsys.readouterr().err
    assert Path("tile.yaml").read_text() == "mine"


def test_processes_from_outside_need_a_plan_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mvtec(tmp_path / "tile", {"crack": 3})
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "tile"]) == 2
    assert "first make a config with flexunet plan tile" in capsys.readouterr().err


@pytest.mark.full
def test_a_palette_for_class_folders_is_that_of_the_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mvtec(tmp_path / "tile", {"crack": 4, "hole": 4}, good=2)
    colors = {"background": [0, 0, 0], "hole": [0, 0, 255], "crack": [255, 0, 0]}
    (tmp_path / "mine.yaml").write_text(str(colors))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "tile", *FEW, "--data.palette", "mine.yaml"]) == 0
    assert load_yaml(Path("runs/data/tile/palette.yaml").read_text()) == colors
    config = load_yaml(Path("runs/tile-1/config.yaml").read_text())
    assert config["data"].get("palette") is None


def _one_class(root: Path) -> None:
    write_mvtec(root, {"scratch": 6}, good=2)


def _deep_grey(root: Path) -> None:
    for number in range(6):
        values = surface(number)[..., 0].astype(np.uint16) * 16  # 12 of 16 bits
        write_image(root / "images" / f"dent_{number}.png", np.zeros((2, 2), dtype=np.uint8))
        Image.fromarray(values).save(root / "images" / f"dent_{number}.png")
        write_image(root / "masks" / f"dent_{number}.png", spot().astype(np.uint8) * np.uint8(255))


def _one_defective(root: Path) -> None:
    write_mvtec(root, {"scratch": 1}, good=5)


def _many_good(root: Path) -> None:
    write_mvtec(root, {"scratch": 4}, good=1_000, size=(32, 32))


def _large_with_small_defects(root: Path) -> None:
    write_mvtec(root, {"pinhole": 6}, good=1, size=(1_500, 2_000))


@pytest.mark.full
@pytest.mark.parametrize(
    "write",
    [_one_class, _deep_grey, _one_defective, _many_good, _large_with_small_defects],
    ids=lambda one: one.__name__,
)
def test_unusual_data_train_without_a_key(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "parts")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "parts", "--time", "30s"]) == 0
    record = read_record(Path("runs/parts-1"))
    assert record is not None
    assert (record.state, record.steps > 0) == ("finished", True)
    assert (Path("runs/parts-1") / "checkpoints" / "last.ckpt").is_file()
    assert main(["test", "latest"]) == 0


@pytest.mark.full
def test_two_processes_train_by_one_plan(tmp_path: Path, run_command: Run) -> None:
    write_mvtec(tmp_path / "tile", {"crack": 4}, good=4)
    devices = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    done = run_command("fit", "tile", *FEW, *devices)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "tile-1" / "plan.yaml").is_file()
    assert not (tmp_path / "runs" / "tile-2").exists()


@pytest.mark.full
def test_folds_of_a_folder_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mvtec(tmp_path / "tile", {"crack": 5}, good=4)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "tile", *FEW, "--folds", "2"]) == 0
    rows = read_manifest(Path("runs/data/tile-2-folds"))
    assert {row.fold for row in rows if row.split == "train"} == {0, 1}
    run = Path("runs/tile-1")
    assert (run / "plan.yaml").is_file()
    assert "Ensemble of the 2 networks" in capsys.readouterr().out
    assert main(["test", "latest"]) == 0


@pytest.mark.full
def test_a_search_begins_with_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mvtec(tmp_path / "tile", {"crack": 4}, good=4)
    monkeypatch.chdir(tmp_path)
    assert main(["search", "tile", *FEW, "--trials", "1", "--run_dir", "runs/found"]) == 0
    base = load_yaml(Path("runs/found/base.yaml").read_text())
    assert base["data"]["crop_size"] == 64
    assert "train it in full: flexunet fit --config runs/found/best.yaml" in capsys.readouterr().out


HAND_WRITTEN = {"mvtec-tile-mini": (128, 8, 0.05), "mvtec-screw-mini": (128, 8, 0.05), "magnetic-tile": (256, 4, 0.001)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if "tile-mini" in name else pytest.mark.full) for name in HAND_WRITTEN]
)
def test_real_data_get_what_was_chosen_by_hand_for_them(name: str, shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "data" / name
    if name == "magnetic-tile":  # a part is enough, and quicker
        folder = tmp_path / name
        for path in sorted((shared_dir / "data" / name).glob("MT_*/Imgs/*0.*")):
            write = folder / path.relative_to(shared_dir / "data" / name)
            write.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, write)
    source = source_from(folder, views=tmp_path / "views")
    facts = facts_of(source.root, source.palette)
    chosen = {choice.key: choice.value for choice in choose(Draft(facts, this_machine({}), {}))}
    crop, batch, epsilon = HAND_WRITTEN[name]
    assert (chosen["data.crop_size"], chosen["data.batch_size"]) == (crop, batch)
    log_dice = chosen["model.loss"]["log_dice"]
    assert (log_dice["epsilon"] if isinstance(log_dice, dict) else 0.05) == epsilon
    turned = chosen["data.augment"].get("right_angle") is not None
    assert turned == (name != "magnetic-tile")
    assert chosen["data.sampler"] == PRETRAINED.data["sampler"]
