"""Compare our 8-bit export with onnxruntime's quantize_static: speed and masks, on networks trained for a minute.

    python benchmarks/int8_planners.py --folder /tmp/int8                  all networks, about ten minutes
    python benchmarks/int8_planners.py --folder /tmp/int8 --networks tile  one network

Each network is trained once on made-up tiles and kept in --folder. The variants of a network run in turn in one
process, so that a machine that slows down slows all of them; the speed is the ratio of medians to the float file.
"""

import argparse
import itertools
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

from flexunet_pl.data.synthetic.dataset import draw_sample
from flexunet_pl.export.int8.blocks import narrow_level_on_blocks
from flexunet_pl.export.int8.quantize import QUANTIZED, REWRITES, quantize_model
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings
from flexunet_pl.nn.losses import build_loss
from flexunet_pl.nn.score_table import ScoreTable, confusion_matrix
from flexunet_pl.nn.zoo import ZooNetwork, ZooSettings

UInt8Array = npt.NDArray[np.uint8]
Images = Sequence[UInt8Array]
Planner = Callable[[Path, Images, Path], None]
CLASSES = 6
LEARNING_RATE = 2e-3
POOL = 66  # made-up tiles to train on
TRAINING_SIDE, TEST_SIDE, TIMED_SIDE = 128, 384, 384
NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "tile": lambda: FlexUNet(CLASSES),
    "demo": lambda: FlexUNet(CLASSES, 3, FlexUNetSettings(8, 5, 5, normalization=True, input_normalize=True)),
    "unet": lambda: ZooNetwork("unet", CLASSES, 3, ZooSettings("resnet34")),
    "deeplabv3plus": lambda: ZooNetwork("deeplabv3plus", CLASSES, 3, ZooSettings("resnet34")),
    "segformer": lambda: ZooNetwork("segformer", CLASSES, 3, ZooSettings("mit_b0")),
}


def static(method: CalibrationMethod) -> Planner:
    """Return quantize_static with one of its ways to choose ranges; the last convolution stays in float, as in ours."""

    def plan(source: Path, images: Images, path: Path) -> None:
        convolutions = [node.name for node in onnx.load(source).graph.node if node.op_type == "Conv"]
        quantize_static(
            source,
            path,
            _Reader(images),
            op_types_to_quantize=[*QUANTIZED, "ConvTranspose"],
            nodes_to_exclude=convolutions[-1:],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
        )

    return plan


def ours(source: Path, images: Images, path: Path) -> None:
    """Quantise as the export does."""
    quantize_model(source, images, path)


def ours_without_blocks(source: Path, images: Images, path: Path) -> None:
    """Quantise as the export does, but with the level of full resolution on pixels."""
    quantize_model(source, images, path, [rewrite for rewrite in REWRITES if rewrite is not narrow_level_on_blocks])


PLANNERS: dict[str, Planner] = {
    "quantize_static, MinMax": static(CalibrationMethod.MinMax),
    "quantize_static, Percentile": static(CalibrationMethod.Percentile),
    "quantize_static, Entropy": static(CalibrationMethod.Entropy),
    "ours, without blocks": ours_without_blocks,
    "ours": ours,
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, images: Images) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, UInt8Array] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}


def main() -> None:
    """Print one table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--planners", nargs="+", choices=PLANNERS, default=list(PLANNERS))
    parser.add_argument("--seconds", type=float, default=60, help="of training, for each network")
    parser.add_argument("--images", type=int, default=16, help="for calibration, and as many for the masks")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # onnxruntime recommends preprocessing that changes nothing here
    options.folder.mkdir(parents=True, exist_ok=True)
    samples = [draw_sample((TEST_SIDE, TEST_SIDE), source, 0, 1) for source in range(2 * options.images)]
    calibration = [image for image, _ in samples[::2]]
    timed = draw_sample((TIMED_SIDE, TIMED_SIDE), 0, 0, 2)[0][None]
    for network in options.networks:
        paths = {"float": float_file(network, options.folder, options.seconds)}
        for name in options.planners:
            path = options.folder / f"{network}-{name.replace(', ', '-').replace(' ', '_')}.onnx"
            PLANNERS[name](paths["float"], calibration, path)
            paths[name] = path
        print_table(network, paths, samples[1::2], timed, options.rounds)


def float_file(name: str, folder: Path, seconds: float) -> Path:
    """Return the exported float network, trained for ``seconds`` where ``folder`` does not have it yet."""
    path = folder / f"{name}-float.onnx"
    if not path.exists():
        torch.manual_seed(0)
        network = NETWORKS[name]()
        train(network, seconds)
        facts: dict[str, Any] = {"num_classes": CLASSES, "channels": 3, "fixed_size": None}
        export_onnx(network.eval(), facts | {"size_multiple": network.size_multiple}, path)
    return path


def train(network: torch.nn.Module, seconds: float, batch: int = 4) -> None:
    """Train on made-up tiles."""
    loss = build_loss({"cross_entropy": 1.0, "dice": 1.0}, CLASSES)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    pool = [draw_sample((TRAINING_SIDE, TRAINING_SIDE), source, 0, 0) for source in range(POOL)]
    images = torch.from_numpy(np.stack([image for image, _ in pool])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask for _, mask in pool]))
    end = time.process_time() + seconds
    for step in itertools.count():
        share = 1 - (end - time.process_time()) / seconds
        if share >= 1:
            print(f"trained for {step} steps")
            return
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - share)
        chosen = torch.randint(POOL, (batch,))
        axes = [axis for axis in (-2, -1) if torch.rand(()) < 0.5]
        value = loss(network(images[chosen].flip(axes)), masks[chosen].flip(axes))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


def session_of(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a file for a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def print_table(
    network: str,
    paths: dict[str, Path],
    samples: Sequence[tuple[UInt8Array, UInt8Array]],
    timed: UInt8Array,
    rounds: int,
) -> None:
    """Print agreement and speed of all files of a network."""
    masks = {
        name: [session_of(path, 1).run(["mask"], {"image": image[None]})[0][0] for image, _ in samples]
        for name, path in paths.items()
    }
    dice = {name: mean_dice(found, [mask for _, mask in samples]) for name, found in masks.items()}
    speed = {threads: medians(paths, timed, threads, rounds) for threads in (1, 2)}
    print(f"\n{network}: mDice {dice['float']:.4f} in float, {speed[1]['float']:.0f} ms on one thread\n")
    print("| | pixels as float | mDice - float | times float, 1 thread | 2 threads | MB |\n|---|---|---|---|---|---|")
    for name, path in paths.items():
        agreement = np.mean([(a == b).mean() for a, b in zip(masks[name], masks["float"], strict=True)])
        ratios = [speed[threads]["float"] / speed[threads][name] for threads in (1, 2)]
        print(
            f"| {name} | {agreement:.3%} | {dice[name] - dice['float']:+.4f} | {ratios[0]:.2f} | {ratios[1]:.2f} "
            f"| {path.stat().st_size / 1e6:.1f} |",
            flush=True,
        )


def mean_dice(masks: Sequence[UInt8Array], truths: Sequence[UInt8Array]) -> float:
    """Return the mean foreground Dice over all images together."""
    parts = [confusion_matrix(truth, mask, CLASSES) for truth, mask in zip(truths, masks, strict=True)]
    return float(ScoreTable(np.sum(parts, axis=0))["mean_foreground_dice"] or 0.0)


def medians(paths: dict[str, Path], image: UInt8Array, threads: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each file; all run in turn."""
    sessions = {name: session_of(path, threads) for name, path in paths.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(rounds + 1):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(["mask"], {"image": image})
            if number:  # the first is a warm-up
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
