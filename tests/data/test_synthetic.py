"""The made-up tiles: repeatable, all different, masks that fit what is seen, and a data set without leaks."""

import itertools
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.synthetic import dataset as synthetic
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE, draw_sample, kind_of, write_dataset

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CLASSES = list(TILE_PALETTE)
DEFECT_KINDS = CLASSES[1:]


def first_sources(kind: str, count: int) -> list[int]:
    return list(itertools.islice((source for source in itertools.count() if kind_of(source) == kind), count))


def test_palette_is_the_one_of_the_tile_data() -> None:
    palette = Palette.from_mapping(TILE_PALETTE)
    assert palette.names == ("background", "crack", "glue_strip", "gray_stroke", "oil", "rough")
    assert palette.colors == ((0, 0, 0), (0, 0, 255), (255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 255, 255))


def test_kinds_come_in_turn_with_one_good_tile_in_eleven() -> None:
    assert [kind_of(source) for source in range(12)] == [*DEFECT_KINDS, *DEFECT_KINDS, "good", "crack"]


def test_same_numbers_give_the_same_picture_in_whatever_order() -> None:
    first = draw_sample((48, 64), source=3, variant=2, seed=5)
    draw_sample((48, 64), source=4, variant=0, seed=5)
    second = draw_sample((48, 64), source=3, variant=2, seed=5)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_every_seed_source_and_variant_gives_another_picture() -> None:
    pictures = {
        draw_sample((32, 32), source, variant, seed)[0].tobytes()
        for source, variant, seed in itertools.product(range(6), range(6), range(3))
    }
    assert len(pictures) == 6 * 6 * 3


def test_variants_show_the_same_defect_nearly_in_the_same_place() -> None:
    overlaps = []
    for source in first_sources("oil", 5):
        masks = [draw_sample((64, 64), source, variant, 0)[1] == CLASSES.index("oil") for variant in range(4)]
        for mask in masks[1:]:
            assert not np.array_equal(mask, masks[0])
            overlaps.append((mask & masks[0]).sum() / (mask | masks[0]).sum())
    assert np.median(overlaps) > 0.5
    assert min(overlaps) > 0.2


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (33, 47), (40, 160), (160, 40), (256, 256)])
def test_any_size_has_the_defect_of_its_kind_and_known_classes_only(size: tuple[int, int]) -> None:
    for source in range(11):
        image, mask_index = draw_sample(size, source, variant=source % 4, seed=1)
        assert image.shape == (*size, 3)
        assert mask_index.shape == size
        assert image.dtype == mask_index.dtype == np.uint8
        assert mask_index.max() < len(CLASSES)
        assert image.std() > 10
        if kind_of(source) == "good":
            assert not mask_index.any()
        else:
            assert (mask_index == CLASSES.index(kind_of(source))).any()


def test_now_and_then_a_tile_has_two_defects() -> None:
    kinds = [len(set(np.unique(draw_sample((32, 32), source, 0, 0)[1])) - {0}) for source in range(110)]
    counts = Counter(kinds)
    assert counts[0] == 10
    assert 3 <= counts[2] <= 30
    assert counts[1] == 100 - counts[2]


def luminance(image: UInt8Array, where: BoolArray) -> float:
    return float(image[where].mean())


def blueness(image: UInt8Array, where: BoolArray) -> float:
    red, _, blue = image[where].mean(axis=0)
    return float(blue / red)


def contrast(image: UInt8Array, where: BoolArray) -> float:
    return float(image.mean(axis=2)[where].std())


@pytest.mark.parametrize(
    ("kind", "measure", "least"),
    [
        pytest.param("crack", luminance, -25, id="cracks are darker"),
        pytest.param("glue_strip", luminance, 15, id="glue is brighter"),
        pytest.param("glue_strip", contrast, -12, id="specks are blurred under glue"),
        pytest.param("gray_stroke", luminance, -30, id="strokes are much darker"),
        pytest.param("oil", blueness, -0.12, id="oil is yellow"),
        pytest.param("rough", contrast, -8, id="specks are rubbed off where it is rough"),
    ],
)
def test_masks_cover_what_looks_different(
    kind: str, measure: Callable[[UInt8Array, BoolArray], float], least: float
) -> None:
    """Compare inside and outside of the mask, median over 9 tiles; half a picture away the difference is gone."""
    fitting, moved = [], []
    for source in first_sources(kind, 9):
        image, mask_index = draw_sample((128, 128), source, 1, 4)
        inside, outside = mask_index == CLASSES.index(kind), mask_index == 0
        elsewhere = np.roll(inside, (64, 64), axis=(0, 1)) & outside
        fitting.append(measure(image, inside) - measure(image, outside))
        moved.append(measure(image, elsewhere) - measure(image, outside))
    direction = np.sign(least)
    assert direction * np.median(fitting) > direction * least
    assert abs(np.median(moved)) < 0.4 * abs(np.median(fitting))


