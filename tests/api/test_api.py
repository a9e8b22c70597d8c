"""The Python API: laziness, loading, predictions equal to those of the commands, regions, training and export."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from curation_data import write_mvtec
from onnx_models import BLUE, GREEN, PALETTE, RED, picture, write_model
from PIL import Image

import flexunet_pl as fx
from flexunet_pl.cli.main import main
from flexunet_pl.inference import onnx_infer
from flexunet_pl.training.runs import find_checkpoint

UInt8Array = npt.NDArray[np.uint8]


def modules_after(code: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter has loaded after running ``code``."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fx.export(tiny_run, tmp_path_factory.mktemp("api") / "bundle")


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder's only image, whose size is not the working size of the tiny model, 32."""
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (50, 41, 3), dtype=np.uint8)).save(path)
    return path


def test_importing_the_package_loads_no_libraries() -> None:
    assert not {"torch", "numpy", "lightning", "PIL", "yaml", "jsonargparse", "rich"} & modules_after(
        "import flexunet_pl"
    )


def test_predicting_with_a_bundle_loads_no_torch(bundle: Path, image_file: Path) -> None:
    code = f"import flexunet_pl as fx\nfx.load_model({str(bundle)!r}).predict({str(image_file)!r})"
    loaded = modules_after(code)
    assert "onnxruntime" in loaded
    assert not {"torch", "lightning", "scipy", "matplotlib", "pandas"} & loaded


def test_every_public_name_exists_and_is_listed() -> None:
    assert set(fx.__all__) <= set(dir(fx))
    assert all(callable(getattr(fx, name)) for name in fx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        _ = fx.load_modle  # type: ignore[attr-defined]  # the typo is the test


def test_export_is_callable_whichever_is_imported_first() -> None:
    code = "import flexunet_pl.export.bundle\nimport flexunet_pl as fx\nassert callable(fx.export)"
    assert "flexunet_pl.export.bundle" in modules_after(code)


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(str(fx.__file__)).parent / "py.typed").is_file()


def test_checkpoint_and_bundle_agree(tiny_run: Path, bundle: Path, image_file: Path) -> None:
    from_run, from_bundle = (fx.load_model(path).predict(image_file) for path in (tiny_run, bundle))
    assert from_run.mask.shape == (50, 41)
    assert from_run.mask.dtype == np.uint8
    assert from_run.probabilities.shape == (50, 41, len(fx.load_model(bundle).palette))
    assert from_run.probabilities.dtype == np.float32
    np.testing.assert_allclose(from_run.probabilities, from_bundle.probabilities, atol=1e-5)
    np.testing.assert_array_equal(from_run.mask, from_bundle.mask)
    assert [(region.box, region.class_name) for region in from_run.regions] == [
        (region.box, region.class_name) for region in from_bundle.regions
    ]


@pytest.mark.parametrize("tile", [None, 16], ids=["whole", "in tiles"])
def test_masks_equal_those_of_predict_and_infer(
    tile: int | None, tiny_config: Path, tiny_run: Path, bundle: Path, image_file: Path, tmp_path: Path
) -> None:
    options = [] if tile is None else ["--tile", str(tile)]
    checkpoint = str(find_checkpoint(tiny_run))
    predict = ["predict", "--config", str(tiny_config), "--ckpt_path", checkpoint, *options]
    assert main([*predict, "--data.predict_dir", str(image_file.parent), "--out", str(tmp_path / "a")]) == 0
    assert main(["infer", str(bundle), str(image_file), "--out", str(tmp_path / "b"), *options]) == 0
    for model, folder in ((tiny_run, "a"), (bundle, "b")):
        expected = np.asarray(Image.open(tmp_path / folder / "photo.png"))
        np.testing.assert_array_equal(fx.load_model(model).predict(image_file, tile=tile).mask, expected)


def test_path_array_and_picture_give_the_same(bundle: Path, image_file: Path) -> None:
    model = fx.load_model(bundle)
    with Image.open(image_file) as image:
        image.load()
    by_path, by_text, by_picture, by_array, by_rgba = (
        model.predict(given) for given in (image_file, str(image_file), image, np.asarray(image), image.convert("RGBA"))
    )
    for other in (by_text, by_picture, by_array, by_rgba):
        np.testing.assert_array_equal(other.probabilities, by_path.probabilities)
        assert other.regions == by_path.regions


def test_probabilities_choose_the_mask_at_the_size_of_the_image(bundle: Path, image_file: Path) -> None:
    found = fx.load_model(bundle).predict(image_file)
    np.testing.assert_array_equal(found.probabilities.argmax(2), found.mask)


