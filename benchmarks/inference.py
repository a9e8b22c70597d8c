"""How fast, how large and how alike: engines, session options, whole folders.

    python benchmarks/inference.py speed BUNDLE [--ckpt CKPT]   engines x precisions x threads
    python benchmarks/inference.py options BUNDLE               session options of onnxruntime
    python benchmarks/inference.py files BUNDLE                 files in, masks out, against the engine alone

Each measurement of ``speed`` and ``options`` runs in a process of its own, since memory is a property of a process,
and all of them take turns, so that a machine that slows down slows all of them. Processor time (an
image, all threads) stands beside wall time, for on a busy machine only it says much. Pictures are the demo's made-up
tiles. benchmarks/tiles.py measures tiles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from memory import peak_mib
from PIL import Image

from flexunet_pl.data.synthetic.dataset import draw_sample
from flexunet_pl.inference.onnx_infer import Model, infer_files, most_probable, working_image

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Segment = Callable[[UInt8Array], tuple[FloatArray, UInt8Array]]

PROBES = 4
MARGIN = 1e-4


def draw_images(count: int, size: int, channels: int) -> list[UInt8Array]:
    """Return made-up tiles uint8 (size, size, channels); a fourth channel is the first one again, and so on."""
    pictures = [draw_sample((size, size), source, 0, 1)[0] for source in range(count)]
    return [np.take(picture, np.arange(channels) % 3, axis=2) for picture in pictures]


# --- one measurement, in a process of its own


def load(setup: dict[str, Any]) -> Segment:
    """Return what ``setup`` describes: {"kind": "model", ...}, {"kind": "session", ...} or {"kind": "torch", ...}."""
    return {"model": load_model, "session": load_session, "torch": load_torch}[setup["kind"]](setup)


def load_model(setup: dict[str, Any]) -> Segment:
    """Load as ``infer`` does."""
    model = Model(setup["path"], setup["engine"], setup["threads"], setup["precision"])
    return lambda images: model.run(images)[:2]


def load_session(setup: dict[str, Any]) -> Segment:
    """Load an onnxruntime session with options of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup["threads"]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, setup["level"])
    options.add_session_config_entry("session.intra_op.allow_spinning", setup["spinning"])
    session = onnxruntime.InferenceSession(setup["path"], options, providers=["CPUExecutionProvider"])

    def segment(images: UInt8Array) -> tuple[FloatArray, UInt8Array]:
        probabilities, mask_index = session.run(["probabilities", "mask"], {"image": images})
        return probabilities, mask_index

    return segment


def load_torch(setup: dict[str, Any]) -> Segment:
    """Load a checkpoint into PyTorch, eager."""
    import torch

    from flexunet_pl.training.task import SegmentationTask

    torch.set_num_threads(setup["threads"])
    network = SegmentationTask.load_from_checkpoint(setup["path"], map_location="cpu", weights_only=True).network.eval()
    if setup["precision"] == "bf16":
        network = network.to(memory_format=torch.channels_last)

    def segment(images: UInt8Array) -> tuple[FloatArray, UInt8Array]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=setup["precision"] == "bf16"):
            logits = network(torch.from_numpy(images).permute(0, 3, 1, 2)).float()
        both = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
        probabilities = both.permute(0, 2, 3, 1).numpy()
        return probabilities, most_probable(probabilities)

    return segment


def measure(setup: dict[str, Any]) -> None:
    """Measure one setup and print its times and its peak memory as JSON; outputs for the probes go to setup["out"]."""
    images = np.load(setup["images"])
    segment = load(setup)
    outputs = [segment(image[None])[0][0] for image in images]  # the first runs warm up
    if setup["out"]:
        np.save(setup["out"], np.stack(outputs))
    durations: list[float] = []
    started, cpu_started = time.perf_counter(), time.process_time()
    while len(durations) < 3 or time.perf_counter() - started < setup["seconds"]:
        begin = time.perf_counter()
        segment(images[len(durations) % len(images)][None])
        durations.append((time.perf_counter() - begin) * 1e3)
    cpu_ms = (time.process_time() - cpu_started) / len(durations) * 1e3
    print(json.dumps({"ms": durations, "cpu_ms": cpu_ms, "peak_mib": peak_mib()}))


