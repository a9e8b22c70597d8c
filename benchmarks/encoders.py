"""Whether networks with the encoders of many families can be exported for any size, and what the files say.

    python benchmarks/encoders.py                     the encoders of ENCODERS, with a U-Net
    python benchmarks/encoders.py resnet18 mit_b0     these

Each is exported in a process of its own, which is stopped after ``--limit`` seconds, and compared with PyTorch on
images of noise in two sizes that are no multiples of anything. Weights are random.
"""

import argparse
import multiprocessing
import queue
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.export.onnx import MaskingNetwork, export_onnx
from flexunet_pl.export.verify import OnnxModel, compared
from flexunet_pl.nn.networks import build_network

ENCODERS = (
    *("tu-tf_efficientnet_lite0", "tu-tf_efficientnet_b0", "tu-tf_efficientnetv2_b0", "tu-tf_mobilenetv3_large_100"),
    *("tu-tf_mixnet_s", "tu-efficientnet_lite0", "tu-mobilenetv3_large_100", "tu-resnet18", "tu-regnety_002"),
    *("tu-convnext_atto", "tu-hrnet_w18_small", "tu-res2net50_26w_4s", "tu-mobilevitv2_050"),
    *("resnet18", "resnet34", "efficientnet-b0", "mobilenet_v2", "densenet121", "mobileone_s0", "mit_b0"),
)
SIZES = ((97, 131), (160, 75))


class Row(NamedTuple):
    """A row of the table."""

    encoder: str
    parameters: int
    seconds: float  # of the processor, for the export
    largest_probability_difference: float
    equal: float  # share of pixels with the same class

    def __str__(self) -> str:
        """Return a line of Markdown."""
        return (
            f"| {self.encoder} | {self.parameters / 1e6:.1f} M | {self.seconds:.0f} "
            f"| {self.largest_probability_difference:.1e} | {self.equal:.3%} |"
        )


def exported(network_name: str, encoder: str) -> Row:
    """Export a network with random weights and compare the file with it.

    Raises:
        UserError: If there is no such network, or torch cannot export it.
    """
    torch.manual_seed(0)
    network, _ = build_network({"name": network_name, "encoder": encoder}, 3, 3)
    network.eval()
    facts = {"num_classes": 3, "channels": 3, "size_multiple": network.size_multiple, "fixed_size": None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        began = time.process_time()
        export_onnx(network, facts, path)
        seconds = time.process_time() - began
        model = OnnxModel(path)
    masking, differences = MaskingNetwork(network, 3).eval(), []
    for height, width in SIZES:
        image = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        with torch.inference_mode():
            expected = [tensor.numpy() for tensor in masking(torch.from_numpy(image))]
        differences.append(compared(*model(image), expected[0], expected[1], margin=0))
    return Row(
        encoder,
        sum(parameter.numel() for parameter in network.parameters()),
        seconds,
        max(one.largest_probability_difference for one in differences),
        1 - sum(one.mask_disagreement for one in differences) / sum(one.pixels for one in differences),
    )


def _send(results: Any, network_name: str, encoder: str) -> None:
    try:
        results.put(str(exported(network_name, encoder)))
    except UserError as error:
        results.put(f"| {encoder} | refused: {error} | | | |")


def line_for(network_name: str, encoder: str, limit: float) -> str:
    """Return a line of the table, from a process that has ``limit`` seconds."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_send, args=(results, network_name, encoder))
    process.start()
    try:
        return str(results.get(timeout=limit))
    except queue.Empty:
        return f"| {encoder} | no result after {limit:.0f} s | | | |"
    finally:
        process.kill()
        process.join()


def main(words: Sequence[str] | None = None) -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="*", default=ENCODERS, help="(default: those of ENCODERS)")
    parser.add_argument("--network", default="unet", help="(default: unet)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for each (default: 120)")
    options = parser.parse_args(words)
    print("| encoder | parameters | processor seconds | largest difference of a probability | equal pixels of masks |")
    print("|---|---:|---:|---:|---:|")
    for encoder in options.encoders:
        print(line_for(options.network, encoder, options.limit), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