def test_masks_of_cracks_fit_to_the_pixel() -> None:
    """A crack's mask is about 2 pixels wide at 128 x 128: moved by 3 pixels it loses most of the darkness."""
    fitting, moved = [], []
    for source in first_sources("crack", 9):
        image, mask_index = draw_sample((128, 128), source, 2, 4)
        inside, outside = mask_index == CLASSES.index("crack"), mask_index == 0
        grey = image.mean(axis=2)
        for shift in ((3, 3), (-3, -3), (3, -3), (-3, 3)):
            moved.append(grey[np.roll(inside, shift, axis=(0, 1))].mean() - grey[outside].mean())
        fitting.append(grey[inside].mean() - grey[outside].mean())
    assert np.median(fitting) < -25
    assert np.median(moved) > 0.5 * np.median(fitting)


def test_defects_differ_in_place_and_size() -> None:
    shares: dict[str, list[float]] = {}
    centres: dict[str, list[FloatArray]] = {}
    for kind in DEFECT_KINDS:
        for source in first_sources(kind, 12):
            inside = draw_sample((64, 64), source, 0, 0)[1] == CLASSES.index(kind)
            shares.setdefault(kind, []).append(float(inside.mean()))
            centres.setdefault(kind, []).append(np.argwhere(inside).mean(axis=0))
    for kind in DEFECT_KINDS:
        assert max(shares[kind]) > 1.5 * min(shares[kind]), kind
        assert np.std(centres[kind], axis=0).min() > 4, kind
    assert max(max(values) for values in shares.values()) < 0.5


def read_dataset(root: Path) -> dict[str, dict[str, tuple[UInt8Array, UInt8Array]]]:
    """Return {split: {name: (image, mask_rgb)}}, and prove that images and masks are partners."""
    splits: dict[str, dict[str, tuple[UInt8Array, UInt8Array]]] = {}
    for split in ("train", "valid", "test"):
        images = sorted((root / split / "images").iterdir())
        masks = sorted((root / split / "masks").iterdir())
        assert [path.name for path in images] == [path.name for path in masks]
        splits[split] = {
            image.stem: (np.array(Image.open(image)), np.array(Image.open(mask)))
            for image, mask in zip(images, masks, strict=True)
        }
    return splits


def source_of(name: str) -> str:
    """Return the source as the original's names tell it: rotated_4_gray_stroke_13 comes from gray_stroke_13."""
    return re.sub(r"^rotated_\d+_", "", name)


@pytest.mark.parametrize("images", [3, 4, 7, 26, 27, 60])
def test_a_data_set_of_any_number_has_partners_exact_colours_and_no_leaks(tmp_path: Path, images: int) -> None:
    write_dataset(tmp_path / "tiles", images, (16, 24), seed=0)
    palette = Palette.load(tmp_path / "tiles" / "palette.yaml")
    assert palette.to_mapping() == TILE_PALETTE
    splits = read_dataset(tmp_path / "tiles")
    assert sum(len(samples) for samples in splits.values()) == images
    sources: dict[str, set[str]] = {}
    for split, samples in splits.items():
        assert samples, split
        sources[split] = {source_of(name) for name in samples}
        for name, (image, mask_rgb) in samples.items():
            assert image.shape == mask_rgb.shape == (16, 24, 3)
            mask_index, unknown = palette.encode(mask_rgb)
            assert not unknown.any()
            kind = source_of(name).rsplit("_", 1)[0]
            if kind == "good":
                assert not mask_index.any()
            else:
                assert (mask_index == CLASSES.index(kind)).any()
    for one, other in itertools.combinations(sources.values(), 2):
        assert not one & other


