"""The self-contained inference file: reading, resizing, engines, tiles, regions, the command line, hostile input."""

import ast
import csv
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import venv
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scipy import ndimage

from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules
from flexunet_pl.data.samples import read_image as read_in_training
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.errors import UserError
from flexunet_pl.inference import onnx_infer
from flexunet_pl.inference.onnx_infer import InferenceError, Labels, Model, Tiling, main

UInt8Array = npt.NDArray[np.uint8]
SaveModel = Callable[..., Path]

SOURCE = Path(onnx_infer.__file__)
PALETTE = Palette(("background", "crack", "oil"), ((0, 0, 0), (255, 0, 0), (0, 128, 255)))
ALLOWED_IMPORTS = {"numpy", "PIL", "onnxruntime", "openvino", "tifffile"}

FACTS: dict[str, Any] = {
    "format": 1,
    "version": "0.0",
    "classes": [
        {"name": name, "color": list(color)} for name, color in zip(PALETTE.names, PALETTE.colors, strict=True)
    ],
    "ignore": None,
    "num_classes": 3,
    "channels": 3,
    "image_size": [8, 8],
    "resize": "none",
    "sixteen_bit": None,
    "size_multiple": 1,
    "fixed_size": None,
    "checkpoint_sha256": "0" * 64,
    "network": "flexunet",
}
# One 1x1 convolution: the score of class k is a tenth of channel k, so the brightest channel is the class.
BRIGHTEST_CHANNEL = (np.eye(3) * 0.1)[:, :, None, None]
# The same of the mean over 15x15 pixels (zero beyond the border), so a tile sees 7 pixels less than it should.
BRIGHTEST_AROUND = np.tile(np.eye(3)[:, :, None, None] / 225 * 0.1, (1, 1, 15, 15))
RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def labels(**changes: Any) -> Labels:
    return Labels.from_metadata({"flexunet_pl": json.dumps(FACTS | changes)}, "test")


def write_model(
    path: Path, weight: npt.NDArray[Any] = BRIGHTEST_CHANNEL, *, pool: int = 1, metadata: bool = True, **changes: Any
) -> Path:
    """Write an ONNX file of one convolution, after pooling if asked for, that keeps the contract of exported graphs."""
    facts = FACTS | changes
    classes = weight.shape[0]
    height, width = facts["fixed_size"] or ("h", "w")
    pad = weight.shape[2] // 2
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("MaxPool", ["planes"], ["small"], kernel_shape=[pool] * 2, strides=[pool] * 2),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Conv", ["large", "weight"], ["logits"], pads=[pad] * 4),
        helper.make_node("Transpose", ["logits"], ["last"], perm=[0, 2, 3, 1]),
    ]
    if classes == 1:
        nodes += [
            helper.make_node("Sigmoid", ["last"], ["probabilities"]),
            helper.make_node("Greater", ["probabilities", "half"], ["above"]),
            helper.make_node("Squeeze", ["above", "axis"], ["chosen"]),
        ]
    else:
        nodes += [
            helper.make_node("Softmax", ["last"], ["probabilities"], axis=3),
            helper.make_node("ArgMax", ["last"], ["chosen"], axis=3, keepdims=0),
        ]
    nodes.append(helper.make_node("Cast", ["chosen"], ["mask"], to=TensorProto.UINT8))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", height, width, weight.shape[1]])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", height, width, classes]),
            helper.make_tensor_value_info("mask", TensorProto.UINT8, ["n", height, width]),
        ],
        [
            numpy_helper.from_array(weight.astype(np.float32), "weight"),
            numpy_helper.from_array(np.array([1, 1, pool, pool], dtype=np.float32), "scales"),
            numpy_helper.from_array(np.array([0.5], dtype=np.float32), "half"),
            numpy_helper.from_array(np.array([3], dtype=np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {"flexunet_pl": json.dumps(facts)})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def brightest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="session")
def around(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", BRIGHTEST_AROUND, size_multiple=4)


def picture(colors: list[list[tuple[int, int, int]]]) -> UInt8Array:
    return np.array(colors, dtype=np.uint8)


def noise(*shape: int, seed: int = 0) -> UInt8Array:
    """Return blotches of a few pixels, uint8, so that neighbouring pixels are alike as in photos."""
    values = np.random.default_rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(values, (3, 3) + (0,) * (len(shape) - 2))
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 255, dtype=np.uint8)


def read_summary(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# --- one file, and what it imports


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
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) <= 600


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


# --- reading and resizing as in training


def png_16_bit_rgb(values: npt.NDArray[np.uint16]) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


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
@pytest.mark.parametrize("rule", ["stretch", "keep", "none"])
def test_working_image_is_that_of_training(rule: str, channels: int, shape: tuple[int, int]) -> None:
    sizing = Sizing(24, 40, rule)
    image = noise(*shape, channels)
    working, filled = onnx_infer.working_image(image, labels(channels=channels, image_size=[24, 40], resize=rule))
    np.testing.assert_array_equal(working, sizing.fit_image(image))
    assert filled == sizing.content_size(*shape)


@pytest.mark.parametrize("rule", ["stretch", "keep", "none"])
def test_mask_returns_to_the_size_of_the_image_as_in_training(rule: str, tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "model.onnx", image_size=[24, 40], resize=rule))
    sizing = Sizing(24, 40, rule)
    image = noise(70, 31, 3)
    prediction = model.predict(image)
    expected = sizing.restore_mask(sizing.fit_image(image).argmax(axis=2).astype(np.uint8), (70, 31))
    assert prediction.mask_index.dtype == np.uint8
    np.testing.assert_array_equal(prediction.mask_index, expected)
    assert prediction.probabilities.shape == (*sizing.content_size(70, 31), 3)


