r"""Images per second and Dice of whole networks with each engine and precision, side by side in one process.

    python benchmarks/engines.py FlexUNet=exports/tile@runs/tile-1/checkpoints/last.ckpt \
        default=exports/default@runs/default-1/checkpoints/last.ckpt --data PATH/mvtec-tile-mini/valid

Each argument is NAME=BUNDLE@CHECKPOINT; a bundle with model.int8.onnx is measured in 8 bits too. In each round every
engine of every network works on one image, batch 1, so that a machine that slows down slows all of them. Times are
medians over the rounds: by the clock, and as processor time of all threads, which says more on a busy machine. Dice is
the mean over the foreground classes at the working size, over all images of ``--data``, for the networks of ``--dice``
(all, unless it names some).
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from inference import Segment, load

from flexunet_pl.data.samples import ReadingRules
from flexunet_pl.export.int8.calibration import Pictures
from flexunet_pl.nn.score_table import ScoreTable, confusion_matrix
from flexunet_pl.training.task import SegmentationTask

UInt8Array = npt.NDArray[np.uint8]
Key = tuple[str, str]  # names of a network and of a variant
FLOAT, EIGHT_BITS = "model.onnx", "model.int8.onnx"
IMAGES = 4  # to take times of


class Variant(NamedTuple):
    """A row of the table."""

    name: str
    engine: str
    precision: str = "fp32"
    file: str = FLOAT


VARIANTS = (
    Variant("onnxruntime fp32", "onnxruntime"),  # what the others are compared with
    Variant("onnxruntime int8", "onnxruntime", file=EIGHT_BITS),
    Variant("OpenVINO fp32", "openvino"),
    Variant("OpenVINO bf16", "openvino", "bf16"),
    Variant("OpenVINO int8", "openvino", file=EIGHT_BITS),
    Variant("torch fp32", "torch"),
    Variant("torch bf16, channels_last", "torch", "bf16"),
)


class Network(NamedTuple):
    """A bundle and the checkpoint it was exported from."""

    name: str
    bundle: Path
    checkpoint: Path

    @classmethod
    def parsed(cls, text: str) -> "Network":
        """Parse NAME=BUNDLE@CHECKPOINT."""
        name, _, paths = text.partition("=")
        bundle, _, checkpoint = paths.partition("@")
        if not (Path(bundle) / FLOAT).is_file() or not Path(checkpoint).is_file():
            raise argparse.ArgumentTypeError(f"{text!r}: give NAME=BUNDLE@CHECKPOINT, a folder and a file that exist")
        return cls(name, Path(bundle), Path(checkpoint))

    def segments(self, threads: int) -> dict[str, Segment]:
        """Load the variants that the bundle has files for."""
        loaded = dict[str, Segment]()
        for variant in VARIANTS:
            path = self.checkpoint if variant.engine == "torch" else self.bundle / variant.file
            setup = {"path": str(path), "engine": variant.engine, "threads": threads, "precision": variant.precision}
            if path.is_file():
                loaded[variant.name] = load(setup | {"kind": "torch" if variant.engine == "torch" else "model"})
        return loaded

    def pictures(self, folder: Path, antialiased_masks: bool) -> Pictures:
        """Return the images and masks of a folder, as this network works on them."""
        task = SegmentationTask.from_checkpoint(self.checkpoint)
        rules = ReadingRules(task.hparams["in_channels"], task.hparams["sixteen_bit"], antialiased_masks)
        return Pictures.in_folder(folder, task.palette, task.sizing, rules)


def mean_dice(segment: Segment, pictures: Pictures) -> float | None:
    """Return the mean foreground Dice over all pictures."""
    classes = len(pictures.palette)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for image, mask in zip(pictures.images(), pictures.masks(), strict=True):
        confusion += confusion_matrix(mask, segment(image[None])[1][0], classes)
    return ScoreTable(confusion)["mean_foreground_dice"]


class Speed(NamedTuple):
    """Median seconds of an image."""

    clock: float
    processor: float  # of all threads


def measured(segments: dict[Key, Segment], images: dict[str, list[UInt8Array]], rounds: int) -> dict[Key, Speed]:
    """Return the speed of each network and variant; in a round, each works on one image of its network."""
    taken: dict[Key, list[Speed]] = {key: [] for key in segments}
    for number in range(rounds + 1):
        for key, segment in segments.items():
            image = images[key[0]][number % len(images[key[0]])][None]
            began, processor = time.perf_counter(), time.process_time()
            segment(image)
            if number:  # the first round warms up
                taken[key].append(Speed(time.perf_counter() - began, time.process_time() - processor))
    return {key: Speed(*map(statistics.median, zip(*speeds, strict=True))) for key, speeds in taken.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", type=Network.parsed, metavar="NAME=BUNDLE@CHECKPOINT")
    parser.add_argument("--data", type=Path, required=True, help="a folder with images and masks, such as a split")
    parser.add_argument("--antialiased_masks", action="store_true", help="as in data.antialiased_masks")
    parser.add_argument("--dice", nargs="*", help="names of networks (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--rounds", type=int, default=11, help="(default: 11)")
    options = parser.parse_args(words)
    pictures = {one.name: one.pictures(options.data, options.antialiased_masks) for one in options.networks}
    images = {name: list(itertools.islice(some.images(), IMAGES)) for name, some in pictures.items()}
    segments = {
        (one.name, variant): segment
        for one in options.networks
        for variant, segment in one.segments(options.threads).items()
    }
    speeds = measured(segments, images, options.rounds)
    print(f"{options.threads} threads, batch 1, medians of {options.rounds} rounds\n")
    print("| network | | images/s | times onnxruntime fp32 | images per processor second | times | mDice |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for (name, variant), segment in segments.items():
        speed, first = speeds[name, variant], speeds[name, VARIANTS[0].name]
        counts = options.dice is None or name in options.dice
        dice = mean_dice(segment, pictures[name]) if counts else None
        print(
            f"| {name} | {variant} | {1 / speed.clock:.2f} | {first.clock / speed.clock:.2f} "
            f"| {1 / speed.processor:.2f} | {first.processor / speed.processor:.2f} "
            f"| {'' if dice is None else f'{dice:.4f}'} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
