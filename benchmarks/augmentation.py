"""How many 512x512 pairs a second one core augments, decoding excluded: `python benchmarks/augmentation.py`.

Each row is one preset, or one transform of the full preset at probability 1. Processor time of the one thread counts,
so that a busy machine does not blur the figures; wall time stands beside it. With `--compare`, the same changes by
torchvision.transforms.v2 follow, image and mask each where the change is geometric.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flexunet_pl.data.augment import PRESETS, Planes, build_augmentation

UInt8Array = npt.NDArray[np.uint8]
Change = Callable[[UInt8Array, UInt8Array], Any]
TARGETS = {"light": 150, "full": 25}


def made_up_pair(size: int, channels: int, seed: int) -> Planes:
    """Return a grainy surface uint8 (C, size, size) with one defect in the mask, laid out as a decoder leaves it."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(150, 25, (size, size, channels)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((size, size), dtype=np.uint8)
    row, column = rng.integers(size // 8, size // 2, 2)
    mask[row : row + size // 4, column : column + size // 6] = 1 + seed % 5
    return grain.transpose(2, 0, 1), mask


def augmenting(spec: Mapping[str, Any], pairs: list[Planes]) -> Change:
    """Return the function that augments one pair by ``spec``."""
    augmentation = build_augmentation(spec)
    rng = np.random.default_rng(0)

    def partner() -> Planes:
        return pairs[int(rng.integers(len(pairs)))]

    return lambda image, mask: augmentation(image, mask, rng, partner)


def torchvision_changes(channels: int) -> dict[str, Change]:
    """Return the changes that torchvision.transforms.v2 has, as functions of image and mask."""
    # Imported late: only the comparison pays for it.
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    def as_change(transform: Any) -> Change:
        return lambda image, mask: transform(tv_tensors.Image(np.ascontiguousarray(image)), tv_tensors.Mask(mask))

    transforms: dict[str, Any] = {
        "rotation": v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR),
        "scale and shear": v2.RandomAffine(0, scale=(0.8, 1.25), shear=6, interpolation=v2.InterpolationMode.BILINEAR),
        "perspective": v2.RandomPerspective(0.1, p=1),
        "elastic": v2.ElasticTransform(alpha=50.0, sigma=8.0),
        "brightness": v2.ColorJitter(brightness=0.2),
        "blur": v2.GaussianBlur(9, (0.3, 1.2)),
    }
    if channels == 3:
        transforms |= {"hue": v2.ColorJitter(hue=0.03), "sharpen": v2.RandomAdjustSharpness(2, p=1)}
    return {f"tv {name}": as_change(transform) for name, transform in transforms.items()}


def seconds_each(change: Change, pairs: list[Planes], count: int) -> tuple[float, float]:
    """Return processor and wall seconds of one pair, the medians of five rounds over ``count`` pairs in all."""

    def one_round(clock: Callable[[], float]) -> float:
        start = clock()
        for index in range(each):
            change(*pairs[index % len(pairs)])
        return (clock() - start) / each

    each = max(1, count // 10)
    one_round(time.perf_counter)
    processor = float(np.median([one_round(time.thread_time) for _ in range(5)]))
    wall = float(np.median([one_round(time.perf_counter) for _ in range(5)]))
    return processor, wall


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="side of the pictures in pixels")
    parser.add_argument("--channels", type=int, default=3, help="channels of the pictures")
    parser.add_argument("--count", type=int, default=500, help="pairs for each row")
    parser.add_argument("--compare", action="store_true", help="time torchvision's transforms too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [made_up_pair(arguments.size, arguments.channels, seed) for seed in range(8)]
    specs: dict[str, Mapping[str, Any]] = {f"preset {name}": {"preset": name} for name in PRESETS}
    specs |= {name: {name: dict(options) | {"p": 1}} for name, options in PRESETS["full"].items()}
    rows = {name: augmenting(spec, pairs) for name, spec in specs.items()}
    if arguments.compare:
        rows |= torchvision_changes(arguments.channels)
    print(f"{arguments.size}x{arguments.size}, {arguments.channels} channels, one thread, medians of five rounds")
    print(f"{'':16}{'ms':>8}{'wall ms':>9}{'pairs/s':>9}  target")
    for name, change in rows.items():
        count = arguments.count if name.startswith("preset") else arguments.count // 5
        processor, wall = seconds_each(change, pairs, count)
        target = TARGETS.get(name.removeprefix("preset "))
        verdict = "" if target is None else f"  {target}: {'met' if 1 / processor >= target else 'MISSED'}"
        print(f"{name:16}{1000 * processor:8.2f}{1000 * wall:9.2f}{1 / processor:9.0f}{verdict}")


if __name__ == "__main__":
    main()
