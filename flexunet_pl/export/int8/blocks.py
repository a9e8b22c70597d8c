"""Compute the full-resolution level on blocks of 2x2 pixels where that speeds up 8-bit kernels; no value changes.

onnxruntime's 8-bit convolution reaches half its speed where a layer has only 16 filters. On blocks of 2x2 pixels, such
a level has four times the channels on a quarter of the places. A 9x9 kernel becomes 5x5, which is 23 % more work, and
the rearrangements between levels fall away: a transposed convolution gives blocks anyway.
"""

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from flexunet_pl.export.int8.graph import Graph, attribute, make_node
from flexunet_pl.export.int8.layout import blocks_to_pixels, chain, convolution_to_blocks, is_doubling, is_mixing

# With this many filters, 8-bit kernels run at full speed without blocks.
WIDE_ENOUGH = 64
SAME_LAYOUT = ("Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Softplus", "Mish", "Gelu")

FloatArray = npt.NDArray[np.float32]


def narrow_level_on_blocks(graph: Graph) -> None:
    """Compute the level of full resolution on blocks of 2x2 pixels if that is faster.

    It is if its convolutions have kernels of 5, 9, 13 .. pixels and fewer than 64 filters, and it is left by 2x2
    pooling and entered again by concatenation with doubled features, which also makes its sides even.
    """
    level = _FullLevel(graph)
    if level.gains():
        graph.nodes = level.rewritten()


