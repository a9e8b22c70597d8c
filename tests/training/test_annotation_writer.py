"""predict --format writes annotations of what it predicted, with scores and the IoU of their polygons."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.data.annotations.raster import paint
from flexunet_pl.data.annotations.registry import FORMATS, read_annotations


@pytest.fixture(scope="module")
def seeing_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose last layer is random, so that it predicts regions of several classes."""
    content = torch.load(tiny_checkpoint, weights_only=True)
    weights = content["state_dict"]
    last = [key for key in weights if key.endswith(".weight")][-1]
    generator = torch.Generator().manual_seed(0)
    weights[last] = torch.randn(weights[last].shape, generator=generator)
    path = tmp_path_factory.mktemp("seeing") / "random.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def images(tiny_data: Path) -> Path:
    return tiny_data / "test" / "images"


def predict(checkpoint: Path, images: Path, out: Path, *options: str) -> int:
    return main(["predict", str(checkpoint), str(images), "--out", str(out), *options, "--trainer.accelerator", "cpu"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] * (name not in ("coco", "yolo", "voc"))) for name in FORMATS]
)
def test_predictions_come_back_as_they_were(name: str, seeing_checkpoint: Path, images: Path, tmp_path: Path) -> None:
    assert predict(seeing_checkpoint, images, tmp_path, "--format", name) == 0
    with (tmp_path / name / "iou.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    masks = {path.stem: np.asarray(Image.open(path)) for path in tmp_path.glob("*.png")}
    assert len(rows) > len(masks) > 2
    assert all(0.9 <= float(row["iou"]) <= 1 for row in rows)
    assert sum(int(row["area_px"]) for row in rows) == sum(int((mask > 0).sum()) for mask in masks.values())
    if name == "labelstudio":
        return  # predictions are no annotations until a person accepts them
    annotations = read_annotations(tmp_path / name, images)
    names = list(yaml_names(images))
    for one in annotations.images:
        mask = masks[one.image.stem]
        back = paint(one, (mask.shape[0], mask.shape[1]), {label: names.index(label) for label in annotations.labels})
        assert (back != mask).mean() <= (0 if name == "voc" else 0.1)


def yaml_names(images: Path) -> list[str]:
    from flexunet_pl.data.palette import Palette

    return list(Palette.load(images.parents[1] / "palette.yaml").names)


def test_label_studio_gets_predictions_with_scores(seeing_checkpoint: Path, images: Path, tmp_path: Path) -> None:
    assert predict(seeing_checkpoint, images, tmp_path, "--format", "labelstudio") == 0
    tasks = json.loads((tmp_path / "labelstudio" / "tasks.json").read_text())
    assert len(tasks) == len(list(images.iterdir()))
    for task in tasks:
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "flexunet_pl"
        assert 1 / 6 < prediction["score"] <= 1  # the most probable of six classes
        assert task["data"]["image"].startswith("/data/local-files/?d=")
        for result in prediction["result"]:
            assert 1 / 6 < result["score"] <= 1
            assert result["type"] in ("polygonlabels", "brushlabels")
            assert (result["original_width"], result["original_height"]) == (32, 32)
    config = (tmp_path / "labelstudio" / "config.xml").read_text()
    assert all(f'value="{name}"' in config for name in yaml_names(images)[1:])


def test_scores_are_the_mean_probability_of_the_region(seeing_checkpoint: Path, images: Path, tmp_path: Path) -> None:
    from flexunet_pl.api import load_model

    assert predict(seeing_checkpoint, images, tmp_path, "--format", "coco") == 0
    content = json.loads((tmp_path / "coco" / "instances.json").read_text())
    model = load_model(seeing_checkpoint)
    entry = content["images"][0]
    highest = model.predict(images / entry["file_name"]).probabilities.max(axis=2)
    mask = np.asarray(Image.open(tmp_path / f"{Path(entry['file_name']).stem}.png"))
    for index in np.unique(mask[mask > 0]).tolist():
        of_class = [
            one for one in content["annotations"] if (one["image_id"], one["category_id"]) == (entry["id"], index)
        ]
        mean = sum(one["score"] * one["area"] for one in of_class) / sum(one["area"] for one in of_class)
        assert mean == pytest.approx(float(highest[mask == index].mean()), abs=0.01)


def test_tiles_have_scores_too_and_a_wrong_format_is_refused(
    seeing_checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(seeing_checkpoint, images, tmp_path, "--format", "coco", "--tile", "16") == 0
    content = json.loads((tmp_path / "coco" / "instances.json").read_text())
    assert content["annotations"]
    assert all(0 < one["score"] <= 1 for one in content["annotations"])
    before = (tmp_path / "coco" / "instances.json").read_bytes()
    capsys.readouterr()
    assert predict(seeing_checkpoint, images, tmp_path, "--format", "coko") == 2
    printed = capsys.readouterr().err
    assert "--format coko: choose from coco, labelme, cvat, labelstudio, yolo, voc; did you mean 'coco'?" in printed
    assert (tmp_path / "coco" / "instances.json").read_bytes() == before
