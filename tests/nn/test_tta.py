"""Predicting with the mirror image: the same mean everywhere, in torch and in exported files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import with_settings
from onnx_models import noise
from PIL import Image
from torch import nn

from flexunet_pl.cli.main import main
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE
from flexunet_pl.inference.onnx_infer import Model
from flexunet_pl.nn.metrics import mask_from_logits
from flexunet_pl.nn.tta import FlipTTA
from flexunet_pl.training.callbacks import predict_working_size
from flexunet_pl.training.task import SegmentationTask


def palette(classes: int) -> dict[str, list[int]]:
    return {name: list(color) for name, color in list(TILE_PALETTE.items())[:classes]}


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([noise(*shape, 3, seed=seed) for seed in range(2)])).permute(0, 3, 1, 2)


def test_the_mean_is_that_of_both_views() -> None:
    ramp = nn.Conv2d(1, 2, (1, 3), padding=(0, 1), bias=False)  # sees the left neighbour, and the right one twice
    with torch.no_grad():
        ramp.weight.copy_(torch.tensor([[[[1.0, 0, 2]]], [[[0, 1.0, 0]]]]))
        found = FlipTTA(ramp)(torch.tensor([[[[1.0, 2, 4]]]]))
    # Straight 2*2, 1+2*4, 2; in the mirror 1 and 2 trade places: 2, 2*1+4, 2*2.
    assert found.tolist() == [[[[3.0, 7.5, 3.0]], [[1.0, 2.0, 4.0]]]]


@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_task_learns_from_images_and_predicts_with_their_mirror_images(num_classes: int) -> None:
    classes = palette(max(2, num_classes))
    torch.manual_seed(0)
    network = {"base_filters": 2, "num_layers": 3, "dropout": 0.0}
    settings: dict[str, Any] = {"num_classes": num_classes, "network": network}
    task = SegmentationTask(classes, tta=True, **settings)
    image = images(40, 24)
    plain = task.network(image)
    assert torch.equal(task.train()(image), plain)
    expected = (plain + task.network(image.flip(-1)).flip(-1)) / 2
    found = task.eval()(image)
    torch.testing.assert_close(found, expected)
    assert (found - plain).abs().max() > 1e-3 * plain.abs().max()
    torch.testing.assert_close(task(image.flip(-1)), found.flip(-1))
    # So do the pictures of an epoch, taken in the midst of training.
    np.testing.assert_array_equal(predict_working_size(task.train(), image[0]), mask_from_logits(found)[0])
    assert task.state_dict().keys() == SegmentationTask(classes, **settings).state_dict().keys()


@pytest.fixture(scope="module")
def mirrored_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_settings(tiny_checkpoint, tmp_path_factory.mktemp("mirrored"), tta=True)


def test_the_exported_model_looks_at_mirror_images_too(
    mirrored_checkpoint: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["export", str(mirrored_checkpoint), str(tmp_path / "bundle"), "--formats", "onnx,keras"]
    assert main([*words, "--int8", "--force", "--calibration", str(tiny_data / "valid")]) == 0
    assert "model.keras holds the network alone" in caplog.text
    # Of the kind that 8 bits were calibrated on.
    image = np.array(Image.open(next((tiny_data / "test" / "images").iterdir())).convert("RGB"))
    task = SegmentationTask.from_checkpoint(mirrored_checkpoint)
    with torch.inference_mode():
        expected = task(torch.from_numpy(image).permute(2, 0, 1)[None]).softmax(1)[0].permute(1, 2, 0).numpy()
    for name, tolerance in (("model.onnx", 1e-5), ("model.int8.onnx", 0.02)):
        model = Model(tmp_path / "bundle" / name)
        found = model.predict(image).probabilities
        assert np.abs(found - expected).mean() < tolerance
        np.testing.assert_allclose(model.predict(image[:, ::-1]).probabilities[:, ::-1], found, atol=1e-5)


def test_test_scores_the_mean(
    mirrored_checkpoint: Path, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    texts = []
    for name, words in {
        "kept": [str(mirrored_checkpoint)],
        "asked": [str(tiny_checkpoint), "--model.tta", "true"],
        "bare": [str(tiny_checkpoint)],
    }.items():
        common = ["test", "--config", str(tiny_config), "--run_dir", str(tmp_path / name), "--ckpt_path"]
        assert main([*common, *words]) == 0
        texts.append((tmp_path / name / "test_scores.json").read_text())
    assert texts[0] == texts[1] != texts[2]