@pytest.fixture(scope="module")
def brightest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose class is the brightest channel: red background, green crack, blue oil."""
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


def test_regions_have_boxes_areas_and_scores(brightest: Path) -> None:
    rows = [
        [GREEN, RED, RED, BLUE],
        [RED, GREEN, RED, BLUE],
        [RED, RED, RED, BLUE],
        [GREEN, RED, RED, RED],
    ]
    model = fx.load_model(brightest)
    assert model.palette == PALETTE
    regions = model.predict(picture(rows)).regions
    # The score of a class is a tenth of its channel: softmax(20, 1, 1).
    score = pytest.approx(1 / (1 + 2 * np.exp(-19.0)), abs=1e-6)
    assert [(region.class_name, region.class_index, region.box, region.area) for region in regions] == [
        ("oil", 2, (3, 0, 4, 3), 3),
        ("crack", 1, (0, 0, 2, 2), 2),
        ("crack", 1, (0, 3, 1, 4), 1),
    ]
    assert [region.score for region in regions] == [score] * 3


def test_the_score_of_a_region_is_the_mean_over_its_pixels(brightest: Path) -> None:
    weak = (10, 20, 10)  # softmax(1, 2, 1) gives the crack e / (e + 2)
    regions = fx.load_model(brightest).predict(picture([[GREEN, weak]])).regions
    strong_score, weak_score = 1 / (1 + 2 * np.exp(-19.0)), np.e / (np.e + 2)
    assert [region.score for region in regions] == [pytest.approx((strong_score + weak_score) / 2, abs=1e-6)]


def test_regions_of_one_sigmoid_channel_score_its_probability() -> None:
    from flexunet_pl.api import _regions

    mask = np.array([[0, 1, 1]], dtype=np.uint8)
    probabilities = np.array([[[0.1], [0.75], [1.0]]], dtype=np.float32)
    found = onnx_infer.find_regions(mask, onnx_infer.certainty_of(probabilities), ("good", "bad"))
    regions = _regions(onnx_infer.Acceptance().decide(1.0, found), ("good", "bad"))
    assert regions == (fx.Region("bad", 1, (1, 0, 3, 1), 2, 0.875, length=2.0, width=1.0),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(np.zeros((4, 4, 3), dtype=np.float32), "give uint8", id="array of another type"),
        pytest.param(np.zeros((4, 4), dtype=np.uint8), r"give uint8 \(H, W, 3\)", id="grey array, colour model"),
        pytest.param("absent.png", "absent.png", id="file that does not exist"),
        pytest.param(Image.new("F", (4, 4)), "image: mode F; convert it to grey", id="picture of floats"),
        pytest.param(Image.new("I;16", (4, 4)), "image: a 16-bit image; convert", id="16-bit picture without a rule"),
    ],
)
def test_unusable_images_are_user_errors(brightest: Path, given: Any, message: str) -> None:
    with pytest.raises(fx.UserError, match=message):
        fx.load_model(brightest).predict(given)


def test_overlap_needs_tile(brightest: Path) -> None:
    with pytest.raises(fx.UserError, match="overlap=4 needs tile"):
        fx.load_model(brightest).predict(picture([[RED]]), overlap=4)


def test_a_folder_without_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(fx.UserError, match="give a run folder"):
        fx.load_model(tmp_path)


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_an_unknown_device_is_a_user_error(kind: str, tiny_checkpoint: Path, brightest: Path) -> None:
    with pytest.raises(fx.UserError, match="abacus"):
        fx.load_model(tiny_checkpoint if kind == "checkpoint" else brightest, device="abacus")


def test_a_checkpoint_without_torch_names_what_to_install(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(fx.UserError, match=r"needs the package torch; pip install 'flexunet_pl\[train\]'"):
        fx.load_model(tiny_checkpoint)


@pytest.mark.parametrize("last_only", [False, True], ids=["best and last", "last only"])
def test_a_run_folder_stands_for_its_best_checkpoint_or_last(tmp_path: Path, last_only: bool) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ["last"] if last_only else ["last", "best"]:
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    assert find_checkpoint(tmp_path).stem == ("last" if last_only else "best")


def test_fit_returns_where_the_run_is_and_how_good(tiny_config: Path, tmp_path: Path) -> None:
    run = fx.fit(tiny_config, run_dir=tmp_path / "run", trainer={"max_epochs": 2}, model={"loss": {"dice": 1.0}})
    assert run.run_dir == tmp_path / "run"
    assert run.best_checkpoint == tmp_path / "run" / "checkpoints" / "best.ckpt"
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["epoch"] == 1
    assert content["hyper_parameters"]["loss"] == {"dice": 1.0}
    assert run.scores["val/loss"] > 0
    assert fx.load_model(run.run_dir, device="cpu").predict(np.zeros((9, 9, 3), np.uint8)).mask.shape == (9, 9)


def test_a_mistyped_option_of_fit_is_one_user_error(tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(fx.UserError, match=r"did you mean .*model\.learning_rate"):
        fx.fit(tiny_config, model={"learning_rat": 1.0})
    assert "error" not in capsys.readouterr().err


def test_export_takes_several_formats(tiny_run: Path, tmp_path: Path) -> None:
    out = fx.export(tiny_run, tmp_path / "bundle", formats=["onnx", "weights.h5"], min_region_area=5)
    assert (out / "model.onnx").is_file()
    assert (out / "model.weights.h5").is_file()
    assert json.loads((out / "labels.json").read_text())["min_region_area"] == 5


def test_fit_plans_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mvtec(tmp_path / "tile", {"crack": 4}, good=3)
    monkeypatch.chdir(tmp_path)
    few = {"data": {"num_workers": 0, "min_samples_per_epoch": 8}, "trainer": {"enable_progress_bar": False}}
    run = fx.fit(tmp_path / "tile", epochs=1, run_dir="runs/mine", **few)
    assert run.best_checkpoint == Path("runs/mine/checkpoints/best.ckpt")
    assert (run.run_dir / "plan.yaml").is_file()
    assert "val/mean_foreground_dice" in run.scores