# --- the model


def test_worked_prediction(brightest: Path) -> None:
    model = Model(brightest.parent)
    prediction = model.predict(picture([[RED, GREEN, BLUE]]))
    assert prediction.mask_index.tolist() == [[0, 1, 2]]
    # softmax(20, 1, 1) is 1 / (1 + 2 exp(-19))
    assert prediction.probabilities[0, 0, 0] == pytest.approx(1 / (1 + 2 * np.exp(-19)))
    assert model.labels.names == ("background", "crack", "oil")
    assert model.labels.color_table().ravel().tolist() == PALETTE.flat()


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
    with pytest.raises(InferenceError, match=r"40 x 50 pixels, and the network takes \(16, 16\); use --tile 16"):
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


@pytest.mark.full
def test_exported_network_agrees_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from flexunet_pl.export.onnx import export_onnx
    from flexunet_pl.nn.flexunet import FlexUNet

    torch.manual_seed(0)
    network = FlexUNet(3, base_filters=4, base_kernel=5, num_layers=2, input_normalize=True).eval()
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


# --- tiles


@given(
    length=st.integers(1, 700),
    side=st.integers(1, 100),
    overlap=st.integers(0, 99),
    step=st.sampled_from([1, 2, 8, 32]),
)
@settings(max_examples=200, deadline=None)
def test_tiles_cover_every_pixel_once(length: int, side: int, overlap: int, step: int) -> None:
    if overlap > side - step:
        return
    total = np.zeros(length)
    tiles = Tiling(side, overlap, step).along(length)
    for start, end, weights in tiles:
        assert start % step == 0
        assert 0 < end - start == len(weights) <= side
        total[start:end] += weights
    np.testing.assert_allclose(total, 1, atol=1e-5)
    for (_, end, _), (start, _, _) in itertools.pairwise(tiles):
        assert end - start >= overlap
    assert tiles[0][0] == 0
    assert tiles[-1][1] == length


def test_worked_tiles() -> None:
    tiles = Tiling(side=8, overlap=4).along(14)
    assert [(start, end) for start, end, _ in tiles] == [(0, 8), (4, 12), (6, 14)]
    first, second = (weights.tolist() for _, _, weights in Tiling(side=8, overlap=4).along(12))
    # Of the 4 pixels in common the outer ones belong to one tile, the inner ones are mixed 3:1 and 1:3.
    assert first == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.25, 0], abs=1e-5)
    assert second == pytest.approx([0, 0.25, 0.75, 1, 1, 1, 1, 1], abs=1e-5)


