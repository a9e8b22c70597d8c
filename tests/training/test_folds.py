"""fit --folds: a network for each fold, out-of-fold scores, and one model of them all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import flexunet_pl as fx
from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.manifest import pixel_table, read_manifest
from flexunet_pl.data.palette import Palette
from flexunet_pl.inference.onnx_infer import Model
from flexunet_pl.training import folds, runs
from flexunet_pl.training.ensemble_checkpoint import write_ensemble
from flexunet_pl.training.run_record import read_record
from flexunet_pl.training.task import SegmentationTask


@pytest.fixture(scope="module")
def folded(folded_data: Path) -> Path:
    """Return the tiny data with two folds."""
    return folded_data


@pytest.fixture(scope="module")
def run(folds_run: Path) -> Path:
    """Return the finished run of two folds, one epoch each."""
    return folds_run


def checkpoints(run_dir: Path) -> list[Path]:
    return [runs.find_checkpoint(run_dir / f"fold-{fold}") for fold in range(2)]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    content = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    return dict(content["state_dict"])


def images() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(3).integers(0, 256, (2, 40, 24, 3), dtype=np.uint8)


def test_every_training_image_is_scored_once(run: Path, folded: Path) -> None:
    content = json.loads((run / "folds.json").read_text())
    rows = [row for row in read_manifest(folded) if row.fold is not None]
    per_fold = [sum(row.fold == fold for row in rows) for fold in range(2)]
    assert [content["scored"][str(fold)]["images"] for fold in range(2)] == per_fold
    # The working size is that of the files: the truth pixels are those that the manifest counted.
    confusion = np.sum([one["confusion"] for one in content["scored"].values()], axis=0)
    pixels = pixel_table(rows, Palette.load(folded / "palette.yaml")).sum(0)
    np.testing.assert_array_equal(confusion.sum(1), pixels)
    # The score of all images follows from the sum of the matrices; it is not the mean of the folds' scores.
    hits, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    dice = (2 * hits / (truth + predicted))[1:]
    found = content["out_of_fold"]
    assert found["mean_foreground_dice"] == pytest.approx(dice[truth[1:] > 0].mean())
    assert found["images"] == len(rows)
    record = read_record(run)
    assert record is not None
    assert (record.state, record.epochs) == ("finished", 2)
    assert record.best == found["mean_foreground_dice"]


def test_each_network_has_a_fold_and_the_run_none(run: Path, folded: Path) -> None:
    folders = run / "fold-0", run / "fold-1", run
    data = [yaml.safe_load((folder / "config.yaml").read_text())["data"] for folder in folders]
    assert [one.get("fold") for one in data] == [0, 1, None]
    assert {(folder / one["root"]).resolve() for folder, one in zip(folders, data, strict=True)} == {folded.resolve()}


def test_the_ensemble_predicts_the_mean_of_the_folds(run: Path) -> None:
    whole = SegmentationTask.from_checkpoint(run / "checkpoints" / "best.ckpt").run_arrays(images())
    parts = [SegmentationTask.from_checkpoint(one).run_arrays(images())["probabilities"] for one in checkpoints(run)]
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
    np.testing.assert_allclose(whole["probabilities"], (parts[0] + parts[1]) / 2, atol=1e-6)
    np.testing.assert_array_equal(whole["mask"], whole["probabilities"].argmax(-1))


def test_a_run_with_folds_is_a_run_like_others(
    run: Path, folded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = folded / "test" / "images"
    assert main(["test", str(run)]) == 0
    assert main(["predict", str(run), str(pictures), "--out", str(tmp_path / "masks")]) == 0
    assert main(["export", str(run), str(tmp_path / "bundle")]) == 0
    assert "wins" not in capsys.readouterr().out  # the config names the network of a fold, which is no difference
    picture = next(pictures.iterdir())
    checkpoint, bundle = fx.load_model(run).predict(picture), Model(tmp_path / "bundle" / "model.onnx")
    exported = bundle.predict(np.array(Image.open(picture).convert("RGB")))
    np.testing.assert_allclose(exported.probabilities, checkpoint.probabilities, atol=1e-5)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "masks" / f"{picture.stem}.png")), checkpoint.mask)
    assert "mean of 2 FlexUNet" in (tmp_path / "bundle" / "summary.txt").read_text()


def test_keras_files_hold_one_network(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), str(tmp_path / "bundle"), "--formats", "onnx,keras"]) == 2
    assert (
        "a Keras file holds one network, not the mean of 2; export a fold, such as RUN/fold-0"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "bundle").exists()


def test_a_stopped_run_goes_on_with_the_fold_that_is_not_finished(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "tiny"
    shutil.copytree(run, again)
    for path in (again / "fold-1", again / "checkpoints"):
        shutil.rmtree(path)
    with pytest.raises(
        UserError, match=r"tiny: not all of its folds are trained yet; go on with flexunet resume \S+tiny"
    ):
        runs.find_checkpoint(again)
    first = runs.find_checkpoint(again / "fold-0")
    before = first.stat().st_mtime_ns
    assert main(["resume", str(again)]) == 0
    assert first.stat().st_mtime_ns == before
    output = capsys.readouterr().out
    assert "Network 1 of 2, validated on fold 0: finished before" in output
    assert "Network 2 of 2, validated on fold 1\n" in output
    found, expected = weights(again), weights(run)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_same_call_again_trains_nothing(
    run: Path, folded: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "run", None)  # what trains and scores
    before = weights(run)
    assert main(["fit", str(folded), "--config", str(tiny_config), "--folds=2", "--run_dir", str(run)]) == 0
    assert capsys.readouterr().out.count("finished before") == 2
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(run).items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "3"], "has 2 folds; give --folds 2, or prepare it again"),
        (["--folds", "1"], "--folds '1' must be a number of folds from 2 to 32"),
        (["--folds"], "--folds '' must be a number of folds"),
        (["--folds", "2", "--data.fold", "1"], "--data.fold does not go with --folds: all folds are trained"),
        (["--folds", "2", "--ckpt_path=last"], "--ckpt_path does not go with --folds"),
        (["--folds", "2", "--trainer.devices", "2"], "leave out --trainer.devices and --trainer.strategy"),
    ],
)
def test_what_cannot_be_is_one_error_and_leaves_nothing(
    words: list[str], message: str, folded: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert main(["fit", str(folded), "--config", str(tiny_config), "--run_dir", str(run_dir), *words]) == 2
    assert message in capsys.readouterr().err
    assert not run_dir.exists()


def test_a_data_set_without_folds_is_told_how_to_get_them(
    tiny_config: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(tiny_config), "--folds", "5"]) == 2
    error = capsys.readouterr().err
    assert f"has no folds; make a data set that has them, flexunet prepare pairs {tiny_data}" in error
    assert not list((tmp_path / "runs").iterdir())


def test_a_folder_with_a_run_of_another_kind_is_left_alone(
    tiny_run: Path, folded: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", str(folded), "--config", str(tiny_config), "--folds", "2"]
    assert main([*words, "--run_dir", str(tiny_run)]) == 2
    assert "this folder holds a run without folds; choose another --run_dir" in capsys.readouterr().err


def test_networks_of_different_settings_are_no_ensemble(run: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["hyper_parameters"]["tta"] = True
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other.ckpt: has tta=True, but \S+ has False; the networks of an ensemble"):
        write_ensemble([checkpoints(run)[0], tmp_path / "other.ckpt"], tmp_path / "both.ckpt")
    assert not (tmp_path / "both.ckpt").exists()


def test_a_stopped_fold_names_the_whole_run(run: Path, tiny_run: Path) -> None:
    assert runs.how_to_resume(run / "fold-1") == f"flexunet resume {run}"
    assert runs.how_to_resume(tiny_run) == f"flexunet resume {tiny_run}"


@pytest.mark.full
def test_the_api_trains_folds_too(folded: Path, tiny_config: Path, run: Path, tmp_path: Path) -> None:
    found = fx.fit(tiny_config, data={"root": str(folded)}, folds=2, run_dir=tmp_path / "mine")
    assert found.run_dir == tmp_path / "mine"
    assert found.best_checkpoint == tmp_path / "mine" / "checkpoints" / "best.ckpt"
    out_of_fold = json.loads((run / "folds.json").read_text())["out_of_fold"]
    assert found.scores["mean_foreground_dice"] == pytest.approx(out_of_fold["mean_foreground_dice"], abs=1e-6)
    with pytest.raises(UserError, match="folds '1' must be a number"):
        fx.fit(tiny_config, data={"root": str(folded)}, folds=1)
    with pytest.raises(UserError, match="learning_rat"):
        fx.fit(tiny_config, data={"root": str(folded)}, folds=2, model={"learning_rat": 1.0})
