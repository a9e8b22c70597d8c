"""The self-contained inference file: what it imports, reading and resizing as in training, the model."""

import ast
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from onnx_models import (
    BLUE,
    BRIGHTEST_AROUND,
    FACTS,
    GREEN,
    PALETTE,
    RED,
    labels,
    noise,
    picture,
    png_16_bit_rgb,
    write_model,
)
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.samples import ReadingRules
from flexunet_pl.data.samples import read_image as read_in_training
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.inference import onnx_infer
from flexunet_pl.inference.onnx_infer import InferenceError, Model

UInt8Array = npt.NDArray[np.uint8]


SOURCE = Path(onnx_infer.__file__)
ALLOWED_IMPORTS = {"numpy", "PIL", "onnxruntime", "openvino", "tifffile"}


@pytest.fixture(scope="session")
def brightest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="session")
def around(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", BRIGHTEST_AROUND, size_multiple=4)


def test_source_is_one_file_that_imports_nothing_else() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
    assert imported - set(sys.stdlib_module_names) == ALLOWED_IMPORTS
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) <= 960


def test_import_leaves_engines_and_torch_alone() -> None:
    code = (
        "import sys, flexunet_pl.inference.onnx_infer;"
        "print(sorted({'torch', 'lightning', 'openvino', 'tifffile', 'onnxruntime', 'yaml'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_copy_alone_runs_as_a_script(brightest: Path, tmp_path: Path) -> None:
    shutil.copy(SOURCE, tmp_path / "infer.py")
    shutil.copy(brightest, tmp_path / "model.onnx")
    Image.fromarray(picture([[RED, GREEN], [BLUE, RED]])).save(tmp_path / "a.png")
    # -I: neither this folder nor PYTHONPATH is searched, and any other package than the three is refused.
    block = (
        "import sys, runpy\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'onnx', 'openvino', 'tifffile', 'scipy', 'flexunet_pl', 'yaml'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.argv = ['infer.py', '.', 'a.png', '--out', 'masks']\n"
        "runpy.run_path('infer.py', run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert np.asarray(Image.open(tmp_path / "masks" / "a.png")).tolist() == [[0, 1], [2, 0]]


@pytest.mark.full
def test_copy_alone_runs_in_a_new_environment(brightest: Path, tmp_path: Path) -> None:
    shutil.copy(SOURCE, tmp_path / "infer.py")
    shutil.copy(brightest, tmp_path / "model.onnx")
    Image.fromarray(picture([[RED, GREEN], [BLUE, RED]])).save(tmp_path / "a.png")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [str(python), "-m", "pip", "install", "-q", "numpy", "pillow", "onnxruntime"]
    installed = subprocess.run(install, capture_output=True, text=True, check=False, timeout=600)
    if installed.returncode:
        pytest.skip(f"pip cannot install numpy, pillow and onnxruntime: {installed.stderr[-200:]}")
    command = [str(python), "infer.py", "model.onnx", "a.png", "--out", "masks"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120, env={"PATH": os.defpath}
    )
    assert result.returncode == 0, result.stderr
    assert np.asarray(Image.open(tmp_path / "masks" / "a.png")).tolist() == [[0, 1], [2, 0]]


def write_every_kind(folder: Path) -> list[Path]:
    """Write images of all formats and modes, 16-bit and upside-down ones among them."""
    rgb = Image.fromarray(noise(9, 13, 3))
    alpha = Image.fromarray(noise(9, 13, seed=1))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey_alpha = rgb.convert("L")
    grey_alpha.putalpha(alpha)
    for mode in ("1", "L", "P", "RGB"):
        rgb.convert(mode).save(folder / f"mode_{mode}.png")
    rgba.save(folder / "mode_rgba.png")
    rgba.quantize(16).save(folder / "mode_p_transparent.png", transparency=bytes(range(16)))
    grey_alpha.save(folder / "mode_la.png")
    for suffix in ("bmp", "webp", "tif", "jpg"):
        rgb.save(folder / f"format.{suffix}")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        rgb.save(folder / f"turned_{orientation}.jpg", exif=exif)
    deep = (noise(9, 13, seed=2).astype(np.uint16) * 37 + 1000).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep).save(folder / "deep.tif")
    deep_rgb = noise(9, 13, 3, seed=3).astype(np.uint16) * 257 - 100
    (folder / "deep_rgb.png").write_bytes(png_16_bit_rgb(deep_rgb))
    tifffile.imwrite(folder / "deep_rgb.tif", deep_rgb, photometric="rgb")
    np.save(folder / "array3.npy", noise(9, 13, 3))
    np.save(folder / "array5.npy", noise(9, 13, 5))
    np.save(folder / "array5_deep.npy", noise(9, 13, 5).astype(np.uint16) * 200)
    np.save(folder / "array_float.npy", noise(9, 13, 3).astype(np.float32))
    Image.fromarray(noise(9, 13).astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(noise(9, 13).astype(np.int32)).save(folder / "integer.tif")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("sixteen_bit", [None, "full_range", "min_max"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_files_are_read_as_in_training(channels: int, sixteen_bit: str | None, tmp_path: Path) -> None:
    rules = ReadingRules(channels=channels, sixteen_bit=sixteen_bit)
    read = 0
    for path in write_every_kind(tmp_path):
        try:
            expected = read_in_training(path, rules)
        except UserError:
            with pytest.raises(InferenceError, match=path.name):
                onnx_infer.read_image(path, labels(channels=channels, sixteen_bit=sixteen_bit))
            continue
        image = onnx_infer.read_image(path, labels(channels=channels, sixteen_bit=sixteen_bit))
        np.testing.assert_array_equal(image, expected, err_msg=path.name)
        read += 1
    assert read >= {1: 19, 3: 20, 4: 19, 5: 1}[channels]


def test_worked_16_bit_values(tmp_path: Path) -> None:
    np.save(tmp_path / "deep.npy", np.array([[[0], [128], [129], [1000], [65535]]], dtype=np.uint16))
    Image.fromarray(np.array([[100, 150, 300]], dtype=np.uint16)).save(tmp_path / "deep.png")
    # 128 / 65535 * 255 is 0.498, 129 gives 0.502, 1000 gives 3.89
    full = onnx_infer.read_image(tmp_path / "deep.npy", labels(channels=1, sixteen_bit="full_range"))
    assert full[0, :, 0].tolist() == [0, 0, 1, 4, 255]
    # 150 lies a quarter of the way from 100 to 300, which is 63.75
    stretched = onnx_infer.read_image(tmp_path / "deep.png", labels(channels=1, sixteen_bit="min_max"))
    assert stretched[0, :, 0].tolist() == [0, 64, 255]
    with pytest.raises(InferenceError, match=r"deep\.png.*8 bits"):
        onnx_infer.read_image(tmp_path / "deep.png", labels(channels=1))


@pytest.mark.parametrize("shape", [(50, 80), (80, 50), (24, 40), (1, 300), (300, 1), (7, 7)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("rule", ["stretch", "letterbox", "none"])
def test_working_image_is_that_of_training(rule: str, channels: int, shape: tuple[int, int]) -> None:
    sizing = Sizing(24, 40, rule)
    image = noise(*shape, channels)
    working, filled = onnx_infer.working_image(image, labels(channels=channels, image_size=[24, 40], resize=rule))
    np.testing.assert_array_equal(working, sizing.fit_image(image))
    assert filled == sizing.content_size(*shape)


@pytest.mark.parametrize("rule", ["stretch", "letterbox", "none"])
def test_mask_returns_to_the_size_of_the_image_as_in_training(rule: str, tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "model.onnx", image_size=[24, 40], resize=rule))
    sizing = Sizing(24, 40, rule)
    image = noise(70, 31, 3)
    prediction = model.predict(image)
    expected = sizing.restore_mask(sizing.fit_image(image).argmax(axis=2).astype(np.uint8), (70, 31))
    assert prediction.mask_index.dtype == np.uint8
    np.testing.assert_array_equal(prediction.mask_index, expected)
    assert prediction.probabilities.shape == (*sizing.content_size(70, 31), 3)


def test_worked_prediction(brightest: Path) -> None:
    model = Model(brightest.parent)
    prediction = model.predict(picture([[RED, GREEN, BLUE]]))
    assert prediction.mask_index.tolist() == [[0, 1, 2]]
    # softmax(20, 1, 1) is 1 / (1 + 2 exp(-19))
    assert prediction.probabilities[0, 0, 0] == pytest.approx(1 / (1 + 2 * np.exp(-19)))
    assert model.labels.names == ("background", "crack", "oil")
    assert model.labels.color_table().ravel().tolist() == PALETTE.flat()


@pytest.mark.parametrize(
    "image", [noise(5, 5), noise(5, 5, 4), noise(5, 5, 3).astype(np.float32)], ids=["2d", "4", "f"]
)
def test_array_that_is_no_image(image: npt.NDArray[Any], brightest: Path) -> None:
    with pytest.raises(InferenceError, match=r"give uint8 \(H, W, 3\)"):
        Model(brightest).predict(image)


def test_one_class_of_two_colours(tmp_path: Path) -> None:
    weight = np.array([0.1, -0.1, 0])[None, :, None, None]  # the logit is a tenth of red minus green
    path = write_model(tmp_path / "model.onnx", weight, num_classes=1, classes=FACTS["classes"][:2])
    prediction = Model(path).predict(picture([[RED, GREEN, (9, 9, 0), (19, 0, 0)]]))
    assert prediction.mask_index.tolist() == [[1, 0, 0, 1]]  # a probability of exactly 0.5 is background
    assert prediction.probabilities[0, 3].tolist() == pytest.approx([1 / (1 + np.exp(-1.9))])
    highest = onnx_infer.highest_probabilities(prediction.probabilities)
    assert highest.tolist() == pytest.approx([1 / (1 + np.exp(-19)), 1 / (1 + np.exp(-19))])
    np.testing.assert_array_equal(onnx_infer.most_probable(prediction.probabilities), prediction.mask_index)


def test_network_of_one_size_pads_what_is_smaller_and_tiles_what_is_larger(tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "model.onnx", fixed_size=[16, 16]))
    image = noise(40, 50, 3)
    assert model.predict(image[:5, :9]).mask_index.tolist() == image[:5, :9].argmax(axis=2).tolist()
    with pytest.raises(InferenceError, match=r"40 x 50 pixels, but the network takes \(16, 16\); use --tile 16"):
        model.predict(image)
    tiled = model.predict(image, model.tiling(16, 4))
    np.testing.assert_array_equal(tiled.mask_index, image.argmax(axis=2))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_says_the_same(precision: str, around: Path) -> None:
    image = noise(33, 47, 3)
    expected = Model(around).predict(image)
    prediction = Model(around, engine="openvino", precision=precision).predict(image)
    tolerance = {"fp32": 1e-5, "bf16": 0.02}[precision]
    np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=tolerance)
    assert Model(around, engine="openvino").labels == Model(around).labels


def test_bf16_falls_back_to_fp32_where_the_processor_lacks_it(
    around: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import openvino

    asked = []

    class OlderProcessor(openvino.Core):  # type: ignore[misc]  # openvino ships no types
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return ["FP32", "INT8"]

        def compile_model(self, network: Any, device: str, settings: dict[str, str]) -> Any:
            asked.append(settings["INFERENCE_PRECISION_HINT"])
            return super().compile_model(network, device, settings)

    monkeypatch.setattr(openvino, "Core", OlderProcessor)
    image = noise(20, 30, 3)
    prediction = Model(around, engine="openvino", precision="bf16").predict(image)
    assert asked == ["f32"]
    assert "--precision bf16: this CPU has no bf16 instructions; using fp32" in capsys.readouterr().err
    np.testing.assert_allclose(prediction.probabilities, Model(around).predict(image).probabilities, atol=1e-5)


@pytest.mark.full
def test_exported_network_agrees_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from flexunet_pl.export.onnx import export_onnx
    from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings

    torch.manual_seed(0)
    network = FlexUNet(
        3, settings=FlexUNetSettings(base_filters=4, base_kernel=5, num_layers=2, input_normalize=True)
    ).eval()
    path = tmp_path / "model.onnx"
    export_onnx(network, FACTS | {"size_multiple": 2}, path)
    model = Model(path)
    for shape in ((1, 1), (31, 45), (64, 20)):
        image = noise(*shape, 3)
        with torch.no_grad():
            logits = network(torch.from_numpy(image).permute(2, 0, 1)[None])
        expected = logits.softmax(1)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(model.predict(image).probabilities, expected, atol=1e-5)
    image = noise(150, 130, 3)
    whole, tiled = model.predict(image), model.predict(image, model.tiling(80, 56))
    # Two 5x5 convolutions, two 3x3 ones at half the size, and two 5x5 ones see 4 + 4 + 4 pixels far, and 2 by pooling;
    # at that distance from a tile's border, a quarter of the overlap, it begins to have weight.
    np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-5)
