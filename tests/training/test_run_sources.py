"""Which sources the images of a run come from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.manifest import Row, write_manifest
from flexunet_pl.training import run_sources
from flexunet_pl.training.run_sources import training_sources, validation_groups

PALETTE = {"background": [0, 0, 0], "crack": [255, 0, 0], "oil": [0, 255, 0], "rust": [0, 0, 255]}
# Name of each training image, and the class it shows.
TRAINED = {"a": 1, "hflipped_a": 1, "b": 1, "c": 2, "good": 0}


@pytest.fixture
def data(tmp_path: Path) -> SegmentationDataModule:
    for split, names in (("train", TRAINED), ("valid", {"v": 1, "hflipped_v": 1, "w": 0})):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for name, index in names.items():
            mask = np.zeros((4, 4, 3), dtype=np.uint8)
            mask[1, 1] = list(PALETTE.values())[index]
            Image.fromarray(np.full((4, 4, 3), 90, dtype=np.uint8)).save(tmp_path / split / "images" / f"{name}.png")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{name}.png")
    return SegmentationDataModule(root=str(tmp_path), palette=PALETTE, image_size=4)


def manifest(classes: dict[str, int], split: str, group: str) -> list[Row]:
    names = list(PALETTE)
    return [
        Row(f"{split}/images/{name}.png", f"of {name}", group, dict.fromkeys(names, 0) | {names[index]: 1}, split, "")
        for name, index in classes.items()
    ]


def test_names_tell_the_sources_of_each_class(data: SegmentationDataModule) -> None:
    assert training_sources(data) == {1: 2, 2: 1, 3: 0}, "the mirrored a is no source of its own"
    assert validation_groups(data, [0, 1, 2]) == ["v", "v", "w"]
    assert validation_groups(data, [2]) == ["w"]


def test_a_manifest_knows_better(data: SegmentationDataModule, tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(TRAINED, "train", "one") + manifest({"v": 1}, "valid", "g"))
    assert training_sources(data) == {1: 3, 2: 1, 3: 0}
    assert validation_groups(data, [0, 1, 2]) == ["v", "g", "w"], "what the manifest leaves out goes by its name"


def test_many_masks_are_not_read_without_a_manifest(
    data: SegmentationDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_sources, "MOST_MASKS", 4)
    assert training_sources(data) == {}
    write_manifest(tmp_path, manifest(TRAINED, "train", "one"))
    assert training_sources(data) == {1: 3, 2: 1, 3: 0}
    (tmp_path / "manifest.csv").write_text("no manifest")
    assert training_sources(data) == {}
    assert validation_groups(data, [0]) == ["v"], "the run ends as well without it"
