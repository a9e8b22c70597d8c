"""What a report costs, and its detection scores beside published implementations.

    python benchmarks/report.py cost [--images 1000] [--models 1]
    pip install pyaupro adeval && python benchmarks/report.py published

``cost`` evaluates a stand-in for a model on made-up tiles of 512x512 pixels; its own time is printed too.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, label

from flexunet_pl.cli.report import parse
from flexunet_pl.core.types import Pair
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, read_image
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE, draw_sample
from flexunet_pl.evaluation.curves import AUPRO_LIMIT, DetectionHistogram
from flexunet_pl.evaluation.models import Clock, ImagePrediction
from flexunet_pl.report.writer import write_report

SIDE = 512
DRAWN = 20


class StandIn:
    """Knows the truth, blurs it and adds noise: as unsure along edges and as wrong in places as a model is."""

    def __init__(self, path: Path) -> None:
        """Know nothing yet."""
        self.palette: Palette | None = Palette.from_mapping(TILE_PALETTE)
        self.facts: dict[str, Any] = {"kind": "stand-in", "path": str(path)}
        self.clock = Clock()
        self._known: dict[int, npt.NDArray[np.float32]] = {}

    def predict(self, pair: Pair) -> ImagePrediction:
        """Segment the image of a pair."""
        image = read_image(pair.image, ReadingRules())
        with self.clock.running():
            number = int(pair.name.removeprefix("part_")) % DRAWN
            if number not in self._known:
                self._known[number] = self._chances(pair)
            chances = self._known[number]
            return ImagePrediction(image, chances.argmax(axis=2).astype(np.uint8), chances)

    def _chances(self, pair: Pair) -> npt.NDArray[np.float32]:
        assert self.palette is not None  # noqa: S101  set above
        truth, _ = read_mask(pair.mask, self.palette, antialiased=False)
        rng = np.random.default_rng(sum(pair.name.encode()))
        logits = np.eye(len(self.palette), dtype=np.float32)[truth] * 7
        logits += np.kron(rng.normal(0, 2, (64, 64, len(self.palette))), np.ones((8, 8, 1))).astype(np.float32)
        logits[..., 0] += 3
        logits = gaussian_filter(logits, (2, 2, 0))
        chances = np.exp(logits - logits.max(axis=2, keepdims=True))
        return np.asarray(chances / chances.sum(axis=2, keepdims=True), dtype=np.float32)


def measure_cost(images: int, models: int) -> None:
    """Evaluate ``models`` stand-ins on ``images`` images and print what it took."""
    from PIL import Image

    palette = Palette.from_mapping(TILE_PALETTE)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        for kind in ("images", "masks"):
            (root / "test" / kind).mkdir(parents=True)
        palette.save(root / "palette.yaml")
        for number in range(images):
            names = [root / "test" / kind / f"part_{number}.png" for kind in ("images", "masks")]
            if number < DRAWN:
                image, mask_index = draw_sample((SIDE, SIDE), number, 0, 0)
                Image.fromarray(image).save(names[0])
                Image.fromarray(palette.decode(mask_index)).save(names[1])
            else:
                for name in names:
                    os.link(name.with_name(f"part_{number % DRAWN}.png"), name)
        stand_ins: list[StandIn] = []

        def open_stand_in(path: Path) -> StandIn:
            stand_ins.append(StandIn(path))
            return stand_ins[-1]

        out = Path(folder) / "out"
        request = parse([*(f"model{number}" for number in range(models)), str(root), "--out", str(out)])
        started = time.perf_counter()
        with patch("flexunet_pl.report.writer.open_model", open_stand_in):
            print("\n".join(write_report(request)))
        seconds = time.perf_counter() - started
        inside = sum(model.clock.seconds for model in stand_ins)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{images} images, {models} models: {seconds:.0f} s, of which the stand-in worked {inside:.0f} s")
        print(f"peak memory {memory:.2f} GiB, report.html {(out / 'report.html').stat().st_size / 1e6:.1f} MB")


def compare_with_published() -> None:
    """Print our detection scores beside those of torchmetrics and of the authors of MVTec AD."""
    from adeval.au_pro import trapezoid
    from pyaupro._reference import compute_pro
    from torch import from_numpy
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    print(f"{'':12}{'ours':>12}{'published':>12}")
    for decimals in (None, 2):
        rng = np.random.default_rng(0)
        noise = gaussian_filter(rng.normal(size=(8, 128, 128)), (0, 4, 4))
        truth = noise > np.quantile(noise, 0.93)
        scores = noise + gaussian_filter(rng.normal(size=noise.shape), (0, 2, 2)) * 0.5
        scores = (scores - scores.min()) / np.ptp(scores)
        scores = (scores if decimals is None else scores.round(decimals)).astype(np.float32)
        histogram = DetectionHistogram()
        for one, mask in zip(scores, truth, strict=True):
            histogram.add(one.reshape(-1), label(mask, structure=np.ones((3, 3)))[0].reshape(-1))
        ours = histogram.compute()
        flat = from_numpy(scores.reshape(-1)), from_numpy(truth.reshape(-1).astype(int))
        rates, overlaps = compute_pro(list(scores), list(truth.astype(int)))
        print("fine scores" if decimals is None else "many ties")
        for name, own, published in (
            ("AUROC", ours.auroc, float(binary_auroc(*flat))),
            ("AP", ours.average_precision, float(binary_average_precision(*flat))),
            ("AUPRO", ours.aupro, trapezoid(rates, overlaps, x_max=AUPRO_LIMIT) / AUPRO_LIMIT),
        ):
            print(f"  {name:<10}{own:>12.6f}{published:>12.6f}")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "published"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--models", type=int, default=1, choices=(1, 2))
    options = parser.parse_args()
    if options.what == "cost":
        measure_cost(options.images, options.models)
    else:
        compare_with_published()
    return 0


if __name__ == "__main__":
    sys.exit(main())
