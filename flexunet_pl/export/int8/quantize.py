"""Quantise an exported graph to 8 bits with onnxruntime, after rewriting it for onnxruntime's 8-bit kernels."""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)

from flexunet_pl.core.files import atomic_path, scratch_folder
from flexunet_pl.export.int8.blocks import narrow_level_on_blocks
from flexunet_pl.export.int8.graph import Graph, attribute
from flexunet_pl.export.int8.layout import (
    head_as_product,
    is_head_product,
    normalisations_as_convolutions,
    transposed_as_convolutions,
)

# In this order: what is a block already when transposed convolutions are looked at needs no rearrangement.
REWRITES: tuple[Callable[[Graph], None], ...] = (
    normalisations_as_convolutions,
    narrow_level_on_blocks,
    transposed_as_convolutions,
    head_as_product,
)
# Relu and Clip (ReLU6) vanish: the range of the codes of the convolution before them cuts off what they would.
QUANTIZED = ("Conv", "Relu", "Clip", "Add", "Concat", "MaxPool", "Resize", "Transpose", "Reshape", "MatMul")
# Closer to the float masks than whole ranges (docs/int8.md).
CALIBRATION = CalibrationMethod.Percentile
CODES = 127  # of a weight, either way
LARGEST_SUM = 128  # of two codes: 255 times as much fits 16 bits

UInt8Array = npt.NDArray[np.uint8]


class _OneImage(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the calibrator one image, so that it keeps the activations of one image at a time."""

    def __init__(self, image: UInt8Array) -> None:
        self._batches = iter([{"image": image[None]}])

    def get_next(self) -> dict[str, UInt8Array] | None:
        return next(self._batches, None)


def quantize_model(
    source: Path, images: Iterable[UInt8Array], path: Path, rewrites: Sequence[Callable[[Graph], None]] = REWRITES
) -> None:
    """Write an 8-bit copy of an exported model: uint8 activations, int8 weights with a scale for each channel.

    The ranges of the weights keep sums in 16 bits from saturating, see :func:`ranges_of_dense_weights`. The last
    convolution, the softmax and the mask stay in float.

    Args:
        source: A file written by ``export_onnx``.
        images: Calibration images uint8 (H, W, C) at the size the network works at, at least one; read one by one.
        path: Where to.
        rewrites: What is done to the graph first.
    """
    graph = Graph(onnx.load(source))
    for rewrite in rewrites:
        rewrite(graph)
    model = onnx.shape_inference.infer_shapes(graph.to_model())
    with scratch_folder() as folder:
        rewritten = folder / "rewritten.onnx"
        onnx.save(model, rewritten)
        calibrator = create_calibrator(
            rewritten,
            list(QUANTIZED),
            augmented_model_path=str(Path(folder) / "calibration.onnx"),
            calibrate_method=CALIBRATION,
        )
        with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime prints the same line for each image
            for image in images:
                calibrator.collect_data(_OneImage(image))
            ranges = calibrator.compute_data()
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[node.name for node in nodes_in_float(graph)],
        op_types_to_quantize=list(QUANTIZED),
        extra_options={"TensorQuantOverrides": ranges_of_dense_weights(graph)},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized = graph.to_model()  # for all but the graph, since onnxruntime leaves notes of its own
    quantized.graph.CopyFrom(quantizer.model.model.graph)
    del quantized.graph.value_info[:]
    with atomic_path(path) as temporary:
        onnx.save(quantized, temporary)
        onnx.checker.check_model(temporary, full_check=True)


def ranges_of_dense_weights(graph: Graph) -> dict[str, list[dict[str, Any]]]:
    """Return onnxruntime's overrides for the weights of convolutions that are not depthwise: ranges of each channel.

    Processors with AVX2 but without VNNI add the products of two neighbouring weights, int8, and activations, uint8,
    in 16 bits, which saturate at 32,767. So the codes of two neighbours must not exceed 128 in sum, which costs some
    half a bit. Neighbours are next to each other by channel or by column, as the kernel orders them. Depthwise
    convolutions add in 32 bits.
    """
    overrides = {}
    for node in graph.nodes:
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1 and node.input[1] in graph.constants:
            bounds = unsaturated_ranges(graph.constants[node.input[1]])
            kind = {"quant_type": QuantType.QInt8, "symmetric": True, "axis": 0}
            overrides[node.input[1]] = [kind | {"rmin": -bound, "rmax": bound} for bound in bounds]
    return overrides


def unsaturated_ranges(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Map weights (K, C, h, w) to the magnitude of each output channel, (K,), that code 127 should stand for."""
    bounds = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    for order in (weights, weights.transpose(0, 2, 3, 1)):
        row = order.reshape(len(weights), -1)
        sums = np.abs(row[:, 1:] + row[:, :-1]).max(axis=1, initial=0)
        bounds = np.maximum(bounds, sums * (CODES / LARGEST_SUM))
    return np.asarray(bounds, dtype=np.float32)


def nodes_in_float(graph: Graph) -> list[NodeProto]:
    """Return the nodes that stay in float: each head, which no convolution follows, what follows it, interpolation."""
    reaches_convolution: set[str] = set()  # tensors that a convolution, or the product of the head, reads at last
    float_nodes = []
    for node in reversed(graph.nodes):
        is_before = not reaches_convolution.isdisjoint(node.output)
        interpolates = node.op_type == "Resize" and attribute(node, "mode", b"nearest") != b"nearest"
        if not is_before or interpolates:
            float_nodes.append(node)
        if is_before or node.op_type == "Conv" or is_head_product(node):
            reaches_convolution.update(node.input)
    return float_nodes[::-1]