class _FullLevel:
    """The tensors of full resolution, from the one that the first convolution reads on.

    Attributes:
        parts: For each tensor that can be kept in blocks, the number of channels of each of the tensors it was
            concatenated from: on blocks, the order of the channels is (part, row, column, channel of the part).
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parts: dict[str, tuple[int, ...]] = {}
        self.filters: list[int] = []
        self.concatenations = 0
        self.doubled: set[str] = set()
        self.entry = ""
        producers = graph.producers()
        for node in graph.nodes:
            if not self.entry and node.op_type == "Conv":
                self.entry = node.input[0]
                self.parts[self.entry] = (graph.constants[node.input[1]].shape[1],)
            if not any(name in self.parts for name in node.input):
                continue
            if node.op_type in SAME_LAYOUT:
                self.parts[node.output[0]] = self.parts[node.input[0]]
            elif node.op_type == "Concat" and attribute(node, "axis") == 1:
                self._join(node, producers)
            elif self._fits(node):
                count, _, side, _ = graph.constants[node.input[1]].shape
                self.parts[node.output[0]] = (count,) if is_mixing(node) else self.parts[node.input[0]]
                if side > 1:
                    self.filters.append(count)

    def _join(self, node: NodeProto, producers: dict[str, NodeProto]) -> None:
        joined: list[int] = []
        for name in node.input:
            source = producers.get(name)
            if name not in self.parts and source is not None and is_doubling(self.graph, source):
                self.parts[name] = (self.graph.constants[source.input[1]].shape[1],)
                self.doubled.add(name)
            if name not in self.parts:
                return
            joined += self.parts[name]
        self.parts[node.output[0]] = tuple(joined)
        self.concatenations += 1

    def _fits(self, node: NodeProto) -> bool:
        """Return whether a node is a convolution that stays one on blocks: of 1, 5, 9 .. pixels, centred, stride 1."""
        if node.op_type != "Conv" or node.input[1] not in self.graph.constants:
            return False
        shape = self.graph.constants[node.input[1]].shape
        return (
            shape[2] == shape[3]
            and shape[2] % 4 == 1
            and not set(attribute(node, "pads", [0])) - {shape[2] // 2}
            and not set(attribute(node, "strides", [1])) - {1}
            and not set(attribute(node, "dilations", [1])) - {1}
            and (is_mixing(node) or (shape[1:] == (1, 1, 1) and attribute(node, "group") == shape[0]))
        )

    def gains(self) -> bool:
        """Return whether blocks are possible and faster: see :func:`narrow_level_on_blocks`."""
        has_level = bool(self.filters) and max(self.filters) < WIDE_ENOUGH and self.concatenations > 0
        # Blocks of a concatenation are not in the order of pixels, so no node outside the level may read them.
        outside = [node for node in self.graph.nodes if node.output[0] not in self.parts]
        return has_level and all(len(self.parts.get(name, ())) <= 1 for node in outside for name in node.input)

    def rewritten(self) -> list[NodeProto]:
        """Return the nodes of the graph with this level on blocks; what other levels read is turned into pixels."""
        graph, nodes = self.graph, list[NodeProto]()
        restored: set[str] = set()
        is_entered = False
        for node in graph.nodes:
            output = node.output[0]
            if not is_entered and self.entry in node.input:
                nodes += pixels_to_blocks(graph, self.entry, _blocks(self.entry), self.parts[self.entry][0])
                is_entered = True
            if output in self.doubled:
                nodes.append(convolution_to_blocks(graph, node, _blocks(output)))
            elif output in self.parts and output != self.entry:
                nodes.append(self._on_blocks(node))
            elif _is_halving(node) and node.input[0] in self.parts:
                nodes += _pooled_blocks(graph, _blocks(node.input[0]), output, self.parts[node.input[0]][0])
            else:
                for name in sorted({*node.input} & self.parts.keys() - restored - {self.entry}):
                    nodes += blocks_to_pixels(graph, _blocks(name), name, self.parts[name][0])
                    restored.add(name)
                nodes.append(node)
        for name in self.parts.keys() & set(graph.outputs) - restored:
            nodes += blocks_to_pixels(graph, _blocks(name), name, self.parts[name][0])
        return nodes

    def _on_blocks(self, node: NodeProto) -> NodeProto:
        output = _blocks(node.output[0])
        if node.op_type != "Conv":
            changed = NodeProto()
            changed.CopyFrom(node)
            changed.name = f"{node.op_type}_{output}"
            changed.output[0] = output
            changed.input[:] = map(_blocks, node.input)
            return changed
        weight = self.graph.constants[node.input[1]]
        parts = self.parts[node.input[0]]
        on_blocks = weight_on_blocks(weight, parts) if is_mixing(node) else _tiled(weight, parts)
        inputs = [_blocks(node.input[0]), self.graph.add_constant(f"{node.input[1]}_blocks", on_blocks)]
        if len(node.input) > 2:
            bias = self.graph.constants[node.input[2]]
            tiled = np.tile(bias, 4) if is_mixing(node) else _tiled(bias, parts)
            inputs.append(self.graph.add_constant(f"{node.input[2]}_blocks", tiled))
        side = on_blocks.shape[2]
        group = 1 if is_mixing(node) else len(on_blocks)
        return make_node("Conv", inputs, output, group=group, kernel_shape=[side, side], pads=[side // 2] * 4)


def weight_on_blocks(weight: FloatArray, parts: tuple[int, ...]) -> FloatArray:
    """Map the weight (O, I, k, k) of a centred convolution, k = 1, 5, 9 .., to the weight on 2x2 blocks.

    It is (4O, 4I, k', k'), k' = 1, 3, 5 .., with outputs in the order (row, column, O) and inputs (part, row, column,
    channel of the part); ``parts`` are the numbers of channels of each part and sum up to I.
    """
    count_out, count_in, side, _ = weight.shape
    reach = side // 2
    new_reach = reach // 2
    side_on_blocks = 2 * new_reach + 1
    blocks = np.zeros((2, 2, count_out, 2, 2, count_in, side_on_blocks, side_on_blocks), dtype=weight.dtype)
    for row, column, dy, dx in np.ndindex(2, 2, side, side):
        # Where this tap reads, as (block, place in the block), counted from the block of the output pixel.
        block_y, place_y = divmod(row + dy - reach, 2)
        block_x, place_x = divmod(column + dx - reach, 2)
        blocks[row, column, :, place_y, place_x, :, block_y + new_reach, block_x + new_reach] = weight[:, :, dy, dx]
    inputs = [
        part.reshape(4 * count_out, -1, side_on_blocks, side_on_blocks)
        for part in np.split(blocks, np.cumsum(parts)[:-1], axis=5)
    ]
    return np.concatenate(inputs, axis=1)


def _tiled(values: FloatArray, parts: tuple[int, ...]) -> FloatArray:
    """Repeat one value for each channel, (I, ...), for the four places of a block: (4I, ...)."""
    pieces = np.split(values, np.cumsum(parts)[:-1])
    return np.concatenate([np.tile(piece, (4,) + (1,) * (values.ndim - 1)) for piece in pieces])


def pixels_to_blocks(graph: Graph, source: str, output: str, channels: int) -> list[NodeProto]:
    """Return nodes that turn (N, C, 2H, 2W) into (N, 4C, H, W), channels in the order (row, column, C)."""
    double = graph.add_constant(f"rows_of_{2 * channels}", np.array([0, 0, -1, 2 * channels]))
    block = graph.add_constant(f"rows_of_{4 * channels}", np.array([0, 0, -1, 4 * channels]))
    return chain(
        source,
        output,
        ("Transpose", {"perm": [0, 2, 3, 1]}),  # (N, 2H, 2W, C)
        ("Reshape", double),  # (N, 2H, W, 2C)
        ("Transpose", {"perm": [0, 2, 1, 3]}),  # (N, W, 2H, 2C)
        ("Reshape", block),  # (N, W, H, 4C)
        ("Transpose", {"perm": [0, 3, 2, 1]}),
    )


def _pooled_blocks(graph: Graph, source: str, output: str, channels: int) -> list[NodeProto]:
    """Return nodes that pool (N, 4C, H, W), channels in the order (row, column, C), to (N, C, H, W)."""
    single = graph.add_constant(f"rows_of_{channels}", np.array([0, 0, -1, channels]))
    return chain(
        source,
        output,
        ("Transpose", {"perm": [0, 2, 3, 1]}),  # (N, H, W, 4C)
        ("Reshape", single),  # (N, H, 4W, C)
        ("Transpose", {"perm": [0, 3, 1, 2]}),
        ("MaxPool", {"kernel_shape": [1, 4], "strides": [1, 4]}),
    )


def _is_halving(node: NodeProto) -> bool:
    sides = [attribute(node, "kernel_shape"), attribute(node, "strides")]
    return node.op_type == "MaxPool" and sides == [[2, 2], [2, 2]] and not any(attribute(node, "pads", []))


def _blocks(name: str) -> str:
    return f"{name}_blocks"