def test_tiles_equal_the_whole_image_where_the_overlap_covers_what_the_network_sees(around: Path) -> None:
    model = Model(around)
    image = noise(144, 96, 3)
    whole = model.predict(image)
    # It sees 7 pixels far, and a quarter of the overlap at either end has no weight.
    covered = model.predict(image, model.tiling(48, 28))
    np.testing.assert_allclose(covered.probabilities, whole.probabilities, atol=1e-5)
    np.testing.assert_array_equal(covered.mask_index, whole.mask_index)
    bare = model.predict(image, model.tiling(48, 0))
    assert abs(bare.probabilities - whole.probabilities).max() > 0.1
    # Without overlap the error sits within 7 pixels of the seams at 48 and 96, and nowhere else.
    wrong = abs(bare.probabilities - whole.probabilities).max(axis=2) > 1e-4
    rows, columns = np.nonzero(wrong)
    seams = np.array([48, 96])
    distance = np.minimum(*(abs(place[:, None] + 0.5 - seams).min(axis=1) for place in (rows, columns)))
    assert distance.max() < 7


def test_tiles_are_pooled_like_the_whole_image(tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "model.onnx", pool=8, size_multiple=8))
    image = noise(120, 80, 3)
    whole = model.predict(image)
    tiled = model.predict(image, model.tiling(40, 13))  # tiles advance by 24, the multiple of 8 below 27
    np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-6)
    askew = model.predict(image, Tiling(40, 13, step=1))
    assert abs(askew.probabilities - whole.probabilities).max() > 0.1


def test_image_smaller_than_a_tile_is_one_tile(around: Path) -> None:
    model = Model(around)
    image = noise(20, 30, 3)
    np.testing.assert_array_equal(model.predict(image, model.tiling(64)).probabilities, model.predict(image)[1])


def test_blending_takes_any_predictor_and_bands_of_any_height() -> None:
    image = noise(57, 40, 3)
    bands = iter(np.split(image, [1, 2, 30, 55]))
    seen: list[tuple[int, ...]] = []

    def predict(images: UInt8Array) -> npt.NDArray[np.float32]:
        seen.append(images.shape)
        return images[..., :2].astype(np.float32)

    blocks = onnx_infer.tiled_rows(bands, (57, 40), predict, Tiling(24, 8))
    np.testing.assert_allclose(np.concatenate([block.copy() for block in blocks]), image[..., :2], atol=1e-3)
    assert seen == [(1, 24, 24, 3)] * 8


@pytest.mark.parametrize(("side", "overlap"), [(16, 16), (16, 13), (16, -1), (0, 0), (3, None)])
def test_tiles_that_do_not_advance_are_an_error(side: int, overlap: int | None, around: Path) -> None:
    with pytest.raises(InferenceError, match=r"--tile .*--overlap .*must be within 0\.\."):
        Model(around).tiling(side, overlap)


# --- regions


def scipy_tally(mask: UInt8Array) -> tuple[npt.NDArray[np.int64], ...]:
    pixels, regions, largest = (np.zeros(256, dtype=np.int64) for _ in range(3))
    for index in np.unique(mask):
        region_of, count = ndimage.label(mask == index, structure=np.ones((3, 3)))
        sizes = np.bincount(region_of.ravel())[1:]
        pixels[index], regions[index], largest[index] = sizes.sum(), count, sizes.max()
    return pixels, regions, largest


def test_worked_regions() -> None:
    mask = np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.uint8)
    pixels, regions, largest = (column[:4].tolist() for column in onnx_infer.tally([mask]))
    assert pixels == [8, 3, 1, 0]
    assert regions == [1, 2, 1, 0]  # the two diagonal ones touch, the third one does not
    assert largest == [8, 2, 1, 0]


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    classes=st.integers(1, 4),
    grain=st.integers(1, 4),
    parts=st.integers(1, 8),
)
@settings(max_examples=150, deadline=None)
def test_regions_are_those_of_scipy_however_the_mask_is_cut(
    seed: int, height: int, width: int, classes: int, grain: int, parts: int
) -> None:
    coarse = np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)
    mask = np.kron(coarse, np.ones((grain, grain), dtype=np.uint8))
    bands = np.array_split(mask, min(parts, len(mask)))
    for found, expected in zip(onnx_infer.tally(bands), scipy_tally(mask), strict=True):
        np.testing.assert_array_equal(found[:255], expected[:255])


