"""An ONNX graph as a list of nodes and a table of constants, for passes that rewrite it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

Array = npt.NDArray[Any]


class Graph:
    """The nodes of a model in the order in which they run, and its constants; the model itself stays as it is.

    Attributes:
        nodes: The nodes; a pass replaces this list.
        constants: Value of each constant by name.
        outputs: Names of the outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read the graph of ``model``."""
        self._model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.constants: dict[str, Array] = {
            constant.name: onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer
        }
        self.outputs = [tensor.name for tensor in model.graph.output]

    def add_constant(self, name: str, value: Any) -> str:
        """Store a constant and return its name; the same constant may exist already."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        if name in self.constants and not np.array_equal(self.constants[name], array):
            raise ValueError(f"the graph has another constant named {name!r}")
        self.constants[name] = array
        return name

    def producers(self) -> dict[str, NodeProto]:
        """Return the node that computes each tensor; constants and inputs have none."""
        return {output: node for node in self.nodes for output in node.output}

    def to_model(self) -> onnx.ModelProto:
        """Return a checked copy of the model with the nodes and those constants that they use."""
        used = {name for node in self.nodes for name in node.input}
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in used
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute of a node, or ``default`` where the node has none of this name."""
    return next((onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def make_node(op_type: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    """Return a node with one output, named after it."""
    return onnx.helper.make_node(op_type, inputs, [output], name=f"{op_type}_{output}", **attributes)
