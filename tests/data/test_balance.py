"""Class weights and drawing probabilities equal numbers worked by hand."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.balance import CLASS_WEIGHTS, class_weights, count_masks, image_weights
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.manifest import (
    Row,
    count_pixels,
    fold_members,
    pixel_table,
    read_manifest,
    sha256_of,
    write_manifest,
)
from flexunet_pl.data.palette import Palette

PALETTE = Palette.from_mapping({"background": [0, 0, 0], "crack": [0, 0, 255], "oil": [255, 255, 0]})
# Three images of 100 pixels: 90 + 10 crack, 60 + 40 oil, all background.
COUNTS = np.array([[90, 10, 0], [60, 0, 40], [100, 0, 0]])


def test_median_frequency_by_hand() -> None:
    # Frequencies: background 250/300 = 5/6, crack 10/100 = 1/10, oil 40/100 = 4/10; the median is 4/10.
    assert class_weights("median_frequency", COUNTS) == pytest.approx([0.48, 4.0, 1.0])


def test_effective_number_by_hand() -> None:
    # 3, 1 and 1 images; with beta = .999: 1 / 2.997001, 1, 1; their mean is (2 + 1 / 2.997001) / 3.
    mean = (2 + 1 / 2.997001) / 3
    assert class_weights("effective_number", COUNTS) == pytest.approx([1 / 2.997001 / mean, 1 / mean, 1 / mean])


def test_drawing_by_class_by_hand() -> None:
    # Kinds crack, oil and none have one image each.
    assert image_weights(COUNTS) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    # crack: images 0, 1 and 2; oil: image 2 alone. Half of the draws for each kind.
    two = np.array([[9, 1, 0], [9, 1, 0], [8, 1, 1]])
    assert image_weights(two) == pytest.approx([1 / 6, 1 / 6, 1 / 6 + 1 / 2])


def test_a_class_without_pixels_weighs_nothing() -> None:
    counts = np.array([[90, 10, 0]])
    for rule in CLASS_WEIGHTS:
        weights = class_weights(rule, counts)
        assert weights[2] == 0
        assert all(weight > 0 for weight in weights[:2])


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=1, max_size=20).filter(
        lambda table: all(sum(row) for row in table)
    )
)
def test_every_kind_is_drawn_equally_often(table: list[list[int]]) -> None:
    counts = np.array(table)
    weights = np.array(image_weights(counts))
    assert weights.sum() == pytest.approx(1)
    shown = counts[:, 1:] > 0
    kinds = [shown[:, column] for column in range(3)] + [~shown.any(axis=1)]
    occurring = [kind for kind in kinds if kind.any()]
    for kind in occurring:
        assert weights[kind].sum() >= 1 / len(occurring) - 1e-9


def test_an_unknown_rule_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'median_frequency'"):
        class_weights("median_freqency", COUNTS)


def test_no_image_to_draw_from_is_an_error() -> None:
    with pytest.raises(UserError, match="no image to draw from"):
        image_weights(np.zeros((0, 3), dtype=np.int64))


def _write_mask(path: Path, mask_index: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PALETTE.decode(mask_index)).save(path)
    return path


def test_mask_files_are_counted(tmp_path: Path) -> None:
    mask_index = np.zeros((10, 10), dtype=np.uint8)
    mask_index[0] = 1
    mask_index[1:3, :5] = 2
    path = _write_mask(tmp_path / "a.png", mask_index)
    assert count_masks([path, path], PALETTE).tolist() == [[80, 10, 10], [80, 10, 10]]


def test_pixels_come_from_the_manifest_where_it_lists_all_training_images(tiny_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    module = SegmentationDataModule(
        root=str(root), image_size=32, batch_size=3, num_workers=0, sampler="class_balanced"
    )
    counted = module.count_training_pixels()
    images = [pair.image.relative_to(root).as_posix() for pair in module.pairs("train")]
    names = module.palette.names
    rows = [
        Row(file, file, file, dict(zip(names, row, strict=True)), "train", "")
        for file, row in zip(images, counted.tolist(), strict=True)
    ]
    write_manifest(root, rows)
    assert module.count_training_pixels().tolist() == counted.tolist()
    # The manifest is taken at its word, and not at all if it lacks an image or a class.
    write_manifest(root, [replace(rows[0], pixels=dict.fromkeys(names, 7)), *rows[1:]])
    assert module.count_training_pixels()[0].tolist() == [7] * len(names)
    weights = module.train_dataloader().batch_sampler.weights  # type: ignore[union-attr]  # it is ours
    assert weights.tolist() == image_weights(module.count_training_pixels())
    write_manifest(root, rows[1:])
    assert module.count_training_pixels().tolist() == counted.tolist()
    write_manifest(root, [replace(row, pixels={"background": 1}) for row in rows])
    assert module.count_training_pixels().tolist() == counted.tolist()


def _rows() -> list[Row]:
    pixels = [dict(zip(PALETTE.names, map(int, row), strict=True)) for row in COUNTS]
    return [
        Row("test/images/c.png", "c", "c", pixels[2], "test", "2" * 64),
        Row("train/images/a.png", "a", "a", pixels[0], "train", "0" * 64, fold=0),
        Row("train/images/b.png", "b", "b", pixels[1], "train", "1" * 64, fold=1),
    ]


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, _rows()[::-1])
    rows = read_manifest(tmp_path)
    assert rows == _rows()
    assert [row.classes for row in rows] == [(), ("crack",), ("oil",)]
    assert [row.name for row in rows] == ["c", "a", "b"]
    assert pixel_table(rows, PALETTE).tolist() == COUNTS[[2, 0, 1]].tolist()
    header = (tmp_path / "manifest.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "file,source,group,classes,split,fold,sha256,pixels_background,pixels_crack,pixels_oil"


def test_a_fold_says_who_trains_and_who_validates(tmp_path: Path) -> None:
    write_manifest(tmp_path, _rows())
    assert fold_members(tmp_path, 1) == (["train/images/a.png"], ["train/images/b.png"])
    with pytest.raises(UserError, match=r"data\.fold=2: .* has folds 0 to 1"):
        fold_members(tmp_path, 2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,source\n", "lacks the columns group"),
        ("file,source,group,classes,split,fold,sha256,pixels_a\na,b,c,,nowhere,,x,1\n", "line 2 .*split='nowhere'"),
        ("file,source,group,classes,split,fold,sha256,pixels_a\na,b,c,,train,,x,many\n", "line 2 .*'many'"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        read_manifest(tmp_path)


def test_ignored_pixels_are_counted_apart() -> None:
    palette = Palette.from_mapping({"background": [0, 0, 0], "crack": [0, 0, 255], "ignore": [255, 255, 255]})
    mask_index = np.array([[0, 1, 255], [1, 1, 255]], dtype=np.uint8)
    assert count_pixels(mask_index, palette) == {"background": 1, "crack": 3, "ignore": 2}


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
