"""The command drift, and the score it leaves in a checkpoint, a bundle, summary.csv, the log and the API."""

import csv
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from conftest import ROOT
from doc_commands import commands_in
from onnx_models import write_model
from PIL import Image
from safetensors.numpy import load_file, save_file

import flexunet_pl as fx
from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.drift import (
    Measured,
    calibration_distances,
    conformal_threshold,
    cross_validated_flags,
    good_cells,
)
from flexunet_pl.export.int8.quantize import quantize_model
from flexunet_pl.inference.onnx_infer import Model, append_log, doubt, image_scores
from flexunet_pl.training.drift_file import drift_file, read_drift
from flexunet_pl.training.task import SegmentationTask

OUTPUTS = ["probabilities", "mask", "defect_probability", "drift_score"]


GOOD = 12  # images without a defect in train and in valid


@pytest.fixture(scope="module")
def data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny data set, with good images."""
    folder = tmp_path_factory.mktemp("data") / "good-tiles"
    shutil.copytree(tiny_data, folder)
    (folder / "manifest.csv").unlink(missing_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        for number in range(GOOD):
            grain = rng.normal(130, 12, (32, 32, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
            Image.fromarray(grain).save(folder / split / "images" / f"good_{split}_{number}.png")
            Image.new("RGB", (32, 32)).save(folder / split / "masks" / f"good_{split}_{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder, as training leaves it, of a small network with an encoder; calibrated."""
    torch.manual_seed(0)
    network = {"name": "unet", "encoder": "tu-test_resnet", "encoder_weights": "random"}
    palette = Palette.load(data / "palette.yaml").to_mapping()
    task = SegmentationTask(palette, network=network, image_size=32)
    folder = tmp_path_factory.mktemp("drift") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    content: dict[str, Any] = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "callbacks": {},
    }
    content |= {"pytorch-lightning_version": lightning.__version__, "epoch": 0, "global_step": 0}
    torch.save(content, folder / "checkpoints" / "best.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"root": str(data)}}))
    assert main(["drift", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    assert main(["export", str(run)]) == 0
    return run / "bundle"


@pytest.fixture(scope="module")
def photos(data: Path, run: Path) -> Path:
    """Return a folder with a training image, and one of noise that nothing prepared the network for."""
    folder = run.parent / "photos"
    folder.mkdir()
    shutil.copy(sorted((data / "train" / "images").iterdir())[0], folder / "known.png")
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


def summary_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def drift_scores(folder: Path) -> dict[str, float]:
    return {Path(row["file"]).stem: float(row["drift_score"]) for row in summary_of(folder)}


def test_the_same_score_everywhere(
    run: Path, bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    assert [output.name for output in session.get_outputs()] == OUTPUTS
    assert session.get_outputs()[3].shape == ["batch"]
    expected = {path.stem: fx.load_model(run).predict(path) for path in photos.iterdir()}
    known, noise = expected["known"].drift_score, expected["noise"].drift_score
    assert known is not None
    assert noise is not None
    assert known < 0.9 < 1.1 < noise
    of_bundle = {path.stem: fx.load_model(bundle).predict(path) for path in photos.iterdir()}
    log = tmp_path / "line.jsonl"
    capsys.readouterr()
    assert main(["infer", str(bundle), str(photos), "--out", str(tmp_path / "onnx"), "--log", str(log)]) == 0
    line = (
        f"1 of 2 images are unlike the training set (drift_score above 1), first: {photos / 'noise.png'} ({noise:.2f})"
    )
    assert line in capsys.readouterr().err
    assert main(["predict", str(run), str(photos), "--out", str(tmp_path / "torch"), "--data.num_workers", "0"]) == 0
    assert line in capsys.readouterr().out
    for name, prediction in expected.items():
        assert of_bundle[name].drift_score == pytest.approx(prediction.drift_score, abs=1e-4)
        assert of_bundle[name].uncertainty == pytest.approx(prediction.uncertainty, abs=1e-4)
        for folder in ("onnx", "torch"):
            assert drift_scores(tmp_path / folder)[name] == pytest.approx(prediction.drift_score, abs=1e-4)
    of_torch, of_onnx = summary_of(tmp_path / "torch"), summary_of(tmp_path / "onnx")
    assert of_torch[0].keys() == of_onnx[0].keys()
    for one, other in zip(of_torch, of_onnx, strict=True):
        assert {key: one[key] for key in ("file", "class")} == {key: other[key] for key in ("file", "class")}
        assert float(one["uncertainty"]) == pytest.approx(float(other["uncertainty"]), abs=1e-4)
    entries = [json.loads(text) for text in log.read_text().splitlines()]
    assert [Path(entry["image"]).stem for entry in entries] == ["known", "noise"]
    assert entries[1]["drift_score"] == pytest.approx(noise, abs=1e-4)
    assert entries[0]["model"] == read_drift(run / "drift.safetensors").checkpoint_sha256[:12]


def test_the_engines_agree(run: Path, bundle: Path) -> None:
    pytest.importorskip("openvino")
    images = np.random.default_rng(1).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    task = SegmentationTask.from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert task.drift is None
    torch_scores = model_of(run).outputs(images)["drift_score"]
    for engine in ("onnxruntime", "openvino"):
        found = Model(bundle, engine).outputs(images)["drift_score"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, torch_scores, rtol=1e-4)


def model_of(run: Path) -> Model:
    from flexunet_pl.training.trained_model import load_network

    return load_network(run / "checkpoints" / "best.ckpt", "cpu")


def test_the_score_stays_in_float_in_8_bits(bundle: Path, photos: Path, tmp_path: Path) -> None:
    image = np.asarray(Image.open(photos / "known.png").convert("RGB"))
    quantize_model(bundle / "model.onnx", [image], tmp_path / "model.onnx")
    exact, rounded = (Model(path).outputs(image[None])["drift_score"][0] for path in (bundle, tmp_path))
    assert rounded == pytest.approx(exact, abs=0.3), "the features are rounded, the distance is not"


def test_the_worst_tile_speaks_for_an_image(run: Path, bundle: Path, photos: Path) -> None:
    pixels = np.asarray(Image.open(photos / "noise.png"))[:32, :32]
    both = np.concatenate([np.asarray(Image.open(photos / "known.png").convert("RGB")), pixels], axis=1)
    parts = [fx.load_model(bundle).predict(part).drift_score or 0 for part in (both[:, :32], both[:, 32:])]
    whole = fx.load_model(bundle).predict(both, tile=32, overlap=0)
    assert whole.drift_score == pytest.approx(max(parts), abs=1e-4)
    assert fx.load_model(run).predict(both, tile=32, overlap=0).drift_score == pytest.approx(max(parts), abs=1e-4)


def test_the_calibration_says_how_good_it_is(run: Path, bundle: Path, data: Path) -> None:
    found = read_drift(run / "drift.safetensors")
    assert found.facts["quantile"] == 0.99
    assert found.facts["calibrated_on"] == "good images"
    flags = found.facts["false_flags"]
    assert found.facts["images"] == flags["images"] >= GOOD
    assert flags["interval"][0] <= flags["flagged"] / flags["images"] <= flags["interval"][1]
    labels = json.loads((bundle / "labels.json").read_text())
    assert labels["drift"]["threshold"] == pytest.approx(found.statistics.threshold)
    valid = len(list((data / "valid" / "images").iterdir()))
    assert len(found.facts["reference"]["drift_score"]) == valid
    assert main(["drift", str(run)]) == 0, "again"
    assert read_drift(run / "drift.safetensors").statistics.threshold == found.statistics.threshold, "deterministic"


def test_bundles_without_a_calibration_still_run(photos: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx")
    arguments = [str(photos), "--out", str(tmp_path / "out"), "--log", str(tmp_path / "log")]
    assert main(["infer", str(model), *arguments]) == 0
    assert {row["drift_score"] for row in summary_of(tmp_path / "out")} == {""}
    assert json.loads((tmp_path / "log").read_text().splitlines()[0])["drift_score"] is None
    assert fx.load_model(model).predict(photos / "known.png").drift_score is None


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """Return a checkpoint with a copy of its drift statistics beside it."""
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "best.ckpt")
    shutil.copy(run / "drift.safetensors", tmp_path)
    return tmp_path / "best.ckpt"


def rewritten(path: Path, tensors: dict[str, Any] | None = None, **facts: Any) -> None:
    """Write a file of statistics anew, with other tensors or other facts."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = json.loads(file.metadata()["flexunet_pl"])
    save_file(load_file(path) | (tensors or {}), path, {"flexunet_pl": json.dumps(metadata | facts)})


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"\0" * 40), id="zeros"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-200]), id="cut off"),
        pytest.param(lambda path: save_file(load_file(path), path), id="no facts"),
        pytest.param(lambda path: rewritten(path, threshold=-1.0), id="a border below 0"),
        pytest.param(lambda path: rewritten(path, format=9), id="a later format"),
        pytest.param(
            lambda path: rewritten(path, {"bank": np.full((4, 7), 1, np.float32)}), id="a bank of another size"
        ),
        pytest.param(lambda path: rewritten(path, stages=["a"], strides=[1]), id="a stage that is no number"),
        pytest.param(lambda path: rewritten(path, stages=[0, 40]), id="a stage that the network lacks"),
    ],
)
def test_a_damaged_file_is_named_with_its_repair(damage: Any, copied: Path, tmp_path: Path) -> None:
    path = drift_file(copied)
    assert path == tmp_path / "drift.safetensors"
    damage(path)
    with pytest.raises(UserError, match=rf"{path}: .*calibrate it again with flexunet drift RUN"):
        fx.load_model(copied)
    assert main(["export", str(copied), str(tmp_path / "bundle")]) == 2
    assert not (tmp_path / "bundle").exists()


def test_statistics_of_another_checkpoint_are_left_alone(
    copied: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewritten(drift_file(copied), checkpoint_sha256="0" * 64)
    assert fx.load_model(copied).predict(photos / "known.png").drift_score is None
    assert "belongs to another checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--quantile", "1"], "--quantile 1.0 must be at least 0.5 and below 1", id="quantile"),
        pytest.param(["nowhere"], "nowhere", id="no such data"),
        pytest.param(["--quantil", "0.9"], "quantile", id="a typo"),
    ],
)
def test_mistakes_are_explained(
    words: list[str], message: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = drift_file(copied).read_bytes()
    try:
        code = main(["drift", str(copied), *words])
    except SystemExit as stop:
        code = int(str(stop.code))
    assert code == 2
    assert message in capsys.readouterr().err
    assert drift_file(copied).read_bytes() == before


def test_a_checkpoint_that_names_no_data_says_how_to(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", str(copied)]) == 2
    assert "name them: drift RUN DATA" in capsys.readouterr().err
    assert main(["drift", str(copied.with_name("absent"))]) == 2


def test_bundles_cannot_be_calibrated(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", str(bundle / "model.onnx")]) == 2
    assert "calibrate its run, then export it again" in capsys.readouterr().err


def test_conformal_threshold_by_hand() -> None:
    distances = [3.0, 1.0, 2.0, 4.0]
    assert conformal_threshold(distances, 0.5) == 3.0  # ceil(5 * 0.5) = 3rd smallest
    assert conformal_threshold(distances, 0.8) == 4.0  # ceil(5 * 0.8) = 4th
    assert conformal_threshold(distances, 0.99) == 4.0, "too few: the farthest one"


def test_good_cells_keep_away_from_defects() -> None:
    mask = np.zeros((7, 8), np.uint8)
    mask[6, 7] = 1
    assert good_cells(mask, (4, 4), 2, reach=0).tolist() == [[True] * 4] * 3 + [[True, True, True, False]]
    assert good_cells(mask, (4, 4), 2, reach=1).tolist() == [[True] * 4] * 2 + [[True, True, False, False]] * 2


def test_good_images_calibrate_if_there_are_enough() -> None:
    found = [Measured(f"s{n // 2}", n < 10, float(n), float(n) / 2, 0.0) for n in range(12)]
    assert calibration_distances(found) == ({n: float(n) for n in range(10)}, "good images")
    few = [Measured("s", n < 3, float(n), None if n == 1 else float(n) / 2, 0.0) for n in range(4)]
    assert calibration_distances(few) == ({0: 0.0, 2: 1.0, 3: 1.5}, "good areas of images")
    # Sources s0, s2, s4 (0, 1, 4, 5, 8, 9) and s1, s3 (2, 3, 6, 7): 7 is below 9, and 8 and 9 are above 7.
    assert cross_validated_flags(found, calibration_distances(found)[0], 0.99) == (2, 10)
    assert cross_validated_flags(few, {0: 0.0, 2: 1.0}, 0.99) == (0, 0), "one source"


def test_uncertainty_by_hand() -> None:
    pixels = np.array([[[0.99, 0.01, 0.0], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]]], np.float32)
    # Contested are the second, 1 - (0.5 - 0.4), and the third, 1 - (0.7 - 0.2).
    chance, uncertainty, drift = image_scores([(0.3, float("nan"))], [doubt(pixels)])
    assert (chance, drift) == (0.3, None)
    assert uncertainty == pytest.approx((0.9 + 0.5) / 2)
    assert image_scores([(0.3, 2.0), (0.4, 0.5)], [doubt(pixels[:, :1])]) == pytest.approx((0.4, 0.01, 2.0))
    one_channel = np.array([[[0.01], [0.75]]], np.float32)
    assert image_scores([(0.3, 1.0)], [doubt(one_channel)])[1] == pytest.approx(1 - 0.5)
    in_bands = image_scores([(0.3, 1.0)], [doubt(pixels[:, :2]), doubt(pixels[:, 2:])])
    assert in_bands == pytest.approx(image_scores([(0.3, 1.0)], [doubt(pixels)]))


def append(path: Path, name: str) -> None:
    for number in range(300):
        row = (f"{name}{number}" + "x" * 200, "background", 1, 1.0, 1, 1, 1.0, 0.5, "NG", 0.1, "")
        append_log(path, [row], name)


def test_lines_of_two_processes_do_not_mix(tmp_path: Path) -> None:
    log = tmp_path / "line.jsonl"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=append, args=(log, name)) for name in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    entries = [json.loads(text) for text in log.read_text().splitlines()]
    assert len(entries) == 600
    for name in "ab":
        mine = [entry["image"].rstrip("x") for entry in entries if entry["model"] == name]
        assert mine == [f"{name}{number}" for number in range(300)]


def test_a_log_that_cannot_be_written_stops_before_any_mask(
    bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "absent" / "line.jsonl", tmp_path / "out"
    assert main(["infer", str(bundle), str(photos), "--out", str(out), "--log", str(log)]) == 2
    assert f"--log {log}: cannot be written" in capsys.readouterr().err
    assert not list(out.iterdir())


@pytest.mark.full
def test_the_commands_of_the_page_run(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "runs" / "tile-1")
    shutil.copytree(photos, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for words in commands_in(ROOT / "docs" / "drift.md"):
        extra = ["--data.num_workers", "0"] if "predict" in words else []
        assert main([*words[3:], *extra]) == 0, " ".join(words)
    assert "One month only" in capsys.readouterr().out
    assert "calibration" in (tmp_path / "line-monitor" / "monitor.html").read_text()
    assert len((tmp_path / "line.jsonl").read_text().splitlines()) == 2
    assert drift_scores(tmp_path / "masks").keys() == drift_scores(tmp_path / "found").keys()
