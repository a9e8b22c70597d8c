"""The 8-bit copy of an exported graph: rewriting that changes no value, ranges, codes, and what runs in 8 bits."""

import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional

from flexunet_pl.data.synthetic.dataset import draw_sample
from flexunet_pl.export.int8.blocks import narrow_level_on_blocks, weight_on_blocks
from flexunet_pl.export.int8.graph import Graph, make_node
from flexunet_pl.export.int8.quantize import REWRITES, nodes_in_float, quantize_model, unsaturated_ranges
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.export.verify import OnnxModel
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings

UInt8Array = npt.NDArray[np.uint8]
SIZES = [(1, 1, 1), (1, 5, 18), (2, 31, 47), (3, 16, 16)]

# What the networks differ in: blocks pay where kernels are 9x9 and filters few, and 7x7 has no form on blocks.
NETWORKS: dict[str, dict[str, Any]] = {
    "on blocks": {"base_kernel": 9, "num_layers": 3, "normalization": True, "input_normalize": True},
    "on pixels": {"base_kernel": 7, "num_layers": 2, "activation": "mish"},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("float")
    torch.manual_seed(0)
    for name, settings in NETWORKS.items():
        network = FlexUNet(3, settings=FlexUNetSettings(base_filters=8, **settings))
        for key, value in network.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                value.uniform_(-0.3, 0.3)
            elif key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
        facts = {"num_classes": 3, "channels": 3, "size_multiple": network.size_multiple, "fixed_size": None}
        export_onnx(network, facts, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in NETWORKS}


@pytest.fixture(scope="module")
def quantized(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("int8")
    for name, path in exported.items():
        quantize_model(path, (draw_sample((64, 48), source, 0, 0)[0] for source in range(4)), folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in exported}


def noise(shape: tuple[int, ...]) -> UInt8Array:
    return np.random.default_rng(0).integers(0, 256, size=(*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kernel", "parts"),
    [
        pytest.param(1, (3,), id="1x1 stays 1x1"),
        pytest.param(5, (2,), id="5x5 becomes 3x3"),
        pytest.param(9, (3, 2), id="9x9 becomes 5x5, input of two parts"),
    ],
)
def test_a_convolution_on_blocks_is_the_convolution(kernel: int, parts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal(size=(2, sum(parts), 12, 16)).astype(np.float32))
    weight = rng.normal(size=(4, sum(parts), kernel, kernel)).astype(np.float32)
    on_blocks = weight_on_blocks(weight, parts)
    assert on_blocks.shape == (16, 4 * sum(parts), (kernel + 1) // 2, (kernel + 1) // 2)
    result = functional.conv2d(
        torch.cat([in_blocks(part) for part in torch.split(pixels, list(parts), 1)], 1),
        torch.from_numpy(on_blocks),
        padding=on_blocks.shape[2] // 2,
    )
    expected = in_blocks(functional.conv2d(pixels, torch.from_numpy(weight), padding=kernel // 2))
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


def in_blocks(pixels: torch.Tensor) -> torch.Tensor:
    """Map (N, C, 2H, 2W) to (N, 4C, H, W), channels in the order (row, column, C)."""
    count, channels, height, width = pixels.shape
    split = pixels.view(count, channels, height // 2, 2, width // 2, 2)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(count, 4 * channels, height // 2, width // 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_rewriting_for_8_bits_changes_no_value(exported: dict[str, Path], name: str, tmp_path: Path) -> None:
    graph = Graph(onnx.load(exported[name]))
    before = Counter(node.op_type for node in graph.nodes)
    for rewrite in REWRITES:
        rewrite(graph)
    onnx.save(graph.to_model(), tmp_path / "rewritten.onnx")
    kinds = Counter(node.op_type for node in graph.nodes)
    assert before["ConvTranspose"] == NETWORKS[name]["num_layers"] - 1
    assert not kinds["ConvTranspose"] + kinds["BatchNormalization"]
    assert kinds["MatMul"] == 1
    shapes = [graph.constants[node.input[1]].shape for node in graph.nodes if node.op_type == "Conv"]
    if name == "on blocks":
        assert shapes[0] == (32, 12, 5, 5), "8 filters of 9x9x3"
        assert not any(shape[2] == 9 for shape in shapes)
    else:
        assert shapes[0] == (8, 3, 7, 7)
    for size in SIZES:
        image = noise(size)
        expected, expected_mask = OnnxModel(exported[name])(image)
        probabilities, mask = OnnxModel(tmp_path / "rewritten.onnx")(image)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert (mask == expected_mask).mean() > 0.999


def small_unet(last_kernel: int, joined: tuple[str, str] = ("doubled", "skip"), mixing: float = 1) -> onnx.ModelProto:
    """Return a graph of two levels by hand: 9x9 on the way down, ``last_kernel`` on the way up, two logits.

    ``mixing`` multiplies what "mixed", and after its ReLU "positive", weighs.
    """
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 9, 9), "w2": (6, 4, 3, 3), "up": (6, 2, 2, 2), "w3": (4, 6, last_kernel, last_kernel)}
    shapes |= {"mix": (2, 2, 1, 1), "head": (2, 4, 1, 1)}
    values = {name: (rng.normal(size=shape) / 9).astype(np.float32) for name, shape in shapes.items()}
    values["mix"] *= mixing
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    reach = last_kernel // 2
    nodes = [
        make_node("Transpose", ["image"], "turned", perm=[0, 3, 1, 2]),
        make_node("Cast", ["turned"], "values", to=onnx.TensorProto.FLOAT),
        make_node("Conv", ["values", "w1"], "a", pads=[4] * 4),
        make_node("Relu", ["a"], "skip"),
        make_node("MaxPool", ["skip"], "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        make_node("Conv", ["pooled", "w2"], "b", pads=[1] * 4),
        make_node("Relu", ["b"], "deep"),
        make_node("ConvTranspose", ["deep", "up"], "doubled", strides=[2, 2]),
        make_node("Conv", ["doubled", "mix"], "mixed"),
        make_node("Relu", ["mixed"], "positive"),
        make_node("Concat", list(joined), "joined", axis=1),
        make_node("Conv", ["joined", "w3"], "c", pads=[reach] * 4),
        make_node("Relu", ["c"], "d"),
        make_node("Conv", ["d", "head"], "logits"),
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", "h", "w", 3])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 2, "h", "w"])
    graph = onnx.helper.make_graph(nodes, "small", [image], [logits], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def logits_of(model: onnx.ModelProto, image: UInt8Array, exact_sums: bool = False) -> npt.NDArray[np.float32]:
    """Run a graph; ``exact_sums`` leaves out 8-bit kernels, which cut off large sums on processors without VNNI."""
    options = onnxruntime.SessionOptions()
    if exact_sums:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: npt.NDArray[np.float32] = session.run(["logits"], {"image": image})[0]
    return logits


@pytest.mark.parametrize(
    ("model", "is_rewritten"),
    [
        pytest.param(small_unet(9), True, id="9x9 and 9x9"),
        pytest.param(small_unet(5), True, id="9x9 and 5x5"),
        pytest.param(small_unet(7), False, id="a concatenation read by 7x7"),
    ],
)
def test_a_level_goes_on_blocks_where_all_of_it_can(model: onnx.ModelProto, is_rewritten: bool) -> None:
    graph = Graph(model)
    before = list(graph.nodes)
    narrow_level_on_blocks(graph)
    assert (graph.nodes != before) == is_rewritten
    image = noise((2, 12, 20))
    np.testing.assert_allclose(logits_of(graph.to_model(), image), logits_of(model, image), rtol=1e-4, atol=1e-2)


def test_a_relu_before_a_concatenation_still_cuts_off_what_is_negative(tmp_path: Path) -> None:
    # The other part of the concatenation goes far below 0, and the ReLU's output must not take over a code that does.
    # It weighs so much that without the ReLU the logits would be a tenth off.
    model = small_unet(7, joined=("positive", "a"), mixing=40)
    onnx.save(model, tmp_path / "float.onnx")
    image = noise((1, 24, 24))
    quantize_model(tmp_path / "float.onnx", image, tmp_path / "int8.onnx")
    expected = logits_of(model, image)
    result = logits_of(onnx.load(tmp_path / "int8.onnx"), image, exact_sums=True)
    assert np.abs(result - expected).mean() < 0.03 * np.abs(expected).mean()


def optimized(path: Path, folder: Path) -> onnx.ModelProto:
    """Return the graph that onnxruntime makes of a file on this machine."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3  # that such a file is for this machine only is what is wanted
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


@pytest.mark.parametrize(
    ("name", "convolutions", "quantized_in_float"), [("on blocks", 22, {1}), ("on pixels", 7, {7, 8})]
)
def test_everything_but_the_head_runs_in_8_bits(
    quantized: dict[str, Path], name: str, convolutions: int, quantized_in_float: set[int], tmp_path: Path
) -> None:
    kinds = Counter(node.op_type for node in optimized(quantized[name], tmp_path).graph.node)
    # 3 levels: 10 of blocks, 10 normalisations, 2 transposed; 2 levels: 6 of blocks, 1 transposed.
    assert kinds["QLinearConv"] == convolutions
    assert kinds["MatMul"] == 1
    assert not kinds["Conv"] + kinds["FusedConv"] + kinds["ConvTranspose"]
    # The image, and on pixels also the results of Mish, which has no 8-bit kernel; it depends on the processor whether
    # a pooling between two of them runs in 8 bits.
    assert kinds["QuantizeLinear"] in quantized_in_float
    assert kinds["DequantizeLinear"] in quantized_in_float, "one for the head, and what Mish reads"


def depthwise() -> onnx.ModelProto:
    """Return an inverted residual by hand: convolutions that ReLU6 follows, the channels of the depthwise one apart."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 1, 1), "w2": (16, 1, 3, 3), "w3": (8, 16, 1, 1), "head": (2, 8, 3, 3)}
    values: dict[str, Any] = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    apart = np.geomspace(0.1, 1, 16).astype(np.float32)[:, None, None]
    values["w1"], values["w2"], values["w3"] = values["w1"] / 100, values["w2"] * apart[:, None], values["w3"] / apart
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    constants += [
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in (("zero", 0), ("six", 6))
    ]
    nodes = [
        make_node("Transpose", ["image"], "turned", perm=[0, 3, 1, 2]),
        make_node("Cast", ["turned"], "values", to=onnx.TensorProto.FLOAT),
        make_node("Conv", ["values", "w1"], "wide"),
        make_node("Clip", ["wide", "zero", "six"], "wide6"),
        make_node("Conv", ["wide6", "w2"], "deep", pads=[1] * 4, group=16),
        make_node("Clip", ["deep", "zero", "six"], "deep6"),
        make_node("Conv", ["deep6", "w3"], "narrow"),
        make_node("Conv", ["narrow", "head"], "logits", pads=[1] * 4),
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", "h", "w", 3])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 2, "h", "w"])
    graph = onnx.helper.make_graph(nodes, "depthwise", [image], [logits], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def test_relu6_and_depthwise_convolutions_run_in_8_bits(tmp_path: Path) -> None:
    onnx.save(depthwise(), tmp_path / "float.onnx")
    images = [noise((1, 24, 24))[0], draw_sample((24, 24), 0, 0, 0)[0]]
    quantize_model(tmp_path / "float.onnx", images, tmp_path / "int8.onnx")
    kinds = Counter(node.op_type for node in optimized(tmp_path / "int8.onnx", tmp_path).graph.node)
    assert kinds["QLinearConv"] == 3
    assert not kinds["Clip"]
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 1), "the image, and what the head reads"
    expected = logits_of(depthwise(), images[0][None])
    result = logits_of(onnx.load(tmp_path / "int8.onnx"), images[0][None], exact_sums=True)
    # 0.047 where a weight has one scale for all channels.
    assert np.abs(result - expected).mean() < 0.03 * np.abs(expected).mean()


def test_all_heads_stay_in_float() -> None:
    model = small_unet(7, joined=("positive", "skip"))
    score = make_node("Conv", ["deep", "mix_deep"], "score")
    model.graph.node.insert(7, score)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 6, 1, 1), np.float32), "mix_deep"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["n", 1, "h", "w"]))
    assert [node.output[0] for node in nodes_in_float(Graph(model))] == ["score", "logits"]


@pytest.mark.parametrize("name", NETWORKS)
def test_8_bits_give_nearly_the_same_masks_at_any_size(
    exported: dict[str, Path], quantized: dict[str, Path], name: str
) -> None:
    image = draw_sample((70, 90), 7, 0, 0)[0][None]
    expected, expected_mask = OnnxModel(exported[name])(image)
    probabilities, mask = OnnxModel(quantized[name])(image)
    # An untrained network is unsure nearly everywhere; a trained one is far less sensitive.
    assert np.abs(probabilities - expected).mean() < 0.02
    assert (mask == expected_mask).mean() > 0.9
    for size in SIZES:
        probabilities, mask = OnnxModel(quantized[name])(noise(size))
        assert probabilities.shape == (*size, 3)
        assert mask.shape == size
    assert quantized[name].stat().st_size < 0.7 * exported[name].stat().st_size
    assert [entry.key for entry in onnx.load(quantized[name]).metadata_props] == ["flexunet_pl"]


def test_images_are_read_one_by_one_and_silently(
    exported: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[weakref.ref[UInt8Array]] = []
    most_alive = 0

    def images() -> Iterator[UInt8Array]:
        nonlocal most_alive
        for seed in range(6):
            image = np.random.default_rng(seed).integers(40 * seed, 40 * seed + 20, (20, 12, 3), dtype=np.uint8)
            drawn.append(weakref.ref(image))
            most_alive = max(most_alive, sum(reference() is not None for reference in drawn))
            yield image

    quantize_model(exported["on pixels"], images(), tmp_path / "int8.onnx")
    assert len(drawn) == 6
    assert most_alive <= 3
    assert capsys.readouterr().out == ""


def test_ranges_are_those_of_all_images(tmp_path: Path) -> None:
    # Bright images alone would leave no codes below 0 for what the dark ones give, and the other way round.
    onnx.save(small_unet(9), tmp_path / "float.onnx")
    dark, bright = np.full((16, 16, 3), 5, np.uint8), np.full((16, 16, 3), 250, np.uint8)
    errors = {}
    for name, images in {"dark alone": [dark], "both": [dark, bright], "the other order": [bright, dark]}.items():
        quantize_model(tmp_path / "float.onnx", images, tmp_path / f"{name}.onnx")
        expected = logits_of(onnx.load(tmp_path / "float.onnx"), bright[None])
        result = logits_of(onnx.load(tmp_path / f"{name}.onnx"), bright[None], exact_sums=True)
        errors[name] = np.abs(result - expected).mean() / np.abs(expected).mean()
    assert errors["dark alone"] > 0.5
    assert errors["both"] < 0.05
    assert errors["the other order"] == pytest.approx(errors["both"], abs=0.01)


@pytest.mark.parametrize("shape", [(8, 16, 1, 1), (4, 6, 3, 5), (3, 1, 1, 1)], ids=str)
def test_neighbouring_codes_of_weights_never_saturate_16_bits(shape: tuple[int, ...]) -> None:
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    bounds = unsaturated_ranges(weights)
    assert (bounds >= np.abs(weights).reshape(len(weights), -1).max(axis=1)).all()
    codes = np.rint(weights / bounds[:, None, None, None] * 127).astype(int)
    for order in (codes, codes.transpose(0, 2, 3, 1)):
        row = order.reshape(len(codes), -1)
        assert (np.abs(row[:, 1:] + row[:, :-1]) <= 128 + 1).all()  # each code was rounded by up to half
    if weights[0].size == 1:
        assert bounds == pytest.approx(np.abs(weights).ravel()), "nothing is next to it"
