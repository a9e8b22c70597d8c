"""The exported folder: what is in it, that it is checked, and that it appears whole or not at all."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import flexunet_pl.export.formats.int8 as int8_format
import flexunet_pl.export.formats.onnx as onnx_format
import flexunet_pl.export.int8.accuracy as int8_check
from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE
from flexunet_pl.export.bundle import export
from flexunet_pl.export.int8.accuracy import check_int8, decided_confusion, refuse_loss, summary_of
from flexunet_pl.export.int8.calibration import Pictures, demo_images
from flexunet_pl.export.verify import OnnxModel
from flexunet_pl.inference import onnx_infer
from flexunet_pl.keras import load_keras
from flexunet_pl.training.task import SegmentationTask

EVERYTHING = {
    "README.md",
    "check.json",
    "infer.py",
    "labels.json",
    "model.h5",
    "model.int8.onnx",
    "model.keras",
    "model.onnx",
    "model.png",
    "model.weights.h5",
    "summary.txt",
}


@pytest.fixture(scope="session")
def whole_bundle(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of everything there is."""
    out = tmp_path_factory.mktemp("exports") / "new" / "tiles"
    formats, calibration = "onnx,keras, weights.h5,h5", tiny_data / "valid"
    # A model trained for seconds is unsure nearly everywhere, so that codes of 8 bits may well move its masks.
    assert export(tiny_checkpoint, out, formats, int8=True, calibration=calibration, force=True) == 0
    return out


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch, whole_bundle: Path) -> None:
    """Take the graph from the whole bundle, so that a test does not wait for torch's exporter; all else is real."""

    def copy(_network: object, _facts: object, path: Path, _drift: object) -> None:
        shutil.copyfile(whole_bundle / "model.onnx", path)

    monkeypatch.setattr(onnx_format, "export_onnx", copy)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_holds_what_was_asked_for_and_nothing_else(whole_bundle: Path) -> None:
    assert {path.name for path in whole_bundle.iterdir()} == EVERYTHING
    assert [path.name for path in whole_bundle.parent.iterdir()] == ["tiles"]
    assert (whole_bundle / "infer.py").read_bytes() == Path(onnx_infer.__file__).read_bytes()
    assert not any(path.stat().st_mode & 0o111 for path in whole_bundle.iterdir())


def test_labels_and_metadata_tell_the_facts_of_the_checkpoint(whole_bundle: Path, tiny_checkpoint: Path) -> None:
    labels = json.loads((whole_bundle / "labels.json").read_text(encoding="utf-8"))
    assert labels == {
        "format": 1,
        "version": __version__,
        "classes": [{"name": name, "color": color} for name, color in TILE_PALETTE.items()],
        "ignore": None,
        "num_classes": 6,
        "channels": 3,
        "image_size": [32, 32],
        "resize": "stretch",
        "sixteen_bit": None,
        "size_multiple": 4,
        "fixed_size": None,
        "min_region_area": 0,
        "decision": None,
        "checkpoint_sha256": hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest(),
        "network": "flexunet",
    }
    for name in ("model.onnx", "model.int8.onnx"):
        model = onnx.load(whole_bundle / name)
        assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == {"flexunet_pl": labels}


def test_the_report_tells_what_was_compared(whole_bundle: Path) -> None:
    report = json.loads((whole_bundle / "check.json").read_text(encoding="utf-8"))
    onnx_report = report["model.onnx"]
    assert onnx_report["largest_probability_difference"] <= 1e-4
    assert onnx_report["decided_mask_disagreement"] == 0
    shapes = [batch["shape"] for batch in onnx_report["batches"]]
    assert [1, 1, 1, 3] in shapes
    assert [3, 4, 4, 3] in shapes
    assert [batch["shape"] for batch in onnx_report["batches"] if batch["images"] == "pictures"] == [[1, 32, 32, 3]] * 2
    assert onnx_report["pixels"] == sum(shape[0] * shape[1] * shape[2] for shape in shapes)
    int8 = report["model.int8.onnx"]
    assert int8["truth"] == "masks"
    assert int8["calibration_images"] + int8["images"] >= 5
    assert 0 <= int8["mask_agreement"] <= 1
    assert report["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in whole_bundle.iterdir()
        if path.name != "check.json"
    }
    assert set(report["versions"]) == {"flexunet_pl", "torch", "onnx", "onnxruntime"}
    assert "/" not in json.dumps({**report, "files": None}), "no path of this machine"