def spiral(side: int) -> UInt8Array:
    """Return one line of ones that winds from the border to the centre, the longest way a region can take."""
    mask = np.zeros((side, side), dtype=np.uint8)
    row, column, step_row, step_column = 0, 0, 0, 1
    mask[0, 0] = 1
    while True:
        for _ in range(2):
            ahead_row, ahead_column = row + 2 * step_row, column + 2 * step_column
            inside = 0 <= row + step_row < side and 0 <= column + step_column < side
            free = not (0 <= ahead_row < side and 0 <= ahead_column < side) or not mask[ahead_row, ahead_column]
            if inside and free and not mask[row + step_row, column + step_column]:
                row, column = row + step_row, column + step_column
                mask[row, column] = 1
                break
            step_row, step_column = step_column, -step_row
        else:
            return mask


@pytest.mark.parametrize("parts", [1, 3, 50])
def test_winding_region_is_one_region(parts: int) -> None:
    mask = spiral(101)
    _, regions, largest = onnx_infer.tally(np.array_split(mask, parts))
    assert regions[1] == 1
    assert largest[1] == mask.sum() > 4000


# --- the command line


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture([[RED, GREEN, GREEN], [RED, RED, RED], [RED, RED, GREEN]])).save(folder / "a.png")
    Image.fromarray(picture([[BLUE] * 4] * 2)).save(folder / "b.bmp")
    (folder / "notes.txt").write_text("not an image, and passed over")
    (folder / ".hidden.png").write_text("hidden files are passed over")
    return folder


def test_everything_is_written(brightest: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    extras = ["--colors", "--overlays", "--probabilities"]
    assert main([str(brightest), str(photos), "--out", str(out), *extras]) == 0
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == [
        "a.png",
        "b.png",
        "colors/a.png",
        "colors/b.png",
        "overlays/a.png",
        "overlays/b.png",
        "probabilities/a.npz",
        "probabilities/b.npz",
        "summary.csv",
    ]
    with Image.open(out / "a.png") as mask:
        assert mask.mode == "P"
        assert np.asarray(mask).tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1]]
        assert mask.getpalette() == PALETTE.flat()
    colors = np.asarray(Image.open(out / "colors" / "a.png"))
    assert colors[0].tolist() == [[0, 0, 0], [255, 0, 0], [255, 0, 0]]
    overlay = np.asarray(Image.open(out / "overlays" / "a.png"))
    assert overlay[0].tolist() == [list(RED), [5 + 127, 100, 5], [5 + 127, 100, 5]]
    with np.load(out / "probabilities" / "b.npz") as archive:
        assert archive["probabilities"].shape == (2, 4, 3)
    rows = read_summary(out)
    assert len(rows) == 6
    assert rows[1] == {
        "file": str(photos / "a.png"),
        "class": "crack",
        "pixels": "3",
        "share": "0.333333",
        "regions": "2",
        "largest_region": "2",
        "highest_probability": "1.0",
    }
    assert [row["regions"] for row in rows[3:]] == ["0", "0", "1"]


