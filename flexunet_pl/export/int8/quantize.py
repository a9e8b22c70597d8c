"""An exported graph in 8 bits: static quantisation with a scale for each channel, from calibration images."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from flexunet_pl.core.files import atomic_path
from flexunet_pl.export.int8.blocks import narrow_level_on_blocks
from flexunet_pl.export.int8.graph import Graph, make_node
from flexunet_pl.export.int8.layout import head_as_product, normalisations_as_convolutions, transposed_as_convolutions
from flexunet_pl.export.int8.plan import Code, Plan, is_convolution
from flexunet_pl.export.int8.ranges import measured_ranges

# In this order: what is a block already when transposed convolutions are looked at needs no rearrangement.
REWRITES = (normalisations_as_convolutions, narrow_level_on_blocks, transposed_as_convolutions, head_as_product)
LARGEST_WEIGHT = 127
LARGEST_BIAS = 2**30  # leaves room in 32 bits for the sum of products

UInt8Array = npt.NDArray[np.uint8]


def quantize_model(source: Path, images: Iterable[UInt8Array], path: Path) -> None:
    """Write an 8-bit copy of an exported model: uint8 activations, int8 weights with a scale for each channel.

    The last convolution, the softmax and the mask stay in float. The input is exact, since an image is uint8 anyway.

    Args:
        source: A file written by ``export_onnx``.
        images: Calibration images uint8 (H, W, C) at the size the network works at, at least one. They are looked at
            one after the other, so that memory does not grow with their number.
        path: Where to.
    """
    graph = Graph(onnx.load(source))
    for rewrite in REWRITES:
        rewrite(graph)
    quantized = quantized_model(graph, images)
    with atomic_path(path) as temporary:
        onnx.save(quantized, temporary)
        onnx.checker.check_model(temporary, full_check=True)


def quantized_model(graph: Graph, images: Iterable[UInt8Array]) -> onnx.ModelProto:
    """Return a graph in 8 bits as it stands, whatever has or has not been rewritten; ``graph`` is used up."""
    plan = Plan(graph)
    ranges = measured_ranges(graph, sorted(plan.measured), images)
    return _Quantizer(graph, plan, plan.codes(ranges)).model()


class _Quantizer:
    """Writes a graph down with the codes of a plan, into the graph itself."""

    def __init__(self, graph: Graph, plan: Plan, codes: Mapping[str, Code]) -> None:
        self.graph = graph
        self.plan = plan
        self.codes = codes
        self.nodes: list[NodeProto] = []
        self.decoded: set[str] = set()
        # What a convolution gives before a ReLU that disappears has no code of its own.
        producers = graph.producers()
        self.source_of = {name: producers[name].input[0] for name in plan.folded}
        self.before_fold = set(self.source_of.values())

    def model(self) -> onnx.ModelProto:
        """Return the quantised model."""
        image_nodes = {node.output[0] for node in self.plan.image}
        for node in self.graph.nodes:
            name = node.output[0]
            if name in image_nodes:
                self._move_image(node)
            elif name in self.source_of:
                self._encode(self.source_of[name], name)
            elif name in self.plan.moved:
                self._append(node, [_codes(node.input[0]), *node.input[1:]], _codes(name))
            elif name in self.plan.joined and len({self.codes[part] for part in node.input}) == 1:
                self._append(node, [_codes(part) for part in node.input], _codes(name))
            else:
                self._compute(node)
                if name in self.plan:
                    self._encode(name, name)
        self.graph.nodes = self.nodes
        return self.graph.to_model()

    def _move_image(self, node: NodeProto) -> None:
        """Do to the image's own codes what the node does to values; a cast or a factor is nothing to them."""
        source = node.input[0] if node.input[0] in self.graph.inputs else _codes(node.input[0])
        if node.op_type in ("Cast", "Mul"):
            self.nodes.append(make_node("Identity", [source], _codes(node.output[0])))
        else:
            self._append(node, [source, *node.input[1:]], _codes(node.output[0]))

    def _compute(self, node: NodeProto) -> None:
        """Append a node that reads values; those of coded tensors are decoded, which runtimes merge with the node."""
        inputs = [self._value(name) for name in node.input]
        output = node.output[0]
        if is_convolution(self.graph, node) and (output in self.plan or output in self.before_fold):
            inputs[1:] = self._encoded_weights(node)
        self._append(node, inputs, output)

    def _encode(self, source: str, name: str) -> None:
        self.nodes.append(make_node("QuantizeLinear", [source, *self._code_constants(name)], _codes(name)))

    def _value(self, name: str) -> str:
        """Return the name of the values of a tensor, decoded where it is coded."""
        if name not in self.plan:
            return name
        value = f"{name}_value"
        if name not in self.decoded:
            self.nodes.append(make_node("DequantizeLinear", [_codes(name), *self._code_constants(name)], value))
            self.decoded.add(name)
        return value

    def _code_constants(self, name: str) -> list[str]:
        code = self.codes[name]
        return [
            self.graph.add_constant(f"{name}_scale", np.float32(code.scale)),
            self.graph.add_constant(f"{name}_zero", np.uint8(code.zero)),
        ]

    def _encoded_weights(self, node: NodeProto) -> list[str]:
        """Store weight (and bias) of a convolution as int8 (int32) and return the names of their values."""
        weight = self.graph.constants[node.input[1]].astype(np.float64)
        bias = self.graph.constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(len(weight))
        input_scale = self.codes[node.input[0]].scale
        scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / LARGEST_WEIGHT
        # A channel of hardly any weight must still be able to express its bias.
        scale = np.maximum(scale, np.abs(bias) / (input_scale * LARGEST_BIAS))
        scale = np.where(scale > 0, scale, 1).astype(np.float32).astype(np.float64)
        codes = np.rint(weight / scale[:, None, None, None]).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)
        names = [self._constant_value(node.input[1], codes, scale.astype(np.float32))]
        if len(node.input) > 2:
            bias_scale = (np.float32(input_scale) * scale.astype(np.float32)).astype(np.float32)
            bias_codes = np.rint(bias / bias_scale).astype(np.int32)
            names.append(self._constant_value(f"{node.output[0]}_bias", bias_codes, bias_scale))
        return names

    def _constant_value(self, name: str, codes: npt.NDArray[np.generic], scale: npt.NDArray[np.float32]) -> str:
        inputs = [
            self.graph.add_constant(f"{name}_codes", codes),
            self.graph.add_constant(f"{name}_scale", scale),
            self.graph.add_constant(f"{name}_zero", np.zeros(len(scale), codes.dtype)),
        ]
        self.nodes.append(make_node("DequantizeLinear", inputs, f"{name}_value", axis=0))
        return f"{name}_value"

    def _append(self, node: NodeProto, inputs: list[str], output: str) -> None:
        copied = NodeProto()
        copied.CopyFrom(node)
        del copied.input[:]
        copied.input.extend(inputs)
        copied.output[0] = output
        self.nodes.append(copied)


def _codes(name: str) -> str:
    return f"{name}_codes"
