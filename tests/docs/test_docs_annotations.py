"""Every command of docs/annotations.md runs, in the order of the page, on a made-up export of Label Studio."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from curation_data import spot, surface, write_image
from doc_commands import commands_in
from test_docs import run

from flexunet_pl.data.annotations.regions import PredictedImage, trace
from flexunet_pl.data.annotations.registry import FORMATS
from flexunet_pl.data.manifest import read_manifest
from flexunet_pl.data.palette import Palette

LABELS = Palette.from_mapping({"background": [0, 0, 0], "dent": [9, 9, 9]})
SMALL = ["--epochs", "2", "--trainer.accelerator", "cpu", "--data.num_workers", "0", "--data.image_size", "64"]
SMALL += ["--model.network", "flexunet", "--model.base_filters", "4", "--model.num_layers", "3"]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder with photos and an export of Label Studio as the page takes them for granted."""
    predicted = []
    for number in range(12):
        path = write_image(tmp_path / "photos" / f"photo_{number}.png", surface(number))
        mask = (spot(top=5 + number, left=20, side=12) & (number % 3 > 0)).astype(np.uint8)
        predicted.append(PredictedImage(path, mask, trace(mask, LABELS.names)))
    target = FORMATS["labelstudio"].write(tmp_path / "label-studio", predicted, LABELS)
    tasks = json.loads(target.read_text())
    for number, task in enumerate(tasks):
        task |= {"id": number, "annotations": task.pop("predictions")}
        task["data"]["image"] = f"/data/upload/1/0a1b2c3d-photo_{number}.png"
    target.write_text(json.dumps(tasks))
    for number in range(2):
        write_image(tmp_path / "new-photos" / f"new_{number}.png", surface(50 + number))
    return tmp_path


@pytest.mark.full
def test_commands_of_the_annotations_page_run(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands_in(ROOT / "docs" / "annotations.md"):
        own = [*words[: words.index("--time")], *SMALL] if "fit" in words else words
        if words[3:5] == ["prepare", "annotations"] and words[5] == "proposals/coco":
            tasks = json.loads((desk / "proposals" / "labelstudio" / "tasks.json").read_text())
            assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d=new_{n}.png" for n in (0, 1)]
            # Two epochs may show no defect; what a person would add:
            path = desk / "proposals" / "coco" / "instances.json"
            content = json.loads(path.read_text())
            shape = {"id": 999, "image_id": 1, "category_id": 1, "segmentation": [[9, 9, 30, 9, 30, 30]]}
            path.write_text(json.dumps({**content, "annotations": [*content["annotations"], shape]}))
        run(own, desk, monkeypatch)
    assert {len(read_manifest(desk / "dataset" / name)) for name in ("parts", "parts-2")} == {12}
    assert {row.name for row in read_manifest(desk / "dataset" / "parts-3")} == {"new_0", "new_1"}
    assert (desk / "proposals" / "labelstudio" / "iou.csv").is_file()
    pieces = json.loads((desk / "proposals" / "decisions.json").read_text())["pieces"]
    assert {Path(name).name for name in pieces} == {"new_0.png", "new_1.png"}
    assert {piece["decision"] for piece in pieces.values()} <= {"OK", "NG"}