def test_files_folders_and_globs(brightest: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    arguments = [str(photos / "a.png"), str(photos), str(photos / "*.bmp"), str(tmp_path / "**" / "a.*")]
    assert main([str(brightest), *arguments, "--out", str(out)]) == 0
    assert [row["file"] for row in read_summary(out)[::3]] == [str(photos / "a.png"), str(photos / "b.bmp")]


def test_names_that_coincide_are_told_apart(brightest: Path, tmp_path: Path) -> None:
    for name in ("left/a.png", "left/a.bmp", "left/b.png", "right/b.png", "right/C.png", "left/c.bmp", "left/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture([[RED]])).save(path)
    out = tmp_path / "masks"
    assert main([str(brightest), str(tmp_path / "left"), str(tmp_path / "right"), "--out", str(out)]) == 0
    masks = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert masks == [
        "d.png",
        "left/a.bmp.png",
        "left/a.png.png",
        "left/b.png",
        "left/c.png",
        "right/C.png",
        "right/b.png",
    ]


def test_images_are_never_overwritten(brightest: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (photos / "a.png").read_bytes()
    assert main([str(brightest), str(photos), "--out", str(photos)]) == 2
    assert "a.png: is one of the images" in capsys.readouterr().err
    assert (photos / "a.png").read_bytes() == before


def test_broken_image_is_named_and_the_rest_done(
    brightest: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "text.png").write_text("hello")
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    (photos / "truncated.png").write_bytes(whole.read_bytes()[:3000])
    np.save(photos / "evil.npy", np.array([print], dtype=object), allow_pickle=True)
    out = tmp_path / "masks"
    assert main([str(brightest), str(photos), "--out", str(out)]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for name, error in zip(("evil.npy", "text.png", "truncated.png"), errors, strict=True):
        assert str(photos / name) in error
        assert "cannot be read as an image" in error
    assert {row["file"] for row in read_summary(out)} == {str(photos / "a.png"), str(photos / "b.bmp")}
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "summary.csv"]


def test_decompression_bomb_is_refused_before_it_is_decoded(
    brightest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = tmp_path / "bomb.png"
    png = png_16_bit_rgb(np.zeros((1, 1, 3), dtype=np.uint16))
    header = struct.pack(">IIBBBBB", 60_000, 50_000, 8, 2, 0, 0, 0)
    bomb.write_bytes(png[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:])
    np.save(tmp_path / "large.npy", np.zeros((50, 21, 3), dtype=np.uint8))
    Image.fromarray(np.zeros((50, 20, 3), dtype=np.uint8)).save(tmp_path / "small.png")
    limit = Image.MAX_IMAGE_PIXELS
    images = [str(tmp_path / name) for name in ("bomb.png", "large.npy", "small.png")]
    assert main([str(brightest), *images, "--out", str(tmp_path / "masks"), "--max-pixels", "1000"]) == 1
    errors = capsys.readouterr().err
    assert "bomb.png: 50000 x 60000 pixels to decode at once are more than --max-pixels 1000" in errors
    assert "large.npy: 50 x 21 pixels" in errors
    assert (tmp_path / "masks" / "small.png").exists()
    assert limit == Image.MAX_IMAGE_PIXELS


def test_nothing_half_written_stays(brightest: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    (out / "a.png").mkdir(parents=True)  # cannot be replaced by a file
    assert main([str(brightest), str(photos), "--out", str(out)]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "summary.csv"]


def make_text(path: Path) -> Path:
    path.write_text("this is no protobuf")
    return path


def make_without_metadata(path: Path) -> Path:
    return write_model(path, metadata=False)


def make_without_classes(path: Path) -> Path:
    write_model(path)
    model = onnx.load(path)
    helper.set_model_props(model, {"flexunet_pl": json.dumps({k: v for k, v in FACTS.items() if k != "classes"})})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(make_text, "is it an ONNX file", id="text called .onnx"),
        pytest.param(make_without_metadata, "its metadata has no 'flexunet_pl' .*palette", id="no metadata"),
        pytest.param(make_without_classes, "incomplete or malformed.*KeyError: 'classes'", id="no classes"),
        pytest.param(lambda path: path, "no such model", id="no file"),
    ],
)
def test_what_is_no_exported_model(make: Callable[[Path], Path], message: str, engine: str, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match=rf"model\.onnx.*{message}"):
        Model(make(tmp_path / "model.onnx"), engine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 is not 1"),
        ({"num_classes": 4}, "num_classes 4 with 3 names"),
        ({"resize": "shrink"}, "resize 'shrink'"),
        ({"sixteen_bit": "auto"}, "sixteen_bit 'auto'"),
        (
            {"classes": [{"name": "a", "color": [0, 0, 256]}, {"name": "b", "color": [0, 0, 0]}], "num_classes": 2},
            "256",
        ),
        ({"classes": [{"name": "a"}]}, "KeyError: 'color'"),
    ],
    ids=str,
)
def test_malformed_metadata(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        labels(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "required", id="nothing"),
        pytest.param(["MODEL", "none.png", "--out", "OUT"], "none.png: no image", id="no such image"),
        pytest.param(["MODEL", "EMPTY", "--out", "OUT"], "no image", id="empty folder"),
        pytest.param(["EMPTY", "A", "--out", "OUT"], "no such model", id="folder without a model"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--engine", "tensorrt"], "invalid choice", id="engine"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--precision", "bf16"], "needs --engine openvino", id="precision"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--providers", "nvidia"], "nvidia", id="provider"),
        pytest.param(
            ["MODEL", "A", "--out", "OUT", "--engine", "openvino", "--providers", "cpu"],
            "leave it out with openvino",
            id="provider of openvino",
        ),
        pytest.param(["MODEL", "A", "--out", "OUT", "--tile", "64", "--overlap", "64"], "must be within", id="overlap"),
        pytest.param(["MODEL", "A", "--out", "A"], "cannot be created", id="output is a file"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--tille", "64"], "unrecognized arguments: --tille", id="mistyped"),
        pytest.param(
            ["MODEL", "TIFF", "--out", "OUT", "--tile", "64", "--overlays"],
            "leave it out for TIFF",
            id="extras of TIFF",
        ),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    brightest: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 8))
    names = {"MODEL": brightest, "A": photos / "a.png", "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    names["TIFF"] = tmp_path / "a.tif"
    assert main([str(names.get(argument, argument)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_providers_by_their_beginning(brightest: Path) -> None:
    assert Model(brightest, providers=["cpu"]).predict(picture([[GREEN]])).mask_index.tolist() == [[1]]


# --- TIFF in windows


def tiff_kinds(image: UInt8Array) -> dict[str, tuple[npt.NDArray[Any], dict[str, Any]]]:
    rgb: dict[str, Any] = {"photometric": "rgb"}
    alpha = {"extrasamples": ["unassalpha"]}
    return {
        "tiled": (image, rgb | {"tile": (32, 48), "compression": "zlib", "predictor": True}),
        "strips": (image, rgb | {"rowsperstrip": 7}),
        "one_strip": (image, rgb | {"rowsperstrip": len(image)}),
        "rgba": (np.dstack([image, image[..., :1]]), rgb | alpha | {"tile": (64, 64)}),
        "grey": (image[..., 0], {"tile": (64, 64)}),
    }


@pytest.mark.parametrize("kind", ["tiled", "strips", "one_strip", "rgba", "grey"])
def test_tiff_in_windows_gives_the_mask_of_the_whole(kind: str, around: Path, tmp_path: Path) -> None:
    pixels, layout = tiff_kinds(noise(300, 201, 3))[kind]
    path, out = tmp_path / "slide.tif", tmp_path / "masks"
    tifffile.imwrite(path, pixels, **layout)
    model = Model(around)
    expected = model.predict(onnx_infer.read_image(path, model.labels), model.tiling(64, 32))
    assert main([str(around), str(path), "--out", str(out), "--tile", "64", "--overlap", "32"]) == 0
    with tifffile.TiffFile(out / "slide.tif") as file:
        page: Any = file.pages.first
        assert page.is_tiled
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
        np.testing.assert_array_equal(page.asarray(), expected.mask_index)
    with Image.open(out / "slide.tif") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), PALETTE.decode(expected.mask_index))
    columns = scipy_tally(expected.mask_index)
    highest = expected.probabilities.max(axis=(0, 1))
    for index, row in enumerate(read_summary(out)):
        found = [int(row[name]) for name in ("pixels", "regions", "largest_region")]
        assert found == [int(column[index]) for column in columns]
        assert float(row["highest_probability"]) == pytest.approx(float(highest[index]), abs=1e-6)


@pytest.mark.parametrize("rule", ["full_range", "min_max"])
def test_16_bit_tiff_in_windows(rule: str, tmp_path: Path) -> None:
    weight = np.array([0.1, -0.1])[:, None, None, None]  # bright is class 0
    settings = {"num_classes": 2, "classes": FACTS["classes"][:2], "channels": 1, "sixteen_bit": rule}
    model = Model(write_model(tmp_path / "model.onnx", weight, **settings))
    deep = (noise(130, 70).astype(np.uint16) * 30 + 500).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep, tile=(32, 32))
    out = tmp_path / "masks"
    assert main([str(tmp_path / "model.onnx"), str(tmp_path / "deep.tif"), "--out", str(out), "--tile", "64"]) == 0
    expected = model.predict(tmp_path / "deep.tif", model.tiling(64))
    highest = float(read_summary(out)[0]["highest_probability"])
    assert highest == pytest.approx(float(expected.probabilities[..., 0].max()), abs=1e-6)
    np.testing.assert_array_equal(tifffile.imread(out / "deep.tif"), expected.mask_index)


@pytest.mark.parametrize(
    ("pixels", "layout", "message"),
    [
        pytest.param(noise(9, 9, 3).astype(np.float32), {"photometric": "rgb"}, "8 or 16 bits", id="float"),
        pytest.param(
            noise(3, 9, 9), {"photometric": "rgb", "planarconfig": "separate"}, "8 or 16 bits", id="planes apart"
        ),
        pytest.param(noise(9, 9).astype(np.uint16), {}, "values of type uint16", id="16 bits without a rule"),
        pytest.param(noise(9, 9), {"extratags": [(274, "H", 1, 6, True)]}, "upright", id="lying on its side"),
        pytest.param(noise(40, 40), {"rowsperstrip": 40}, "--max-pixels", id="one large strip"),
    ],
)
def test_tiff_that_cannot_be_read_in_windows(
    pixels: npt.NDArray[Any],
    layout: dict[str, Any],
    message: str,
    brightest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **layout)
    (tmp_path / "text.tif").write_text("hello")
    images = [str(tmp_path / "a.tif"), str(tmp_path / "text.tif")]
    options = ["--out", str(tmp_path / "masks"), "--tile", "16", "--max-pixels", "1000"]
    assert main([str(brightest), *images, *options]) == 1
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert "text.tif" in second
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["summary.csv"]


def test_truncated_tiff_is_an_error(brightest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(200, 200, 3), photometric="rgb", tile=(64, 64), compression="zlib")
    path.write_bytes(path.read_bytes()[:-5000])
    assert main([str(brightest), str(path), "--out", str(tmp_path / "masks"), "--tile", "64"]) == 1
    assert f"error: {path}" in capsys.readouterr().err
    assert not (tmp_path / "masks" / "a.tif").exists()


def test_memory_follows_the_tile_row_and_not_the_image(
    brightest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_infer, "TIFF_BYTES", 1 << 16)  # else the whole of so small a file is read at once
    path = tmp_path / "tall.tif"
    image = np.tile(noise(200, 256, 3), (40, 1, 1))
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), compression="zlib")
    main([str(brightest), str(path), "--out", str(tmp_path / "warm"), "--tile", "64"])
    tracemalloc.start()
    try:
        assert main([str(brightest), str(path), "--out", str(tmp_path / "masks"), "--tile", "64"]) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The image has 6.1 MB and its probabilities 24.6 MB; one row of tiles of both is 0.25 MB.
    assert peak < 4_000_000


# Written as a program of its own, so that its memory can be measured from outside.
LARGE_TIFF = """
import sys, zlib, numpy as np, tifffile
side, path = int(sys.argv[1]), sys.argv[2]
tile = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
body = zlib.compress(tile.tobytes())
count = -(-side // 256) ** 2
tifffile.imwrite(path, (body for _ in range((-(-side // 256)) ** 2)), shape=(side, side, 3), dtype=np.uint8,
                 photometric="rgb", tile=(256, 256), compression="zlib", bigtiff=True)
"""


@pytest.mark.full
def test_900_million_pixels_within_two_gibibytes(tmp_path: Path) -> None:
    import resource

    from flexunet_pl.export.onnx import export_onnx
    from flexunet_pl.nn.flexunet import FlexUNet

    network = FlexUNet(3, base_filters=2, base_kernel=3, num_layers=2)
    export_onnx(network, FACTS | {"size_multiple": 2}, tmp_path / "model.onnx")
    side = 30_000
    subprocess.run([sys.executable, "-c", LARGE_TIFF, str(side), str(tmp_path / "slide.tif")], check=True, timeout=300)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    command = [sys.executable, str(SOURCE), str(tmp_path / "model.onnx"), str(tmp_path / "slide.tif")]
    command += ["--out", str(tmp_path / "masks"), "--tile", "1024", "--overlap", "32"]
    subprocess.run(command, check=True, timeout=900)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert before < peak < 2 * 1024 * 1024  # kibibytes
    with tifffile.TiffFile(tmp_path / "masks" / "slide.tif") as file:
        assert file.pages.first.shape == (side, side)
    assert sum(int(row["pixels"]) for row in read_summary(tmp_path / "masks")) == side * side
