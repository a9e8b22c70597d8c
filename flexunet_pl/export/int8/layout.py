"""Rewrite a float graph for 8-bit kernels; its results stay the same apart from rounding.

onnxruntime has no 8-bit kernel for transposed convolutions and for batch normalisation. Both are convolutions of 1x1:

- a transposed convolution of 2x2 and stride 2 gives each pixel a block of 2x2: a 1x1 convolution to four times the
  channels, and a rearrangement of channels into pixels;
- a batch normalisation that follows an activation is a depthwise 1x1 convolution.
"""

import numpy as np
from onnx import NodeProto

from flexunet_pl.export.int8.graph import Graph, attribute, make_node

PRODUCT = "_head_product"


def normalisations_as_convolutions(graph: Graph) -> None:
    """Replace each BatchNormalization by a depthwise 1x1 convolution."""
    nodes = []
    for node in graph.nodes:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        scale, offset, mean, variance = (graph.constants[name].astype(np.float64) for name in node.input[1:])
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        output = node.output[0]
        weight = graph.add_constant(f"{output}_factor", factor[:, None, None, None].astype(np.float32))
        bias = graph.add_constant(f"{output}_offset", (offset - factor * mean).astype(np.float32))
        nodes.append(make_node("Conv", [node.input[0], weight, bias], output, kernel_shape=[1, 1], group=len(factor)))
    graph.nodes = nodes


def transposed_as_convolutions(graph: Graph) -> None:
    """Replace each transposed convolution of 2x2 and stride 2 by a 1x1 convolution and blocks turned into pixels."""
    nodes = []
    for node in graph.nodes:
        if not is_doubling(graph, node):
            nodes.append(node)
            continue
        output = node.output[0]
        convolution = convolution_to_blocks(graph, node, f"{output}_blocks")
        channels = graph.constants[node.input[1]].shape[1]
        nodes += [convolution, *blocks_to_pixels(graph, convolution.output[0], output, channels)]
    graph.nodes = nodes


def head_as_product(graph: Graph) -> None:
    """Replace the last convolution, if it is a 1x1 one, by a matrix product on the channels-last form.

    It stays in float. A float convolution between 8-bit ones and the softmax would read and write channels first, which
    costs three rearrangements that take longer than the convolution.
    """
    last = max((place for place, node in enumerate(graph.nodes) if node.op_type == "Conv"), default=None)
    if last is None or not _is_linear_map(graph, graph.nodes[last]):
        return
    node = graph.nodes[last]
    output = node.output[0]
    weight = graph.constants[node.input[1]]
    matrix = graph.add_constant(f"{node.input[1]}_matrix", weight[:, :, 0, 0].T)
    bias = graph.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    offset = graph.add_constant(f"{output}_offset", bias)
    graph.nodes[last : last + 1] = [
        make_node("Transpose", [node.input[0]], f"{output}_pixels", perm=[0, 2, 3, 1]),
        make_node("MatMul", [f"{output}_pixels", matrix], f"{output}{PRODUCT}"),
        make_node("Add", [f"{output}{PRODUCT}", offset], f"{output}_sum"),
        make_node("Transpose", [f"{output}_sum"], output, perm=[0, 3, 1, 2]),
    ]


def is_head_product(node: NodeProto) -> bool:
    """Return whether a node is the matrix product of ``head_as_product``."""
    return node.op_type == "MatMul" and node.output[0].endswith(PRODUCT)


def is_doubling(graph: Graph, node: NodeProto) -> bool:
    """Return whether a node is a transposed convolution of 2x2 and stride 2 with constant weights, ungrouped."""
    return (
        node.op_type == "ConvTranspose"
        and node.input[1] in graph.constants
        and graph.constants[node.input[1]].shape[2:] == (2, 2)
        and list(attribute(node, "strides", [])) == [2, 2]
        and attribute(node, "group", 1) == 1
        and not any([*attribute(node, "pads", []), *attribute(node, "output_padding", [])])
    )


def convolution_to_blocks(graph: Graph, node: NodeProto, output: str) -> NodeProto:
    """Return the 1x1 convolution that gives (N, 4C, H, W), in the order (row, column, C), for a doubling node."""
    weight = graph.constants[node.input[1]]
    channels_in, channels = weight.shape[:2]
    inputs = [node.input[0], f"{node.input[1]}_blocks"]
    graph.add_constant(inputs[1], weight.transpose(2, 3, 1, 0).reshape(4 * channels, channels_in, 1, 1))
    if len(node.input) > 2:
        inputs.append(graph.add_constant(f"{node.input[2]}_blocks", np.tile(graph.constants[node.input[2]], 4)))
    return make_node("Conv", inputs, output, kernel_shape=[1, 1])


def blocks_to_pixels(graph: Graph, source: str, output: str, channels: int) -> list[NodeProto]:
    """Return nodes that turn (N, 4C, H, W), channels in the order (row, column, C), into (N, C, 2H, 2W).

    These are transpositions and reshapes of the channels-last form, which 8-bit convolutions use anyway, with constant
    shapes although sizes vary. DepthToSpace takes ten times as long.
    """
    wide = graph.add_constant(f"rows_of_{2 * channels}", np.array([0, 0, -1, 2 * channels]))
    single = graph.add_constant(f"rows_of_{channels}", np.array([0, 0, -1, channels]))
    return chain(
        source,
        output,
        ("Transpose", {"perm": [0, 3, 2, 1]}),  # (N, W, H, 4C)
        ("Reshape", wide),  # (N, W, 2H, 2C)
        ("Transpose", {"perm": [0, 2, 1, 3]}),  # (N, 2H, W, 2C)
        ("Reshape", single),  # (N, 2H, 2W, C)
        ("Transpose", {"perm": [0, 3, 1, 2]}),
    )


def chain(source: str, output: str, *steps: tuple[str, str | dict[str, list[int]]]) -> list[NodeProto]:
    """Return nodes that follow one another, each with its operation and a constant or attributes."""
    nodes = []
    for number, (op_type, setting) in enumerate(steps, start=1):
        target = output if number == len(steps) else f"{output}_step{number}"
        inputs = [source, setting] if isinstance(setting, str) else [source]
        nodes.append(make_node(op_type, inputs, target, **({} if isinstance(setting, str) else setting)))
        source = target
    return nodes


def is_mixing(node: NodeProto) -> bool:
    """Return whether each output channel of a convolution reads all input channels: not depthwise."""
    return bool(attribute(node, "group", 1) == 1)


def _is_linear_map(graph: Graph, node: NodeProto) -> bool:
    return (
        all(name in graph.constants for name in node.input[1:])
        and graph.constants[node.input[1]].shape[2:] == (1, 1)
        and is_mixing(node)
        and not any(attribute(node, "pads", []))
        and not set(attribute(node, "strides", [1])) - {1}
    )