@pytest.mark.parametrize("images", [27, 54, 110])
def test_every_class_is_in_every_split_once_there_are_enough(tmp_path: Path, images: int) -> None:
    write_dataset(tmp_path, images, (16, 16), seed=3)
    palette = Palette.from_mapping(TILE_PALETTE)
    for split, samples in read_dataset(tmp_path).items():
        present = {int(index) for _, mask_rgb in samples.values() for index in np.unique(palette.encode(mask_rgb)[0])}
        assert present == set(range(6)), split


def test_three_fifths_train_and_each_source_has_four_pictures(tmp_path: Path) -> None:
    write_dataset(tmp_path, 220, (16, 16), seed=0)
    splits = read_dataset(tmp_path)
    # 220 pictures are 55 sources: 50 with a defect, 30 + 10 + 10, and five good ones, 3 + 1 + 1.
    assert {split: len(samples) for split, samples in splits.items()} == {"train": 132, "valid": 44, "test": 44}
    pictures = Counter(source_of(name) for samples in splits.values() for name in samples)
    assert set(pictures.values()) == {4}
    assert {name for name in splits["train"] if source_of(name) == "crack_0"} == {
        "crack_0",
        "rotated_4_crack_0",
        "rotated_356_crack_0",
        "rotated_8_crack_0",
    }


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def forbid_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> tuple[UInt8Array, UInt8Array]:
        raise AssertionError("nothing should be drawn")

    monkeypatch.setattr(synthetic, "draw_sample", refuse)


def test_a_complete_data_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, 5, (16, 16), seed=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    forbid_drawing(monkeypatch)
    write_dataset(tmp_path, 5, (16, 16), seed=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_interrupted_data_set_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "whole", 6, (16, 16), seed=0)
    drawn: list[int] = []

    def stop_at_the_fourth(
        size: tuple[int, int], source: int, variant: int, seed: int
    ) -> tuple[UInt8Array, UInt8Array]:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(source)
        return draw_sample(size, source, variant, seed)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "draw_sample", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path / "part", 6, (16, 16), seed=0)
    assert len(list((tmp_path / "part").rglob("masks/*.png"))) == 3
    write_dataset(tmp_path / "part", 6, (16, 16), seed=0)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("images", "size", "seed"),
    [
        pytest.param(6, (16, 16), 0, id="other number"),
        pytest.param(5, (16, 17), 0, id="other size"),
        pytest.param(5, (16, 16), 1, id="other seed"),
    ],
)
def test_a_data_set_made_with_other_numbers_is_refused_untouched(
    tmp_path: Path, images: int, size: tuple[int, int], seed: int
) -> None:
    write_dataset(tmp_path, 5, (16, 16), seed=0)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="give another folder"):
        write_dataset(tmp_path, images, size, seed)
    assert contents(tmp_path) == before


def test_a_folder_with_other_files_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        write_dataset(tmp_path, 5, (16, 16), seed=0)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_stranger_among_the_pictures_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, 5, (16, 16), seed=0)
    (tmp_path / "train" / "images" / "holiday.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"holiday\.png"):
        write_dataset(tmp_path, 5, (16, 16), seed=0)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiles").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_dataset(tmp_path / "tiles", 5, (16, 16), seed=0)


def test_an_unreadable_marker_is_refused(tmp_path: Path) -> None:
    (tmp_path / synthetic.MARKER).write_text("{")
    with pytest.raises(UserError, match=r"synthetic\.json"):
        write_dataset(tmp_path, 5, (16, 16), seed=0)


@pytest.mark.parametrize(
    ("images", "size", "seed", "message"),
    [
        pytest.param(2, (16, 16), 0, "images=2", id="fewer images than splits"),
        pytest.param(5, (16, 15), 0, r"size=\[16, 15\]", id="too small"),
        pytest.param(5, (16, 16), -1, "seed=-1", id="negative seed"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_written(
    tmp_path: Path, images: int, size: tuple[int, int], seed: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_dataset(tmp_path / "tiles", images, size, seed)
    assert not (tmp_path / "tiles").exists()


def test_memory_does_not_grow_with_the_number(tmp_path: Path) -> None:
    def peak(images: int) -> int:
        tracemalloc.start()
        write_dataset(tmp_path / str(images), images, (64, 64), seed=0)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(3)  # imports and caches
    assert peak(60) < 1.2 * peak(12) + 200_000


def test_drawing_needs_no_torch() -> None:
    code = "import sys, flexunet_pl.data.synthetic.dataset; raise SystemExit(bool({'torch', 'scipy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
