"""Which tensors of a graph become 8-bit codes, and which value a code stands for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from flexunet_pl.export.int8.graph import Graph, attribute

LARGEST_CODE = 255


class Range(NamedTuple):
    """The least and the largest value that a tensor takes, 0 included."""

    low: float = 0.0
    high: float = 0.0

    def including(self, other: "Range") -> "Range":
        """Return the range that spans both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


class Code(NamedTuple):
    """What the codes 0..255 of a tensor stand for: value = scale * (code - zero)."""

    scale: float
    zero: int

    @classmethod
    def spanning(cls, span: Range) -> "Code":
        """Return the code that spans a range, 0 being exact."""
        scale = float(np.float32((span.high - span.low) / LARGEST_CODE)) or 1.0
        return cls(scale, round(-span.low / scale))


def encoded(values: npt.NDArray[np.floating[Any]], code: Code) -> npt.NDArray[np.float64]:
    """Return the codes 0..255 of values (...), as whole numbers in float64."""
    return np.asarray((np.rint(values / code.scale) + code.zero).clip(0, LARGEST_CODE), dtype=np.float64)


class Plan:
    """Which tensors become codes: all that convolutions and matrix products read, and what leads from one to the next.

    Attributes:
        image: Nodes from the image to the first convolution if they only move values and scale them by one number,
            which leaves the codes the image consists of as they are; otherwise empty.
        moved: Coded tensors that consist of codes of another one, and that tensor.
        joined: Coded tensors that are concatenations, and of what.
        measured: The other coded tensors. Their ranges have to be measured.
        folded: ReLU nodes that disappear: the codes of their output begin at 0, which cuts off what is negative.
    """

    def __init__(self, graph: Graph) -> None:
        """Plan for ``graph``, which is not changed."""
        self._graph = graph
        self._producers = graph.producers()
        self._consumers = graph.consumers()
        self.image: list[NodeProto] = []
        self.image_scale = 1.0
        self.moved: dict[str, str] = {}
        self.joined: dict[str, list[str]] = {}
        self.measured: set[str] = set()
        self.folded: set[str] = set()
        for node in graph.nodes:
            if is_convolution(graph, node) or is_product(graph, node):
                self._add(node.input[0])

    def __contains__(self, name: str) -> bool:
        """Tell whether a tensor becomes codes."""
        return name in self.moved or name in self.joined or name in self.measured or name in self.image_tensors

    @property
    def image_tensors(self) -> set[str]:
        """Names of the tensors that have the codes of the image."""
        return {node.output[0] for node in self.image}

    def _add(self, name: str) -> None:
        if name in self:
            return
        chain = self._chain_from_image(name)
        if chain:
            self.image = chain
            return
        node = self._producers.get(name)
        if node is not None and is_moving(node):
            self.moved[name] = node.input[0]
            self._add(node.input[0])
        elif node is not None and self._is_joining(node):
            self.joined[name] = list(node.input)
            for part in node.input:
                self._add(part)
        else:
            self.measured.add(name)
            self._add_below(name, node)

    def _is_joining(self, node: NodeProto) -> bool:
        """Tell whether a node joins the channels of tensors that are computed."""
        return (
            node.op_type == "Concat"
            and attribute(node, "axis") == 1
            and all(part in self._producers for part in node.input)
        )

    def _add_below(self, name: str, node: NodeProto | None) -> None:
        """Code also what a residual sum or an activation reads from convolutions, so that these run on codes too."""
        if node is None or is_convolution(self._graph, node):
            return
        if node.op_type == "Relu":
            source = self._producers.get(node.input[0])
            if source is not None and source.op_type in ("Conv", "Add") and self._consumers[node.input[0]] == [node]:
                self.folded.add(name)
                self._add_below(name, source)
                return
        for part in node.input:
            source = self._producers.get(part)
            if source is not None and (is_convolution(self._graph, source) or is_moving(source)):
                self._add(part)

    def _chain_from_image(self, name: str) -> list[NodeProto]:
        """Return the nodes between the image and ``name`` if they do no more than move and scale, else nothing."""
        if self.image:
            return []
        chain: list[NodeProto] = []
        scale = 1.0
        while name not in self._graph.inputs:
            node = self._producers.get(name)
            if node is None or (chain and any(user not in chain for user in self._consumers[name])):
                return []
            factor = _factor(self._graph, node)
            if factor is None and not (node.op_type in ("Cast", "Transpose", "Reshape") or _repeats_edges(node)):
                return []
            chain.append(node)
            scale *= 1.0 if factor is None else factor
            name = node.input[0]
        if not any(node.op_type == "Cast" for node in chain):
            return []
        self.image_scale = scale
        return chain[::-1]

    def codes(self, ranges: Mapping[str, Range]) -> dict[str, Code]:
        """Return the code of each coded tensor, given the ranges of ``measured``."""
        spans = {name: ranges[name] for name in self.measured}
        spans |= dict.fromkeys(self.image_tensors, Range(0, LARGEST_CODE * self.image_scale))
        codes = {name: Code.spanning(span) for name, span in spans.items()}
        codes |= dict.fromkeys(self.image_tensors, Code(self.image_scale, 0))
        for node in self._graph.nodes:  # in the order in which they run: what they read has its code already
            name = node.output[0]
            if name in self.moved:
                spans[name], codes[name] = spans[self.moved[name]], codes[self.moved[name]]
            elif name in self.joined:
                spans[name] = Range()
                for part in self.joined[name]:
                    spans[name] = spans[name].including(spans[part])
                codes[name] = Code.spanning(spans[name])
                self._adopt(name, codes)
        return codes

    def _adopt(self, joined: str, codes: dict[str, Code]) -> None:
        """Let the parts that nobody else reads have the code of what they are joined to; then joining is copying."""
        for part in self.joined[joined]:
            path = [part]
            while path[-1] in self.moved:
                path.append(self.moved[path[-1]])
            source = path[-1]
            is_free = source in self.measured and all(len(self._consumers[name]) == 1 for name in path)
            # A ReLU that is folded needs codes that begin at 0.
            if is_free and (source not in self.folded or codes[joined].zero == 0):
                codes |= dict.fromkeys(path, codes[joined])


def is_convolution(graph: Graph, node: NodeProto) -> bool:
    """Tell whether a node is a convolution with constant weights."""
    return node.op_type == "Conv" and all(name in graph.constants for name in node.input[1:])


def is_product(graph: Graph, node: NodeProto) -> bool:
    """Tell whether a node is a matrix product with a constant matrix."""
    return node.op_type == "MatMul" and node.input[1] in graph.constants


def is_moving(node: NodeProto) -> bool:
    """Tell whether a node moves or chooses values without computing any, so that it does the same to codes."""
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", b"nearest") == b"nearest")
    return node.op_type in ("MaxPool", "Transpose", "Reshape")


def _repeats_edges(node: NodeProto) -> bool:
    return node.op_type == "Pad" and attribute(node, "mode", b"constant") in (b"edge", b"reflect")


def _factor(graph: Graph, node: NodeProto) -> float | None:
    """Return the number that a node multiplies a tensor by, if that is all it does."""
    if node.op_type != "Mul" or node.input[1] not in graph.constants or graph.constants[node.input[1]].size != 1:
        return None
    return float(graph.constants[node.input[1]].reshape(()))
