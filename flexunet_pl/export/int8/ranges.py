"""Which range of a tensor's values 8 bits should cover, measured on calibration images."""

import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from flexunet_pl.export.int8.graph import Graph, make_node
from flexunet_pl.export.int8.plan import Code, Range, encoded

SAMPLE = 1 << 13  # values of a tensor looked at for each image, at least
BINS = 4096
# Shares of the extremes at which a range may end. Values beyond are cut off, and the others get finer codes.
ENDS = np.linspace(1, 0.1, 19)

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


def measured_ranges(graph: Graph, names: list[str], images: Iterable[UInt8Array]) -> dict[str, Range]:
    """Return for each of the tensors ``names`` the range that costs it least, over all images uint8 (H, W, C)."""
    samples: dict[str, list[FloatArray]] = {name: [] for name in names}
    model, asked = _with_samples(graph, names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for image in images:
        found = session.run(asked, {graph.inputs[0]: image[None]})
        for name, low, high, some in zip(names, found[::3], found[1::3], found[2::3], strict=True):
            samples[name].append(np.append(some, [low, high]))
    return {name: cheapest_range(np.concatenate(values)) for name, values in samples.items()}


def cheapest_range(values: FloatArray) -> Range:
    """Return the range, 0 included, within which 8 bits render values (n,) with the least mean squared error.

    A few values far out would otherwise leave few codes for all the others. After a BatchNorm of a channel that is
    mostly 0 that is the rule.
    """
    span = Range().including(Range(float(values.min()), float(values.max())))
    counts, edges = np.histogram(values, BINS)
    centres = ((edges[1:] + edges[:-1]) / 2)[counts > 0]
    weights = counts[counts > 0]

    def cost(span: Range) -> float:
        code = Code.spanning(span)
        return float((weights * (code.scale * (encoded(centres, code) - code.zero) - centres) ** 2).sum())

    lows = span.low * ENDS if span.low else [0.0]
    highs = span.high * ENDS if span.high else [0.0]
    return min((Range(float(low), float(high)) for low, high in itertools.product(lows, highs)), key=cost)


def _with_samples(graph: Graph, names: list[str]) -> tuple[onnx.ModelProto, list[str]]:
    """Return a model that gives least, largest and some values of each tensor, and the names of these outputs.

    onnxruntime frees a tensor as soon as it has been read, so that memory does not grow with the number of tensors.
    """
    model = graph.to_model()
    asked = []
    del model.graph.output[:]
    for name, value in {"all": [-1], "first": [0], "end": [2**62], "sample": SAMPLE, "two": 2, "one": 1}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), f"sampling_{name}"))
    for name in names:
        extremes = [f"{name}_ReduceMin", f"{name}_ReduceMax"]
        chosen = f"{name}_chosen"
        model.graph.node.extend(
            [
                make_node("ReduceMin", [name], extremes[0], keepdims=0),
                make_node("ReduceMax", [name], extremes[1], keepdims=0),
                make_node("Reshape", [name, "sampling_all"], f"{name}_flat"),
                make_node("Size", [name], f"{name}_size"),
                # Every nth value, n odd: an even one would meet the same few columns of an image again and again.
                make_node("Div", [f"{name}_size", "sampling_sample"], f"{name}_rounds"),
                make_node("Div", [f"{name}_rounds", "sampling_two"], f"{name}_half"),
                make_node("Mul", [f"{name}_half", "sampling_two"], f"{name}_even"),
                make_node("Add", [f"{name}_even", "sampling_one"], f"{name}_odd"),
                make_node("Reshape", [f"{name}_odd", "sampling_all"], f"{name}_step"),
                make_node(
                    "Slice",
                    [f"{name}_flat", "sampling_first", "sampling_end", "sampling_first", f"{name}_step"],
                    chosen,
                ),
            ]
        )
        asked += [*extremes, chosen]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"] if name.endswith("chosen") else [])
        for name in asked
    )
    return model, asked
