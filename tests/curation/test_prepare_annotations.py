"""prepare annotations, plan and fit take annotated images as they take masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from curation_data import spot, surface, write_image

from flexunet_pl.cli.main import main
from flexunet_pl.curation.prepare.detection import read_any
from flexunet_pl.curation.prepare.view import view_of
from flexunet_pl.data.annotations.regions import PredictedImage, trace
from flexunet_pl.data.annotations.registry import FORMATS
from flexunet_pl.data.manifest import read_manifest
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.planning.source import source_from

LABELS = Palette.from_mapping({"background": [0, 0, 0], "dent": [9, 9, 9], "scratch": [8, 8, 8]})


def write_annotated(folder: Path, name: str, count: int = 9, first: int = 0) -> Path:
    """Write images with annotations in a format: dents, scratches and defect-free ones in turn."""
    predicted = []
    for number in range(first, first + count):
        path = write_image(folder / "images" / f"photo_{number}.png", surface(number))
        mask = spot(top=5 + number, left=8, side=12).astype(np.uint8) * np.uint8(number % 3)
        predicted.append(PredictedImage(path, mask, trace(mask, LABELS.names)))
    FORMATS[name].write(folder, predicted, LABELS)
    if name == "labelstudio":
        path = folder / "tasks.json"
        tasks = json.loads(path.read_text())
        path.write_text(json.dumps([{**task, "annotations": task["predictions"]} for task in tasks]))
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] * (name in ("coco", "yolo", "voc"))) for name in FORMATS]
)
def test_every_format_becomes_a_split_data_set(name: str, tmp_path: Path) -> None:
    src = write_annotated(tmp_path / "src", name)
    assert main(["prepare", "annotations", str(src), str(tmp_path / "out")]) == 0
    palette = Palette.load(tmp_path / "out" / "palette.yaml")
    assert palette.names == ("background", "dent", "scratch")
    rows = read_manifest(tmp_path / "out")
    assert {row.split for row in rows} == {"train", "valid", "test"}
    assert len(rows) == 9
    for row in rows:
        number = int(row.name.removeprefix("photo_"))
        mask, _ = read_mask(tmp_path / "out" / row.split / "masks" / f"{row.name}.png", palette, antialiased=False)
        expected = spot(top=5 + number, left=8, side=12) * (number % 3)
        assert (mask != expected).sum() <= 4, "the corners of the square"
    assert (tmp_path / "out" / "samples_train.png").is_file()


def test_a_view_is_made_once_and_grows(tmp_path: Path) -> None:
    src = write_annotated(tmp_path / "src", "labelme")
    contents = read_any(src)
    assert contents.layout == "annotations in the format LabelMe"
    view = view_of(src, contents, tmp_path / "views")
    assert view.is_new
    assert not view_of(src, read_any(src), tmp_path / "views").is_new
    assert all((view.root / row.file).is_symlink() for row in read_manifest(view.root))
    write_annotated(src, "labelme", 2, first=20)
    grown = view_of(src, read_any(src), tmp_path / "views")
    assert (grown.root, len(read_manifest(grown.root))) == (view.root, 11)
    path = src / "photo_1.json"
    path.write_text(path.read_text().replace("dent", "hole"))
    assert view_of(src, read_any(src), tmp_path / "views").root != view.root


def test_plan_and_fit_take_a_folder_of_annotations_as_it_is(tmp_path: Path) -> None:
    source = source_from(write_annotated(tmp_path / "parts", "labelstudio"), views=tmp_path / "views")
    assert (source.name, source.palette.names) == ("parts", ("background", "dent", "scratch"))
    assert "annotations in the format Label Studio, 9 images, split by source in" in source.notes[0]
    assert {row.split for row in read_manifest(source.root)} == {"train", "valid", "test"}


@pytest.mark.parametrize("name", ["coco", "yolo", "voc"])
def test_folders_named_as_for_masks_do_not_hide_annotations(name: str, tmp_path: Path) -> None:
    src = write_annotated(tmp_path / "src", name)
    if name == "coco":
        (src / "annotations").mkdir()
        shutil.move(src / "instances.json", src / "annotations" / "instances.json")
    contents = read_any(src)
    assert len(contents.found) == 9
    assert contents.palette_of(None).names == ("background", "dent", "scratch")


def test_ignored_pixels_unannotated_images_and_given_splits(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for split, number in (("train", 1), ("val2017", 2), ("test", 3)):
        write_image(src / split / f"photo_{number}.png", surface(number))
        shapes = [
            {"label": "dent", "points": [[2, 2], [30, 2], [30, 30], [2, 30]]},
            {"label": "ignore", "points": [[10, 10], [20, 10], [20, 20], [10, 20]]},
        ]
        content = {"shapes": shapes, "imagePath": f"photo_{number}.png", "imageHeight": 64, "imageWidth": 64}
        (src / split / f"photo_{number}.json").write_text(json.dumps(content))
    write_image(src / "train" / "clean.png", surface(9))
    out = tmp_path / "out"
    words = ["prepare", "annotations", str(src), str(out), "--keep_splits", "--unannotated", "defect_free"]
    assert main(words) == 0
    assert {row.name: row.split for row in read_manifest(out)} == {
        "photo_1": "train",
        "clean": "train",
        "photo_2": "valid",
        "photo_3": "test",
    }
    palette = Palette.load(out / "palette.yaml")
    mask, _ = read_mask(out / "train" / "masks" / "photo_1.png", palette, antialiased=False)
    assert palette.ignore is not None
    assert [(mask == value).sum() for value in (1, 255)] == [28 * 28 - 100, 100]


def test_problems_are_listed_with_exit_code_2_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = write_annotated(tmp_path / "src", "coco")
    path = src / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[200, 200, 300, 200, 300, 300]]
    content["images"][4]["width"] = 99
    path.write_text(json.dumps(content))
    assert main(["prepare", "annotations", str(src), str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "2 problems, nothing was written" in printed
    assert "annotation 1: the shape 'dent' lies outside photo_1.png (64 x 64 pixels); move the shape" in printed
    assert "is drawn for an image of 99 x 64, but" in printed
    assert not (tmp_path / "out").exists()
