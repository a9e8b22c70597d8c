"""A service under load on loopback: throughput beside bare onnxruntime, latency, memory, and hostile bodies.

    python benchmarks/serve.py exports/tile dataset/tile/valid/images --requests 200

The same images go through bare onnxruntime, decoded before, and as files through the service, by as many clients as
``--clients`` says, several rounds in turn. Clients and service share the machine, so the service alone is a little
faster than shown. Then ``--memory_requests`` requests of one small image each show whether memory grows, and
``--hostile`` broken bodies whether the service still answers.
"""

import argparse
import io
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
from PIL import Image

from flexunet_pl.inference.onnx_infer import Model, find_images, read_image, working_image

ROUNDS = 3
TAIL = 0.99
MIB = 1 << 20


@contextmanager
def service(bundle: Path, threads: int) -> Iterator[tuple[str, int]]:
    """Run ``flexunet serve`` on a free port; yield its address and process number."""
    words = [sys.executable, "-m", "flexunet_pl", "serve", str(bundle), "--port", "0", "--threads", str(threads)]
    process = subprocess.Popen([*words, "--queue", "1000"], stderr=subprocess.PIPE, text=True)
    try:
        line = ""
        while " at http://" not in line:
            line = process.stderr.readline() if process.stderr else ""
            if not line:
                raise SystemExit("the service did not start")
        yield line.partition(" at ")[2].partition(";")[0], process.pid
    finally:
        process.terminate()
        process.wait()


def bare(bundle: Path, images: Sequence[Path], threads: int, requests: int) -> float:
    """Return images a second of a loop around onnxruntime, on decoded images."""
    labels = Model(bundle).labels
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
    arrays = [working_image(read_image(path, labels), labels)[0][None] for path in images]
    session.run(None, {"image": arrays[0]})
    started = time.perf_counter()
    for array in itertools.islice(itertools.cycle(arrays), requests):
        session.run(None, {"image": array})
    return requests / (time.perf_counter() - started)


def served(address: str, contents: Sequence[bytes], clients: int, requests: int) -> tuple[float, list[float]]:
    """Return images a second through the service, and the seconds that each request took."""
    with httpx.Client(limits=httpx.Limits(max_connections=clients), timeout=120) as client:

        def ask(content: bytes) -> float:
            started = time.perf_counter()
            client.post(f"{address}/predict", content=content).raise_for_status()
            return time.perf_counter() - started

        ask(contents[0])
        with ThreadPoolExecutor(clients) as threads:
            started = time.perf_counter()
            seconds = list(threads.map(ask, itertools.islice(itertools.cycle(contents), requests)))
            return requests / (time.perf_counter() - started), seconds


def resident(process: int) -> float:
    """Return the MiB of memory that a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Return the content of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def hostile_bodies(count: int) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Yield path, body and headers of broken requests: noise, torn and changed images, bombs and torn forms."""
    chance = random.Random(0)
    whole = png(np.zeros((64, 64, 3), np.uint8))
    bomb = png(np.zeros((20_000, 10_000), np.uint8))
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for _ in range(count):
        noise = chance.randbytes(chance.randrange(5000))
        changed = bytearray(whole)
        for _ in range(5):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        yield chance.choice(
            [
                ("/predict", noise, {}),
                ("/predict", whole[: chance.randrange(len(whole))], {}),
                ("/predict/mask", bytes(changed), {}),
                ("/predict", bomb, {}),
                ("/batch", noise, form),
                ("/batch", b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + noise, form),
                ("/predict?model=../../etc", whole, {}),
            ]
        )


def main(words: Sequence[str] | None = None) -> int:
    """Do what the module says and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", help="folder of images")
    parser.add_argument("--requests", type=int, default=100, help="in each round")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of onnxruntime, in both")
    parser.add_argument("--memory_requests", type=int, default=10_000)
    parser.add_argument("--hostile", type=int, default=1000)
    options = parser.parse_args(words)
    images = find_images([options.images])[:16]
    contents = [path.read_bytes() for path in images]
    rates: dict[str, list[float]] = {"onnxruntime": [], "service": []}
    seconds: list[float] = []
    with service(options.bundle, options.threads) as (address, process):
        for _ in range(ROUNDS):
            rates["onnxruntime"].append(bare(options.bundle, images, options.threads, options.requests))
            rate, took = served(address, contents, options.clients, options.requests)
            rates["service"].append(rate)
            seconds += took
        medians = {name: statistics.median(found) for name, found in rates.items()}
        share = medians["service"] / medians["onnxruntime"]
        slowest = sorted(seconds)[int(TAIL * len(seconds))]
        print("| | images a second |\n|---|---:|")
        print("".join(f"| {name} | {rate:.2f} |\n" for name, rate in medians.items()), end="")
        print(f"\nservice / onnxruntime: {share:.2f}; {options.clients} clients, {options.threads} threads")
        print(f"latency: median {statistics.median(seconds):.3f} s, 99th percentile {slowest:.3f} s")
        small = [png(np.full((32, 32, 3), 128, np.uint8))]
        served(address, small, options.clients, max(1, options.memory_requests // 10))
        before = resident(process)
        served(address, small, options.clients, options.memory_requests)
        print(f"memory after {options.memory_requests} requests: {before:.0f} -> {resident(process):.0f} MiB")
        statuses: dict[int, int] = {}
        with httpx.Client(timeout=120) as client:
            for path, body, headers in hostile_bodies(options.hostile):
                status = client.post(address + path, content=body, headers=headers).status_code
                statuses[status] = statuses.get(status, 0) + 1
            alive = client.get(f"{address}/health").status_code
        listed = ", ".join(f"{count} of status {status}" for status, count in sorted(statuses.items()))
        print(f"hostile bodies: {listed}; then /health {alive}, {resident(process):.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
