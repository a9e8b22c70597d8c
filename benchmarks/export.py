"""How fast an exported network is, float and 8 bits, and where its time goes.

    python benchmarks/export.py              the tile network: 16 filters, 9x9, 6 levels, 512x512
    python benchmarks/export.py --threads 1  and so on; see --help

All variants run in turn, so that a machine that slows down slows all of them. Times are medians, of the clock and of
the processor; on a busy machine the second means more. Weights are random: agreement says little, speed all.
"""

import argparse
import collections
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from flexunet_pl.data.synthetic.dataset import draw_sample
from flexunet_pl.export.int8.blocks import narrow_level_on_blocks
from flexunet_pl.export.int8.graph import Graph, make_node
from flexunet_pl.export.int8.layout import convolution_to_blocks, is_doubling
from flexunet_pl.export.int8.quantize import REWRITES, quantize_model
from flexunet_pl.export.onnx import MaskingNetwork, export_onnx
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings

UInt8Array = npt.NDArray[np.uint8]
Segment = Callable[[], UInt8Array]
CALIBRATION_IMAGES = 4


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"base_filters": 16, "base_kernel": 9, "num_layers": 6, "size": 512}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--normalization", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # onnxruntime's quantisation recommends steps that change nothing here
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    network = FlexUNet(
        6,
        3,
        settings=FlexUNetSettings(
            options.base_filters, options.base_kernel, options.num_layers, normalization=options.normalization
        ),
    ).eval()
    images = [draw_sample((options.size, options.size), source, 0, 0)[0] for source in range(CALIBRATION_IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        paths = written(network, images, Path(folder))
        image = draw_sample((options.size, options.size), CALIBRATION_IMAGES, 0, 0)[0][None]
        variants: dict[str, Segment] = {"PyTorch fp32": of_torch(network, image)}
        variants |= {name: of_file(path, image, options.threads) for name, path in paths.items()}
        print_race(variants, options.rounds)
        for name in ("fp32", "int8"):
            print_profile(name, paths[name], image, options.num_layers)


def written(network: FlexUNet, images: list[UInt8Array], folder: Path) -> dict[str, Path]:
    """Write the variants and return their files."""
    names = ("fp32", "fp32, DepthToSpace", "int8, quantize_static", "int8, without blocks", "int8")
    paths = {name: folder / f"{number}.onnx" for number, name in enumerate(names)}
    facts = {"num_classes": 6, "channels": 3, "size_multiple": network.size_multiple, "fixed_size": None}
    export_onnx(network, facts, paths["fp32"])
    onnx.save(with_depth_to_space(onnx.load(paths["fp32"])), paths["fp32, DepthToSpace"])
    quantize_static(
        paths["fp32"],
        paths["int8, quantize_static"],
        _Images(images),
        op_types_to_quantize=["Conv", "ConvTranspose", "MaxPool", "Concat", "Relu"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    on_pixels = [rewrite for rewrite in REWRITES if rewrite is not narrow_level_on_blocks]
    quantize_model(paths["fp32"], images, paths["int8, without blocks"], on_pixels)
    quantize_model(paths["fp32"], images, paths["int8"])
    return paths


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, images: list[UInt8Array]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, UInt8Array] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}


def with_depth_to_space(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write transposed convolutions as 1x1 convolutions and DepthToSpace."""
    graph = Graph(model)
    nodes = []
    for node in graph.nodes:
        if is_doubling(graph, node):
            blocks = convolution_to_blocks(graph, node, f"{node.output[0]}_blocks")
            nodes += [blocks, make_node("DepthToSpace", [blocks.output[0]], node.output[0], blocksize=2)]
        else:
            nodes.append(node)
    graph.nodes = nodes
    return graph.to_model()


def of_torch(network: FlexUNet, image: UInt8Array) -> Segment:
    """Return what segments with torch."""
    masking, tensor = MaskingNetwork(network, 6).eval(), torch.from_numpy(image)

    def run() -> UInt8Array:
        with torch.inference_mode():
            mask: UInt8Array = masking(tensor)[1].numpy()
        return mask

    return run


def of_file(path: Path, image: UInt8Array, threads: int) -> Segment:
    """Return what segments with onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for work by spinning would count as work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run() -> UInt8Array:
        mask: UInt8Array = session.run(["mask"], {"image": image})[0]
        return mask

    return run


def print_race(variants: dict[str, Segment], rounds: int) -> None:
    """Run the variants in turn and print a line for each."""
    masks = {name: run() for name, run in variants.items()}
    clock, processor = collections.defaultdict(list), collections.defaultdict(list)
    for _ in range(rounds):
        for name, run in variants.items():
            began, worked = time.perf_counter(), time.process_time()
            run()
            clock[name].append(1e3 * (time.perf_counter() - began))
            processor[name].append(1e3 * (time.process_time() - worked))
    print(
        "| | clock, ms | processor, ms | times fp32 (clock) | (processor) | mask as fp32 |\n|---|---|---|---|---|---|"
    )
    for name in variants:
        by_clock, by_processor = (
            statistics.median(times["fp32"]) / statistics.median(times[name]) for times in (clock, processor)
        )
        print(
            f"| {name} | {statistics.median(clock[name]):.0f} | {statistics.median(processor[name]):.0f} "
            f"| {by_clock:.2f} | {by_processor:.2f} | {(masks[name] == masks['fp32']).mean():.2%} |"
        )


def print_profile(name: str, path: Path, image: UInt8Array, num_layers: int) -> None:
    """Print where the time of a file goes, on one thread."""
    levels = [level for level in range(num_layers) for _ in range(2)]
    levels += [level for level in reversed(range(num_layers - 1)) for _ in range(2)]
    spent: dict[str, float] = collections.defaultdict(float)
    blocks = iter(levels)
    for kind, shape, milliseconds in profiled(path, image):
        # The two convolutions of a level have equally many filters; what doubles the size has its own kind, or is 1x1.
        is_block = kind in ("Conv", "FusedConv", "QLinearConv") and shape != "1x1"
        spent[f"level {next(blocks)}" if is_block else kind] += milliseconds
    print(f"\n{name}, one thread: {sum(spent.values()):.0f} ms, of which")
    for what, milliseconds in sorted(spent.items(), key=lambda entry: -entry[1]):
        if milliseconds >= 0.1:
            print(f"  {milliseconds:7.1f}  {what}")


def profiled(path: Path, image: UInt8Array, rounds: int = 5) -> Iterator[tuple[str, str, float]]:
    """Yield kind, kernel ("1x1" or "") and least milliseconds of each node, in the order in which they run."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3  # that such a file is for this machine only is known
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(rounds):
            session.run(None, {"image": image})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = Graph(onnx.load(Path(folder) / "optimized.onnx"))
    kernels = {}
    for node in graph.nodes:
        weights = [graph.constants[name] for name in node.input if name in graph.constants]
        kernels[node.name] = "1x1" if any(weight.shape[2:] == (1, 1) for weight in weights) else ""
    times: dict[str, list[float]] = {}
    kind_of = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node_name = event["name"].removesuffix("_kernel_time")
            times.setdefault(node_name, []).append(event["dur"] / 1e3)
            kind_of[node_name] = event["args"]["op_name"]
    for node_name, durations in times.items():
        yield kind_of[node_name], kernels.get(node_name, ""), min(durations)


if __name__ == "__main__":
    main()
