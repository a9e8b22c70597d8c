"""What a data set keeps in memory changes how often files are read, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexunet_pl.core.types import Pair
from flexunet_pl.data import dataset as module
from flexunet_pl.data.augment.pipeline import build_augmentation
from flexunet_pl.data.dataset import SegmentationDataset
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, read_image
from flexunet_pl.data.sizing import Sizing

PALETTE = Palette.from_mapping({"background": [0, 0, 0], "scratch": [255, 0, 0]})
PIXELS = 24 * 32


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    rng = np.random.default_rng(0)
    found = []
    for name in "abc":
        image, mask = tmp_path / f"{name}.png", tmp_path / f"{name}-mask.png"
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(image)
        classes = rng.integers(0, 2, (24, 32, 1), dtype=np.uint8)
        Image.fromarray(classes * np.array([255, 0, 0], dtype=np.uint8)).save(mask)
        found.append(Pair(name, image, mask))
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images in the order in which they are read."""
    names: list[str] = []

    def counted(path: Path, rules: ReadingRules) -> Any:
        names.append(path.stem)
        return read_image(path, rules)

    monkeypatch.setattr(module, "read_image", counted)
    return names


def samples_of(pairs: list[Pair], order: str, **options: Any) -> list[dict[str, Any]]:
    dataset = SegmentationDataset(pairs, PALETTE, ReadingRules(), Sizing(16, 16, "stretch"), **options)
    return [dataset[appearance, "abc".index(name)] for appearance, name in enumerate(order)]


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(np.array_equal(first[key], second[key]) for key in first.keys() | second.keys())


def test_each_file_is_read_once_and_what_is_kept_does_not_change(pairs: list[Pair], read: list[str]) -> None:
    augment = build_augmentation({"hflip": 0.5, "brightness": 1.0, "copy_paste": 1.0, "rotation": 1.0}, (8, 8))
    order = "abcabcaabbcc"
    kept = samples_of(pairs, order, augment=augment)
    assert sorted(read) == ["a", "b", "c"]
    for appearance, (name, sample) in enumerate(zip(order, kept, strict=True)):
        fresh = SegmentationDataset(pairs, PALETTE, ReadingRules(), Sizing(16, 16, "stretch"), augment=augment)
        assert same(fresh[appearance, "abc".index(name)], sample)


def test_no_more_is_kept_than_the_limit(pairs: list[Pair], read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 2 * 4 * 16 * 16 + 1)  # two images of three channels with their masks
    samples_of(pairs, "abcabc")
    assert read == ["a", "b", "c", "c"]


def test_masks_at_their_own_size_are_read_anew(pairs: list[Pair], read: list[str]) -> None:
    first, second = samples_of(pairs, "aa", keep_native_mask=True)
    assert read == ["a", "a"]
    assert first["native_mask"].numel() == PIXELS
    assert same(first, second)
