"""The probability of a defect is the same in a checkpoint, a bundle, summary.csv and the API, whole and in tiles."""

import csv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import flexunet_pl as fx
from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.export.bundle import export, facts_of
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.export.verify import verify_onnx
from flexunet_pl.nn.zoo import ZooNetwork
from flexunet_pl.training.task import SegmentationTask

PALETTE = {"background": [0, 0, 0], "crack": [255, 0, 0]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a small network whose head says something."""
    torch.manual_seed(0)
    network = {"name": "unet", "encoder": "tu-test_resnet", "encoder_weights": "random"}
    task = SegmentationTask(PALETTE, network=network, image_size=64)
    assert isinstance(task.network, ZooNetwork)
    assert task.network.defect_head is not None
    torch.nn.init.normal_(task.network.defect_head.weight)
    path = tmp_path_factory.mktemp("head") / "last.ckpt"
    torch.save({"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}, path)
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    assert export(checkpoint, checkpoint.parent / "bundle") == 0
    return checkpoint.parent / "bundle"


@pytest.fixture(scope="module")
def photo(checkpoint: Path) -> Path:
    path = checkpoint.parent / "photos" / "a.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_all_say_the_same(checkpoint: Path, bundle: Path, photo: Path, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["probabilities", "mask", "defect_probability"]
    assert session.get_outputs()[2].shape == ["batch"]
    of_checkpoint, of_bundle = (fx.load_model(path).predict(photo) for path in (checkpoint, bundle))
    assert of_checkpoint.defect_probability is not None
    assert 0.01 < of_checkpoint.defect_probability < 0.99
    assert of_bundle.defect_probability == pytest.approx(of_checkpoint.defect_probability, abs=1e-4)
    highest = 1 - of_checkpoint.probabilities[..., 0].min()
    assert abs(highest - of_checkpoint.defect_probability) > 0.01, "not the head but the highest of a pixel"
    assert main(["infer", str(bundle), str(photo), "--out", str(tmp_path)]) == 0
    with (tmp_path / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["defect_probability"]) for row in rows] == [
        pytest.approx(of_bundle.defect_probability, abs=1e-5)
    ] * 2


def test_the_highest_tile_speaks_for_an_image(bundle: Path, photo: Path) -> None:
    model = fx.load_model(bundle)
    pixels = np.asarray(Image.open(photo))
    parts = [pixels[top : top + 32, left : left + 32] for top in (0, 32) for left in (0, 32)]
    tiles = [model.predict(part, tile=32, overlap=0) for part in parts]
    whole = model.predict(photo, tile=32, overlap=0)
    assert whole.defect_probability == max(tile.defect_probability or 0 for tile in tiles)


def test_a_graph_whose_head_differs_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    task = SegmentationTask.from_checkpoint(checkpoint)
    facts = facts_of(task, checkpoint)
    export_onnx(task.predictor, facts, tmp_path / "model.onnx")
    assert verify_onnx(task.predictor, tmp_path / "model.onnx", facts, [])["largest_probability_difference"] < 1e-4
    assert isinstance(task.network, ZooNetwork)
    assert task.network.defect_head is not None
    with torch.no_grad():
        task.network.defect_head.weight.mul_(2)
    with pytest.raises(UserError, match="onnxruntime and PyTorch disagree"):
        verify_onnx(task.predictor, tmp_path / "model.onnx", facts, [])
