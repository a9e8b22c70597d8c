"""How long audit and prepare take, and how much memory: `python benchmarks/data.py`.

Made-up pairs are written to a temporary folder, then each command runs in a process of its own. Processor time counts
all threads, so that a busy machine does not blur it; peak memory is that of the process. The second part has small
pictures and ten times as many of them: where the peak does not grow with their number, memory is flat.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.data.palette import Palette

PALETTE = Palette.from_mapping({"background": [0, 0, 0], "crack": [0, 0, 255], "oil": [255, 255, 0]})
MEASURED = """
import resource, sys, time
from flexunet_pl.cli.main import main
start, begin = time.process_time(), time.perf_counter()
code = main(sys.argv[1:])
seconds, wall = time.process_time() - start, time.perf_counter() - begin
print("measured", code, seconds, wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
TRAINING = """
import resource, sys, time
from flexunet_pl.data.datamodule import SegmentationDataModule
start, begin = time.process_time(), time.perf_counter()
module = SegmentationDataModule(root=sys.argv[1], image_size=64, batch_size=8, num_workers=0)
module.prepare("fit")
for _ in module.train_dataloader():
    pass
seconds, wall = time.process_time() - start, time.perf_counter() - begin
print("measured", 0, seconds, wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write_pairs(root: Path, count: int, size: int) -> None:
    """Write ``count`` different pairs as JPEG and PNG: grainy surfaces with a square defect, one in five validates."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
    for number in range(count):
        grain = rng.normal(128, 40, (size // 4, size // 4)).clip(0, 255).astype(np.uint8)
        surface = np.asarray(Image.fromarray(grain).resize((size, size), Image.Resampling.BICUBIC))
        image = np.repeat(surface[..., None], 3, axis=2)
        mask_index = np.zeros((size, size), dtype=np.uint8)
        row, column = rng.integers(size // 2, size=2)
        mask_index[row : row + size // 8, column : column + size // 8] = 1 + number % 2
        folder = root / ("valid" if number % 5 == 0 else "train")
        name = f"{('crack', 'oil')[number % 2]}_{number}"
        Image.fromarray(image).save(folder / "images" / f"{name}.jpg", quality=90)
        Image.fromarray(PALETTE.decode(mask_index)).save(folder / "masks" / f"{name}.png")
    PALETTE.save(root / "palette.yaml")


def measure(program: str, *arguments: str) -> tuple[float, float, float]:
    """Run a program in a process of its own and return its processor seconds, wall seconds and peak in MB."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    _, code, seconds, wall, peak = done.stdout.splitlines()[-1].split()
    if code != "0":
        raise RuntimeError(f"{' '.join(arguments)} returned {code}\n{done.stdout}\n{done.stderr}")
    return float(seconds), float(wall), float(peak)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="pairs of 512x512")
    parser.add_argument("--many", type=int, default=10_000, help="pairs of 64x64")
    options = parser.parse_args()
    print(f"{'':34}{'processor s':>12}{'wall s':>9}{'peak MB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for count, size in ((options.images, 512), (options.many // 10, 64), (options.many, 64)):
            root = Path(folder) / f"{count}x{size}"
            write_pairs(root, count, size)
            rows = {"audit": measure(MEASURED, "audit", str(root), "--out", str(root) + "-audit")}
            if size == 64:
                rows["one epoch of data"] = measure(TRAINING, str(root))
            else:
                rows["prepare pairs"] = measure(MEASURED, "prepare", "pairs", str(root), str(root) + "-out")
            for name, (seconds, wall, peak) in rows.items():
                print(f"{name:20}{count:>7} {size}x{size}{seconds:>11.1f}{wall:>9.1f}{peak:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