def test_onnx_and_keras_files_are_the_same_model(whole_bundle: Path, tiny_checkpoint: Path) -> None:
    network = SegmentationTask.from_checkpoint(tiny_checkpoint).network
    image = np.random.default_rng(3).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    probabilities, _ = OnnxModel(whole_bundle / "model.onnx")(image)
    for name in ("model.keras", "model.h5"):
        read, _ = load_keras(whole_bundle / name)
        with torch.inference_mode():
            result = read.eval()(torch.from_numpy(image).permute(0, 3, 1, 2)).softmax(1).permute(0, 2, 3, 1)
        np.testing.assert_allclose(probabilities, result.numpy(), atol=1e-4)
        assert read.state_dict().keys() == network.state_dict().keys()


def test_the_readme_of_a_bundle_works_as_it_stands(whole_bundle: Path, tmp_path: Path, tiny_data: Path) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(whole_bundle, copied)
    picture = sorted((tiny_data / "test" / "images").iterdir())[0]
    (copied / "photos").mkdir()
    Image.open(picture).resize((50, 40)).save(copied / "photos" / "one.png")
    Image.open(picture).convert("RGB").save(copied / "photo.jpg")
    readme = (whole_bundle / "README.md").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python ")]
    assert len(commands) == 2
    program = readme.split("```python\n")[1].split("```")[0]
    runs = [[sys.executable, *command.split()[1:]] for command in commands] + [[sys.executable, "-c", program]]
    for run in runs:
        done = subprocess.run(run, cwd=copied, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    with Image.open(copied / "masks" / "one.png") as mask:
        assert mask.size == (50, 40)
        assert mask.mode == "P"


@pytest.mark.usefixtures("quick_export")
def test_an_older_bundle_is_replaced_and_files_of_others_stay(
    whole_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tiles"
    shutil.copytree(whole_bundle, out)
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    (out / "photos").mkdir()
    (out / "model.onnx").write_bytes(b"older")
    assert export(tiny_checkpoint, out, formats="onnx,h5") == 0
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "check.json",
        "infer.py",
        "labels.json",
        "model.h5",
        "model.onnx",
        "model.png",
        "notes.txt",
        "photos",
        "summary.txt",
    }
    assert (out / "model.onnx").read_bytes() == (whole_bundle / "model.onnx").read_bytes()
    report = json.loads((out / "check.json").read_text(encoding="utf-8"))
    names = {path.name for path in out.iterdir()}
    assert set(report["files"]) == names - {"check.json", "notes.txt", "photos"}
    assert [path.name for path in tmp_path.iterdir()] == ["tiles"]


def test_keras_files_alone_need_no_program(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export(tiny_checkpoint, tmp_path / "out", formats="weights.h5") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "check.json",
        "labels.json",
        "model.png",
        "model.weights.h5",
        "summary.txt",
    }
    assert "python infer.py" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick_export")
@pytest.mark.parametrize("exists", [False, True], ids=["nothing there", "an older bundle there"])
def test_a_graph_that_is_not_the_network_leaves_nothing_behind(
    whole_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, exists: bool
) -> None:
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["state_dict"]["network.head.bias"][1] += 1
    torch.save(content, tmp_path / "other.ckpt")
    out = tmp_path / "exports" / "tiles"
    if exists:
        shutil.copytree(whole_bundle, out)
    with pytest.raises(UserError, match=r"model\.onnx: onnxruntime and PyTorch disagree"):
        export(tmp_path / "other.ckpt", out)
    if exists:
        assert content_of(out) == content_of(whole_bundle)
        assert [path.name for path in out.parent.iterdir()] == ["tiles"]
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["other.ckpt"]


@pytest.mark.usefixtures("quick_export")
def test_an_interrupted_export_leaves_nothing_behind(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_format, "verify_onnx", stop)
    with pytest.raises(KeyboardInterrupt):
        export(tiny_checkpoint, tmp_path / "out")
    assert not list(tmp_path.iterdir())


Damage = Callable[[Path, Path], dict[str, Any]]


def not_a_checkpoint(folder: Path, _checkpoint: Path) -> dict[str, Any]:
    (folder / "photo.ckpt").write_text("no checkpoint", encoding="utf-8")
    return {"ckpt": folder / "photo.ckpt"}


def truncated(folder: Path, checkpoint: Path) -> dict[str, Any]:
    (folder / "half.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    return {"ckpt": folder / "half.ckpt"}


def foreign_folder(folder: Path, _checkpoint: Path) -> dict[str, Any]:
    (folder / "mine").mkdir()
    (folder / "mine" / "labels.json").write_text('{"format": 1}', encoding="utf-8")
    return {"out": folder / "mine"}


def foreign_file(folder: Path, _checkpoint: Path) -> dict[str, Any]:
    (folder / "mine").write_text("mine", encoding="utf-8")
    return {"out": folder / "mine"}


def empty_calibration(folder: Path, _checkpoint: Path) -> dict[str, Any]:
    (folder / "pictures").mkdir()
    return {"calibration": folder / "pictures", "int8": True}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda *_: {"ckpt": Path("absent.ckpt")}, r"absent\.ckpt: this checkpoint does not exist", id="absent"
        ),
        pytest.param(not_a_checkpoint, r"photo\.ckpt: cannot be read as a checkpoint", id="a text"),
        pytest.param(truncated, r"half\.ckpt: cannot be read as a checkpoint", id="truncated"),
        pytest.param(
            lambda *_: {"formats": "onnx,kers"},
            r"--formats=onnx,kers: unknown format 'kers'; choose from h5, int8, keras, onnx, weights\.h5, .* 'keras'",
            id="a mistyped format",
        ),
        pytest.param(lambda *_: {"formats": ""}, "unknown format ''", id="no format"),
        pytest.param(
            lambda *_: {"int8": True}, "--calibration DIR is missing: int8 needs a folder", id="int8 without pictures"
        ),
        pytest.param(
            lambda *_: {"int8": True, "formats": "keras", "calibration": Path()},
            "--formats=keras --int8: int8 is made from onnx; add it",
            id="int8 of no graph",
        ),
        pytest.param(empty_calibration, r"pictures: no image", id="a calibration folder without pictures"),
        pytest.param(
            foreign_folder, r"mine: holds files but no bundle .* give another folder", id="a folder of others"
        ),
        pytest.param(foreign_file, r"mine: is a file, but a bundle is a folder", id="a file of others"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    tiny_checkpoint: Path, tmp_path: Path, damage: Damage, message: str
) -> None:
    arguments: dict[str, Any] = {"ckpt": tiny_checkpoint, "out": tmp_path / "out"} | damage(tmp_path, tiny_checkpoint)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        export(**arguments)
    assert sorted(tmp_path.rglob("*")) == before


def small_zoo_checkpoint(name: str, folder: Path) -> Path:
    """Return an untrained checkpoint of a network of the zoo with a small encoder."""
    network = {"name": name, "encoder": "tu-test_resnet"}
    task = SegmentationTask(TILE_PALETTE, network=network, image_size=64)
    torch.save({"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}, folder / "small.ckpt")
    return folder / "small.ckpt"


def test_keras_files_of_a_network_of_the_zoo_are_read_back(tmp_path: Path) -> None:
    checkpoint = small_zoo_checkpoint("unet", tmp_path)
    assert export(checkpoint, tmp_path / "out", formats="keras,weights.h5,h5") == 0
    report = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
    for name in ("model.keras", "model.weights.h5", "model.h5"):
        assert report[name] == {"read_back": "all weights and settings are those of the checkpoint"}


def test_keras_files_of_a_network_with_layers_that_keras_lacks_are_refused(tmp_path: Path) -> None:
    checkpoint = small_zoo_checkpoint("fpn", tmp_path)
    message = r"network 'fpn': the layer model\.decoder\.seg_blocks\S+ \(GroupNorm\) computes .*; use --formats onnx"
    with pytest.raises(UserError, match=message):
        export(checkpoint, tmp_path / "out", formats="onnx,keras")


class OneSizeGraph(torch.nn.Module):
    """A network that takes any size, but whose graph is one for the size it was exported with."""

    exports_any_size = False

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 6, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = (int(side) for side in image.shape[-2:])
        pooled = torch.nn.functional.interpolate(image.float().mean((2, 3), keepdim=True), (height, width))
        logits: torch.Tensor = self.mix(image.float() / 255 + pooled / 255)
        return logits


@pytest.mark.parametrize("rule", ["stretch", "none"])
def test_a_graph_of_one_size_is_exported_for_the_working_size(
    rule: str, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = SegmentationTask.from_checkpoint(tiny_checkpoint)
    task.network = OneSizeGraph()  # type: ignore[assignment]  # stands for a network of the zoo
    task.hparams["network"] = {"name": "pspnet"}
    task.sizing = Sizing(24, 40, rule)
    monkeypatch.setattr(SegmentationTask, "from_checkpoint", lambda _path: task)
    out = tmp_path / "out"
    if rule == "none":
        with pytest.raises(UserError, match=r"the graph of a 'pspnet' takes one size only, .* data\.resize=letterbox"):
            export(tiny_checkpoint, out)
        assert not list(tmp_path.iterdir())
        return
    assert export(tiny_checkpoint, out, int8=True, calibration=tiny_data / "valid", force=True) == 0
    assert json.loads((out / "labels.json").read_text(encoding="utf-8"))["fixed_size"] == [24, 40]
    report = json.loads((out / "check.json").read_text(encoding="utf-8"))
    assert {tuple(batch["shape"][1:]) for batch in report["model.onnx"]["batches"]} == {(24, 40, 3)}
    images = [str(path) for path in sorted((tiny_data / "test" / "images").iterdir())[:2]]
    assert onnx_infer.main([str(out), *images, "--out", str(tmp_path / "masks")]) == 0
    assert onnx_infer.main([str(out), *images, "--out", str(tmp_path / "tiled"), "--tile", "24"]) == 0


def test_calibration_reads_folders_split_roots_and_refuses_data_sets(tiny_data: Path) -> None:
    palette, sizing, rules = Palette.from_mapping(TILE_PALETTE), Sizing(24, 40), ReadingRules()
    with_masks = Pictures.in_folder(tiny_data / "valid", palette, sizing, rules)
    assert with_masks.have_masks
    assert {image.shape for image in with_masks.images()} == {(24, 40, 3)}
    assert {mask.shape for mask in with_masks.masks()} == {(24, 40)}
    without = Pictures.in_folder(tiny_data / "valid" / "images", palette, sizing, rules)
    assert not without.have_masks
    assert without.files == with_masks.files
    with pytest.raises(UserError, match=r"this is a data set; give one of its splits, .*valid"):
        Pictures.in_folder(tiny_data, palette, sizing, rules)
    count = len(without.files)
    assert len(without.some(2).files) == 2
    assert without.some(count + 5) == without
    halves = [path for first in (0, 1) for path in without.every_second(first).files]
    assert sorted(halves) == sorted(without.files)
    alone = without.some(1)
    assert alone.every_second(0) == alone.every_second(1) == alone


@pytest.mark.parametrize(("size", "channels"), [((20, 30), 3), ((5, 40), 1), ((16, 16), 4)])
def test_demo_images_have_any_size_and_channels(size: tuple[int, int], channels: int) -> None:
    images = list(demo_images(size, channels))
    assert [image.shape for image in images] == [(*size, channels)] * 2
    assert not np.array_equal(images[0], images[1])


def test_the_loss_of_8_bits_is_measured_against_masks_or_the_float_model(whole_bundle: Path, tiny_data: Path) -> None:
    palette, sizing = Palette.from_mapping(TILE_PALETTE), Sizing(32, 32)
    paths = whole_bundle / "model.onnx", whole_bundle / "model.int8.onnx"
    for folder, truth in (("valid", "masks"), ("valid/images", "the float model, where it was decided")):
        pictures = Pictures.in_folder(tiny_data / folder, palette, sizing, ReadingRules())
        report = check_int8(*paths, pictures)
        assert report["truth"] == truth
        assert report["images"] == len(pictures.files)
        float_masks = np.stack([OnnxModel(paths[0])(image[None])[1][0] for image in pictures.images()])
        int8_masks = np.stack([OnnxModel(paths[1])(image[None])[1][0] for image in pictures.images()])
        assert report["mask_agreement"] == pytest.approx((float_masks == int8_masks).mean())
        found = [index for index in range(1, 6) if (float_masks == index).any()]
        dice = [
            2
            * ((float_masks == index) & (int8_masks == index)).sum()
            / ((float_masks == index).sum() + (int8_masks == index).sum())
            for index in found
        ]
        assert report["foreground_dice_between"] == (pytest.approx(np.mean(dice)) if found else None)
        same = check_int8(paths[0], paths[0], pictures)
        assert same["mask_agreement"] == 1
        assert same["foreground_dice_float"] == same["foreground_dice_int8"]


def test_without_masks_a_pixel_counts_as_much_as_the_float_model_was_decided() -> None:
    probabilities = np.array([[[0.7, 0.3], [0.2, 0.8], [0.45, 0.55]]], np.float32)
    float_mask, mask = np.array([[0, 1, 1]], np.uint8), np.array([[0, 1, 0]], np.uint8)
    for given in (probabilities, probabilities[..., 1:]):  # two classes, and one sigmoid that says the same
        confusion = decided_confusion(given, float_mask, mask, 2)
        np.testing.assert_allclose(confusion, [[0.4, 0], [0.1, 0.6]], atol=1e-6)


def test_what_8_bits_cost_is_told_with_what_it_was_measured_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The float model finds class 1 in two pixels, decided by 0.6 and 0.1, and the 8-bit model loses the second.
    probabilities = np.array([[[[0.2, 0.8, 0], [0.45, 0.55, 0]]]], np.float32)
    answers = {"float": np.array([[[1, 1]]], np.uint8), "int8": np.array([[[1, 0]]], np.uint8)}
    monkeypatch.setattr(int8_check, "OnnxModel", lambda path: lambda _image: (probabilities, answers[path.name]))
    palette = Palette(("background", "a", "b"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    for name in ("one.png", "two.png"):
        Image.new("RGB", (5, 10)).save(tmp_path / name)
    report = check_int8(
        Path("float"), Path("int8"), Pictures.in_folder(tmp_path, palette, Sizing(1, 2), ReadingRules())
    )
    # 2 * 0.6 / (0.7 + 0.6); class 2, which occurs nowhere, does not count.
    assert report["foreground_dice_float"] == 1
    assert report["foreground_dice_int8"] == pytest.approx(1.2 / 1.3)
    assert report["foreground_dice_between"] == pytest.approx(2 / 3)
    assert summary_of(report) == (
        "8 bits, on 2 images: 50.00% of the pixels have the same class, mean foreground Dice 1.0000 -> 0.9231 "
        "(measured against the float model, where it was decided)"
    )


@pytest.mark.parametrize(
    ("before", "after", "force", "is_refused"),
    [
        pytest.param(0.90, 0.891, False, False, id="0.009 less"),
        pytest.param(0.90, 0.889, False, True, id="0.011 less"),
        pytest.param(0.90, 0.5, True, False, id="forced"),
        pytest.param(0.90, None, False, True, id="nothing left"),
        pytest.param(None, None, False, False, id="no foreground to lose"),
        pytest.param(0.90, 0.95, False, False, id="more"),
    ],
)
def test_8_bits_that_cost_more_than_a_hundredth_of_dice_are_refused(
    before: float | None, after: float | None, force: bool, is_refused: bool
) -> None:
    report = {"foreground_dice_float": before, "foreground_dice_int8": after, "images": 3, "truth": "masks"}
    if is_refused:
        with pytest.raises(UserError, match=r"--int8: the mean foreground Dice drops by 0\.\d+, from 0\.9000 to 0"):
            refuse_loss(report, force)
    else:
        refuse_loss(report, force)


@pytest.mark.usefixtures("quick_export")
def test_a_refused_8_bit_model_leaves_nothing_behind(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = {"foreground_dice_float": 0.9, "foreground_dice_int8": 0.5, "images": 3, "truth": "masks"}
    monkeypatch.setattr(int8_format, "check_int8", lambda *_: worse | {"mask_agreement": 0.7})
    with pytest.raises(UserError, match="accept the loss with --force"):
        export(tiny_checkpoint, tmp_path / "out", int8=True, calibration=tiny_data / "valid")
    assert not list(tmp_path.iterdir())
