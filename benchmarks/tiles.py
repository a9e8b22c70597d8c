"""What tiles cost: disagreement with the whole image by overlap and distance to the seam, and memory on large files.

    python benchmarks/tiles.py overlap BUNDLE
    python benchmarks/tiles.py large BUNDLE

Pictures are the demo's made-up tiles, several of them set side by side.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.synthetic.dataset import draw_sample
from flexunet_pl.inference.onnx_infer import Model, most_probable, tiled_rows

UInt8Array = npt.NDArray[np.uint8]

# Inference in a process of its own, which ends by telling its peak memory. What resource tells of it would begin with
# what its parent held when it was started.
WITH_PEAK = """
import sys
from pathlib import Path
from flexunet_pl.inference.onnx_infer import main
main(sys.argv[1:])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
# Bands of distance to the nearest seam, in pixels, in which disagreement is counted.
DISTANCES = (0, 4, 8, 16, 32, 64, 128)


def draw_large_image(side: int, patch: int, seed: int) -> UInt8Array:
    """Return made-up tiles of ``patch`` pixels set side by side, cut askew, uint8 (side, side, 3)."""
    count = side // patch + 2
    pictures = [draw_sample((patch, patch), seed * count**2 + number, 0, 1)[0] for number in range(count**2)]
    rows = [np.concatenate(pictures[row * count : (row + 1) * count], axis=1) for row in range(count)]
    shift = patch // 3
    return np.concatenate(rows)[shift : shift + side, shift : shift + side]


def run_overlap(options: argparse.Namespace) -> None:
    """Print how often tiles and the whole image disagree, by overlap and by distance to the nearest seam."""
    model = Model(options.model)
    images = [draw_large_image(options.size, options.patch, seed) for seed in range(options.count)]
    wholes = [model.run(image[None])[0][0] for image in images]
    headers = [f"{low} to {high - 1}" for low, high in itertools.pairwise(DISTANCES)]
    print(
        f"{options.count} images of {options.size}x{options.size}, tiles of {options.tile}; pixels in a million whose"
    )
    print("class is not the whole image's, by distance to the nearest seam (the middle of an overlap)\n")
    print(f"| overlap | all pixels | {' | '.join(headers)} | largest probability difference | work |")
    print("|---" * (len(headers) + 4) + "|")
    for overlap in options.overlaps:
        tiling = model.tiling(options.tile, overlap)
        spans = tiling.along(options.size)
        seams = np.array([(end + start) / 2 for (_, end, _), (start, _, _) in itertools.pairwise(spans)])
        away = abs(np.arange(options.size)[:, None] + 0.5 - seams).min(axis=1)
        distance = np.minimum(away[:, None], away[None, :])
        wrong, largest = np.zeros(distance.shape), 0.0
        for image, whole in zip(images, wholes, strict=True):
            size = (options.size, options.size)
            rows = tiled_rows(iter([image]), size, lambda tile: model.run(tile)[0], tiling)
            tiled = np.concatenate([block.copy() for block in rows])
            wrong += most_probable(tiled) != most_probable(whole)
            largest = max(largest, float(abs(tiled - whole).max()))
        cells = [
            wrong[(distance >= low) & (distance < high)].mean() / options.count * 1e6
            for low, high in itertools.pairwise(DISTANCES)
        ]
        work = sum(end - start for start, end, _ in spans) ** 2 / options.size**2
        shown = " | ".join(f"{cell:.0f}" for cell in [wrong.mean() / options.count * 1e6, *cells])
        print(f"| {overlap} | {shown} | {largest:.3f} | {work:.2f} |")


def run_large(options: argparse.Namespace) -> None:
    """Print time and peak memory of a large tiled TIFF, segmented in a process of its own; on Linux."""
    import tifffile

    body = zlib.compress(draw_sample((256, 256), 0, 0, 1)[0].tobytes())
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "large.tif", (options.size, options.size, 3)
        layout: dict[str, Any] = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib", "bigtiff": True}
        count = (-(-options.size // 256)) ** 2
        tifffile.imwrite(path, (body for _ in range(count)), shape=shape, dtype=np.uint8, **layout)
        command = [sys.executable, "-c", WITH_PEAK, options.model, str(path)]
        command += ["--out", str(Path(folder) / "masks"), "--tile", str(options.tile)]
        command += [] if options.overlap is None else ["--overlap", str(options.overlap)]
        begin = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - begin
    print(f"{options.size}x{options.size}: {seconds:.0f} s")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"overlap": run_overlap, "large": run_large}
DEFAULT_SIZES = {"overlap": 1536, "large": 30_000}


def numbers(text: str) -> list[int]:
    """Parse whole numbers separated by commas."""
    return [int(part) for part in text.split(",")]


def main(argv: Sequence[str]) -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("model", help="a bundle or an .onnx file")
    parser.add_argument("--size", type=int, help="side of the images (overlap: 1536, large: 30000)")
    parser.add_argument("--tile", type=int, default=512, help="side of the tiles")
    parser.add_argument("--overlap", type=int, help="large: how far they overlap")
    parser.add_argument("--count", type=int, default=4, help="overlap: number of images")
    parser.add_argument("--overlaps", type=numbers, default=[0, 32, 64, 128, 192, 256], help="overlap: which to try")
    parser.add_argument("--patch", type=int, default=256, help="overlap: side of the tiles the network was trained on")
    options = parser.parse_args(argv)
    options.size = DEFAULT_SIZES[options.command] if options.size is None else options.size
    COMMANDS[options.command](options)


if __name__ == "__main__":
    main(sys.argv[1:])