def compare(setups: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Measure setups in turns and print a table; the first one is what the others are compared with."""
    images = np.stack(draw_images(PROBES, options.size, Model(options.model).labels.channels))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in setups}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images)
        for turn in range(options.turns):
            for number, (name, setup) in enumerate(setups.items()):
                out = str(Path(folder) / f"{number}.npy") if turn == 0 else ""
                setup = setup | {"images": f"{folder}/images.npy", "out": out, "seconds": options.seconds}
                command = [sys.executable, __file__, "measure", json.dumps(setup)]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                results[name].append(json.loads(result.stdout.splitlines()[-1]))
        outputs = [np.load(Path(folder) / f"{number}.npy") for number in range(len(setups))]
    print(f"{options.size}x{options.size}, batch 1, {options.turns} turns; compared with {next(iter(setups))}\n")
    print(
        "| | ms | processor ms | images/s | times as fast | peak MiB | largest difference | mask agreement "
        "| where margin > 1e-4 |"
    )
    print("|---" * 9 + "|")
    first = 0.0
    for (name, measured), probabilities in zip(results.items(), outputs, strict=True):
        ms = statistics.median(duration for result in measured for duration in result["ms"])
        first = first or ms
        peak = max(result["peak_mib"] for result in measured)
        cpu_ms = statistics.median(result["cpu_ms"] for result in measured)
        alike = agreement(probabilities, outputs[0])
        print(f"| {name} | {ms:.0f} | {cpu_ms:.0f} | {1e3 / ms:.2f} | {first / ms:.2f} | {peak:.0f} | {alike} |")


def agreement(probabilities: FloatArray, reference: FloatArray) -> str:
    """Return three cells: largest difference, share of equal pixels, and that among pixels with a clear margin."""
    same = most_probable(probabilities) == most_probable(reference)
    ranked = np.sort(reference, axis=-1)
    margin = abs(2 * ranked[..., -1] - 1) if ranked.shape[-1] == 1 else ranked[..., -1] - ranked[..., -2]
    difference = abs(probabilities - reference).max()
    return f"{difference:.1e} | {same.mean():.4%} | {same[margin > MARGIN].mean():.4%}"


def run_speed(options: argparse.Namespace) -> None:
    """Print engines x precisions x threads."""
    bundle = Path(options.model) if Path(options.model).is_dir() else Path(options.model).parent
    path = bundle / "model.onnx" if Path(options.model).is_dir() else Path(options.model)
    files = {"": path} | ({", int8 file": bundle / "model.int8.onnx"} if (bundle / "model.int8.onnx").is_file() else {})
    setups: dict[str, dict[str, Any]] = {}
    for threads in options.threads:
        with_threads = f", {threads} threads"
        if options.ckpt:
            for precision in ("fp32", "bf16"):
                setup = {"kind": "torch", "path": options.ckpt, "threads": threads, "precision": precision}
                setups[f"torch {precision}{with_threads}"] = setup
        for suffix, file in files.items():
            for engine, precision in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
                setup = {
                    "kind": "model",
                    "path": str(file),
                    "engine": engine,
                    "threads": threads,
                    "precision": precision,
                }
                setups[f"{engine} {precision}{suffix}{with_threads}"] = setup
    compare(setups, options)


def run_options(options: argparse.Namespace) -> None:
    """Print session options of onnxruntime."""
    path = Path(options.model) / "model.onnx" if Path(options.model).is_dir() else Path(options.model)
    setups = {}
    for threads in options.threads:
        for level in ("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED"):
            for spinning in ("0", "1"):
                setup = {"kind": "session", "path": str(path), "threads": threads, "level": level, "spinning": spinning}
                setups[f"{level}, spinning {spinning}, {threads} threads"] = setup
    compare(setups, options)


def run_files(options: argparse.Namespace) -> None:
    """Print images/s of files in, masks out, against the engine alone, in turns."""
    print(f"{options.count} PNG files of {options.size}x{options.size}, {options.turns} turns\n")
    print("| engine | engine alone, images/s | files to masks, images/s | share |\n|---|---|---|---|")
    for engine, precision in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
        model = Model(options.model, engine, precision=precision)
        images = draw_images(PROBES, options.size, model.labels.channels)
        alone, whole = [], []
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{number:04}.png" for number in range(options.count)]
            for number, file in enumerate(files):
                Image.fromarray(images[number % PROBES].squeeze()).save(file)
            ready = [working_image(image, model.labels)[0][None] for image in images]
            model.run(ready[0])
            for _ in range(options.turns):
                begin = time.perf_counter()
                for number in range(options.count):
                    model.run(ready[number % PROBES])
                alone.append(options.count / (time.perf_counter() - begin))
                begin = time.perf_counter()
                infer_files(model, files, Path(folder) / "masks", [], None, options.size**2)
                whole.append(options.count / (time.perf_counter() - begin))
        engine_speed, file_speed = statistics.median(alone), statistics.median(whole)
        print(f"| {engine} {precision} | {engine_speed:.2f} | {file_speed:.2f} | {file_speed / engine_speed:.1%} |")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "speed": run_speed,
    "options": run_options,
    "files": run_files,
}


def numbers(text: str) -> list[int]:
    """Parse whole numbers separated by commas."""
    return [int(part) for part in text.split(",")]


def main(argv: Sequence[str]) -> None:
    """Run one benchmark."""
    if argv[:1] == ["measure"]:
        measure(json.loads(argv[1]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("model", help="a bundle or an .onnx file")
    parser.add_argument("--ckpt", help="speed: also measure PyTorch with this checkpoint")
    parser.add_argument("--size", type=int, default=512, help="side of the images")
    parser.add_argument("--threads", type=numbers, default=[os.cpu_count()], help="speed, options: such as 1,2,4")
    parser.add_argument("--turns", type=int, default=3, help="speed, options, files: how often each is measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="speed, options: time for each measurement")
    parser.add_argument("--count", type=int, default=200, help="files: number of images")
    options = parser.parse_args(argv)
    COMMANDS[options.command](options)


if __name__ == "__main__":
    main(sys.argv[1:])
