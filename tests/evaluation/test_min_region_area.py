"""Regions too small to be believed: dropped alike by every command that gives masks, and how the size is chosen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from conftest import ROOT, with_settings
from onnx_models import RED, labels, noise, write_model
from PIL import Image
from report_data import write_case, write_cases

from flexunet_pl.cli.main import main
from flexunet_pl.core.types import Pair
from flexunet_pl.evaluation.min_region_area import SIZES, count_pixels, cross_validated
from flexunet_pl.evaluation.models import open_model
from flexunet_pl.export.bundle import facts_of
from flexunet_pl.inference.onnx_infer import InferenceError, Model, without_small_regions
from flexunet_pl.training.task import SegmentationTask

UInt8Array = npt.NDArray[np.uint8]
SMALLEST = 6


def masks_of(folder: Path) -> dict[str, UInt8Array]:
    return {path.stem: np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))}


@pytest.fixture(scope="module")
def ruled_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny checkpoint as if it had been trained with ``model.min_region_area``."""
    return with_settings(tiny_checkpoint, tmp_path_factory.mktemp("ruled"), min_region_area=SMALLEST)


@pytest.fixture(scope="module")
def ruled_bundle(tiny_checkpoint: Path, ruled_checkpoint: Path) -> Path:
    """Return a bundle that was given the size when it was exported, as the checkpoint could have had it."""
    assert facts_of(SegmentationTask.from_checkpoint(ruled_checkpoint), ruled_checkpoint)["min_region_area"] == SMALLEST
    out = ruled_checkpoint.parent / "bundle"
    assert main(["export", str(tiny_checkpoint), str(out), "--min_region_area", str(SMALLEST)]) == 0
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        Image.fromarray(noise(70, 90, 3, seed=number)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("tiles", [[], ["--tile", "40"]], ids=["whole", "tiles"])
def test_predict_and_the_exported_model_drop_the_same_regions(
    tiles: list[str], tiny_checkpoint: Path, ruled_checkpoint: Path, ruled_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    def predicted(checkpoint: Path, name: str, *options: str) -> dict[str, UInt8Array]:
        words = ["predict", "--ckpt_path", str(checkpoint), "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
        words += ["--data.predict_dir", str(photos), "--out", str(tmp_path / name), *tiles, *options]
        assert main(words) == 0
        return masks_of(tmp_path / name)

    bare, ruled = predicted(tiny_checkpoint, "bare"), predicted(ruled_checkpoint, "ruled")
    for name, mask in bare.items():
        np.testing.assert_array_equal(ruled[name], without_small_regions(mask, SMALLEST))
    assert any((ruled[name] != mask).any() for name, mask in bare.items())
    assert any(mask.any() for mask in ruled.values())
    # The command line wins over the checkpoint.
    again = predicted(ruled_checkpoint, "again", "--model.min_region_area", "0")
    assert all((again[name] == mask).all() for name, mask in bare.items())

    assert json.loads((ruled_bundle / "labels.json").read_text())["min_region_area"] == SMALLEST
    infer = ["infer", str(ruled_bundle), str(photos), *tiles, "--out"]
    assert main([*infer, str(tmp_path / "onnx")]) == 0
    assert main([*infer, str(tmp_path / "all"), "--min-region-area", "0"]) == 0
    for name, mask in masks_of(tmp_path / "onnx").items():
        assert (mask == ruled[name]).mean() > 0.999
    assert all((mask == bare[name]).mean() > 0.999 for name, mask in masks_of(tmp_path / "all").items())


def test_test_and_report_score_the_masks_that_predict_writes(
    ruled_checkpoint: Path, tiny_checkpoint: Path, tiny_data: Path, tiny_config: Path, tmp_path: Path
) -> None:
    def confusion(checkpoint: Path, name: str) -> npt.NDArray[np.int64]:
        words = ["--config", str(tiny_config), "--ckpt_path", str(checkpoint), "--run_dir", str(tmp_path / name)]
        assert main(["test", *words]) == 0
        assert main(["report", str(checkpoint), str(tiny_data), "--out", str(tmp_path / name / "report")]) == 0
        tested: Any = json.loads((tmp_path / name / "test_scores.json").read_text())["classes"]
        reported: Any = json.loads((tmp_path / name / "report" / "scores.json").read_text())
        for one, scores in reported["classes"].items():
            assert {key: tested[one][key] for key in ("dice", "precision", "recall")} == pytest.approx(
                {key: scores[key] for key in ("dice", "precision", "recall")}
            )
        return np.array(reported["confusion"])

    more = confusion(ruled_checkpoint, "ruled") - confusion(tiny_checkpoint, "bare")
    # Regions only ever become background.
    assert (more[:, 0] >= 0).all()
    assert (more[:, 1:] <= 0).all()
    assert more.any()


def test_a_tiff_in_windows_drops_what_the_whole_image_does(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", min_region_area=40)
    image = noise(300, 201, 3)
    tifffile.imwrite(tmp_path / "slide.tif", image, photometric="rgb", tile=(64, 64), compression="zlib")
    assert main(["infer", str(model), str(tmp_path / "slide.tif"), "--out", str(tmp_path / "out"), "--tile", "48"]) == 0
    expected = Model(model).predict(image).mask_index
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "slide.tif"), expected)
    bare = Model(write_model(tmp_path / "bare.onnx")).predict(image).mask_index
    assert 0 < (bare != expected).sum() < (bare > 0).sum()


def test_models_of_before_keep_all_and_a_faulty_size_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert labels().min_region_area == 0
    with pytest.raises(InferenceError, match="invalid literal for int"):
        labels(min_region_area="few")
    Image.fromarray(np.full((8, 8, 3), RED, dtype=np.uint8)).save(tmp_path / "a.png")
    bare = write_model(tmp_path / "model.onnx")
    least = "min_region_area=-1 must be at least 0"
    for words, printed in (
        (
            ["infer", str(bare), str(tmp_path / "a.png"), "--out", str(tmp_path), "--min-region-area", "-1"],
            "--min-region-area -1 must be 0, which keeps all, or ",
        ),
        (["export", str(tiny_checkpoint), str(tmp_path / "new"), "--min_region_area", "-1"], least),
        (["fit", "--config", str(ROOT / "configs" / "demo.yaml"), "--model.min_region_area=-1"], least),
    ):
        assert main(words) == 2
        assert printed in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def counts_of(*groups: list[tuple[int, int, int]]) -> npt.NDArray[np.int64]:
    """Return confusions of two classes where each group gives (hit, true, predicted) for the first of ``SIZES``."""
    counts = np.zeros((len(groups), len(SIZES), 2, 2), np.int64)
    for place, group in enumerate(groups):
        for size, (hit, true, predicted) in enumerate(group):
            counts[place, size] = [[0, predicted - hit], [true - hit, hit]]
        counts[place, len(group) :] = [[0, 0], [group[0][1], 0]]
    return counts


def test_the_choice_is_scored_on_groups_that_did_not_make_it() -> None:
    # With 10 the first two groups lose invented pixels; the third one would lose its only defect, and is too small to
    # change the choice of the others. Alone it would choose 0, and so would anybody who had only it.
    helped, hurt = [(8, 10, 14), (8, 10, 10)], [(4, 4, 4), (0, 4, 0)]
    counts = counts_of(helped, helped, hurt)
    # Left out, each helped group is scored at 10 if one helped and the hurt group choose 10: 2*8/24 < 2*12/32.
    assert cross_validated(counts) == pytest.approx(2 * (8 + 8 + 0) / (24 + 14 + 14 + 0))
    # With one more helped group all others choose 10 for every group.
    assert cross_validated(counts_of(helped, helped, helped, helped, hurt)) == pytest.approx(2 * 32 / (44 + 40))


def test_pixels_are_counted_without_the_ignored() -> None:
    truth = np.array([[1, 1, 0, 255], [0, 0, 0, 2]], dtype=np.uint8)
    counts = count_pixels(truth, np.array([[1, 0, 0, 2], [0, 0, 0, 2]], dtype=np.uint8), 3)
    assert counts[0].tolist() == [[4, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert counts[SIZES.index(10)].tolist() == [[4, 0, 0], [2, 0, 0], [1, 0, 0]]


def specks(count: int, size: tuple[int, int], side: int, seed: int) -> UInt8Array:
    mask = np.zeros(size, dtype=np.uint8)
    for row, column in np.random.default_rng(seed).integers(0, (size[0] // 8, size[1] // 8), (count, 2)) * 8:
        mask[row : row + side, column : column + side] = 1
    return mask


def test_regions_finds_a_size_that_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        truth = np.zeros((64, 64), dtype=np.uint8)
        truth[20:40, 20:44] = 1
        write_case(tmp_path / "data" / "valid", f"part{number}", truth, truth | specks(20, truth.shape, 3, number))
    model = str(write_model(tmp_path / "model.onnx", min_region_area=3000))  # its own rule does not hide anything
    assert main(["tune-min-area", model, str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["min_region_area", "mDice", "(foreground)", "crack"]
    table = {int(line.split()[0]): float(line.split()[1]) for line in printed[1 : 1 + len(SIZES)]}
    assert max(table, key=table.__getitem__) == 10
    assert table[0] < table[10] > table[500]
    assert printed[-3].endswith(f"suits all others best: {table[10]:.4f}")
    assert printed[-2].startswith("To use it: --model.min_region_area 10 ")


@pytest.mark.parametrize(
    ("case", "printed"),
    [
        ("nothing invented", "Small regions are right more often than not: leave model.min_region_area at 0."),
        ("one source", "All images are of one source: whether 10 helps with others is unknown."),
        ("hurts others", "No area helps on images that did not choose it: leave model.min_region_area at 0."),
    ],
)
def test_regions_says_when_no_size_helps(
    case: str, printed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if case == "nothing invented":
        write_cases(tmp_path / "data", "valid")
    else:
        truth = np.zeros((64, 64), dtype=np.uint8)
        truth[20:40, 20:44] = 1
        write_case(tmp_path / "data" / "valid", "part", truth, truth | specks(20, truth.shape, 3, 0))
    if case == "hurts others":
        small = specks(3, truth.shape, 3, 1)
        write_case(tmp_path / "data" / "valid", "other", small, small)
    model = str(write_model(tmp_path / "model.onnx"))
    assert main(["tune-min-area", model, str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == printed


def test_a_model_can_predict_without_the_rule(
    tiny_checkpoint: Path, ruled_checkpoint: Path, ruled_bundle: Path, photos: Path
) -> None:
    pair = Pair("0", photos / "0.png", photos / "unread.png")
    bare = open_model(tiny_checkpoint).predict(pair).mask_index
    for path in (ruled_checkpoint, ruled_bundle):
        model = open_model(path)
        assert (model.predict(pair).mask_index != bare).any()
        model.keep_small_regions()
        assert (model.predict(pair).mask_index == bare).mean() > 0.999


def test_regions_reads_folders_of_predicted_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cases(tmp_path / "data", "valid")
    main(["tune-min-area", str(tmp_path / "data" / "valid" / "masks"), str(tmp_path / "data")])
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["0", "1.0000"]
    main(["tune-min-area", str(tmp_path / "data"), str(tmp_path / "data")])
    assert "no model there" in capsys.readouterr().err
