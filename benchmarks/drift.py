"""Whether the drift score flags a kind of defect that training never saw, beside a PatchCore of the same encoder.

    python benchmarks/drift.py --data shared/data --out results/drift --sets tile --time 2m

For each data set and each class of ``drift_sets.LEFT_OUT``, a network is trained by ``fit`` on the images without
that class. The AUROC then tells how far the drift score is higher for the images of that class than for held-out good
images, for held-out images of the known classes, and for the good areas of held-out images. A finished run is not
trained again. The table is printed and written to ``OUT/table.md``.

PatchCore is that of Roth et al. (CVPR 2022) without the re-weighting of its image score: ImageNet weights, the stages
of strides 8 and 16, neighbourhoods of 3x3 cells, a greedy coreset of 10 % of as many training patches as the drift
score takes, the distance of the farthest patch.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from drift_sets import LEFT_OUT, UNKNOWN, left_out_set
from quality import flexunet

from flexunet_pl.core.errors import UserError, print_user_error
from flexunet_pl.core.files import write_json, write_text
from flexunet_pl.core.types import Pair
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.evaluation import drift
from flexunet_pl.evaluation.drift import (
    MOST_PATCHES,
    Measured,
    calibration_distances,
    cross_validated_flags,
    measured,
    training_statistics,
)
from flexunet_pl.evaluation.drift_data import data_of
from flexunet_pl.nn.drift import DriftStatistics, greedy_coreset, pooled
from flexunet_pl.nn.networks import build_network
from flexunet_pl.nn.stages import outputs_of
from flexunet_pl.training.task import SegmentationTask

CORESET_SHARE = 0.1
PROJECTED = 32  # dimensions in which PatchCore's coreset is chosen
# The magnets are small pictures of many sizes, whose validation at native size takes longer than this training.
OPTIONS = {"magnets": ["--data.image_size", "192", "--data.resize", "letterbox"]}

FloatArray = npt.NDArray[np.float32]


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Return the probability that a positive score is above a negative one, ties counting half; None without any."""
    if not positive or not negative:
        return None
    above, below = np.asarray(positive)[:, None], np.asarray(negative)[None]
    return float((above > below).mean() + (above == below).mean() / 2)


def spread(module: SegmentationDataModule, split: str, most: int) -> SegmentationDataModule:
    """Make a module give at most ``most`` images of a split, evenly spread over it."""
    found, before = module.pairs(split), module.pairs
    places = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    chosen = {split: [found[place] for place in places]}

    def pairs(name: str) -> list[Pair]:
        return chosen[name] if name in chosen else before(name)

    module.pairs = pairs  # type: ignore[method-assign,assignment]  # a cut
    return module


def patchcore(task: SegmentationTask, module: SegmentationDataModule, like: DriftStatistics) -> DriftStatistics:
    """Return a PatchCore of the task's images as drift statistics; its encoder takes the place of the task's."""
    network, _ = build_network({"name": "unet"}, 2, task.hparams["in_channels"])
    task.network = network.eval()
    patches = []
    dataset = module.dataset(module.pairs("train"))
    for place in range(len(dataset)):
        with torch.inference_mode():
            stages = outputs_of(network, dataset[(0, place)]["image"][None]).stages
        cells = torch.cat(pooled([stages[place] for place in like.stages], like.strides), dim=1)
        patches.append(cells[0].flatten(1).T.numpy())
    everything = np.concatenate(patches)
    everything = everything[np.random.default_rng(0).permutation(len(everything))[:MOST_PATCHES]]
    projection = np.random.default_rng(0).normal(size=(everything.shape[1], PROJECTED)).astype(np.float32)
    chosen = coreset_places(everything @ projection, round(CORESET_SHARE * len(everything)))
    channels = everything.shape[1]
    identity, zero = np.eye(channels, dtype=np.float32), np.zeros(channels, np.float32)
    return DriftStatistics(like.stages, like.strides, identity, zero, everything[chosen])


def coreset_places(patches: FloatArray, size: int) -> list[int]:
    """Return the places of the greedy coreset of patches (n, D)."""
    numbered = {row.tobytes(): place for place, row in enumerate(patches)}
    return [numbered[row.tobytes()] for row in greedy_coreset(patches, size)]


def patchcore_rates(
    task: SegmentationTask, module: SegmentationDataModule, like: DriftStatistics, most: int
) -> dict[str, float | int | None]:
    """Return the row of PatchCore."""
    statistics = patchcore(task, module, like)
    with mock.patch.object(drift, "image_distance", lambda distances: distances.amax(1)):
        return rates(*(measured(task, one, "valid", statistics) for one in splits(task, module, most)))


def splits(
    task: SegmentationTask, module: SegmentationDataModule, most: int
) -> tuple[SegmentationDataModule, SegmentationDataModule]:
    """Return modules whose validation images are the held-out ones, and those with the unknown class."""
    root = module.layout.root
    if root is None:
        raise UserError("the data set has no root")
    folder = root / UNKNOWN
    reading = {key: task.hparams[key] for key in ("image_size", "resize", "sixteen_bit")}
    unknown = SegmentationDataModule(
        **reading,
        channels=task.hparams["in_channels"],
        palette=task.palette.to_mapping(),
        valid_images=str(folder / "images"),
        valid_masks=str(folder / "masks"),
    )
    return spread(module, "valid", most), spread(unknown, "valid", most)


def rates(held_out: list[Measured], unknown: list[Measured]) -> dict[str, float | int | None]:
    """Return counts, AUROCs and false flags."""
    scores = [one.distance for one in unknown]
    good = [one.distance for one in held_out if one.is_good]
    known = [one.distance for one in held_out if not one.is_good]
    areas = [one.distance_of_good_area for one in held_out if one.distance_of_good_area is not None]
    distances, _ = calibration_distances(held_out)
    flagged, images = cross_validated_flags(held_out, distances, 0.99)
    border = max(distances.values())
    return {
        "unknown": len(unknown),
        "good": len(good),
        "known": len(known),
        "auroc_good": auroc(scores, good),
        "auroc_known": auroc(scores, known),
        "auroc_good_areas": auroc(scores, areas),
        "flagged": sum(score > border for score in scores),
        "false_flags": flagged,
        "calibrated": images,
    }


def run(name: str, unknown: str, options: argparse.Namespace) -> dict[str, dict[str, float | int | None]]:
    """Train on a set without a class, and return the rows of the drift score and of PatchCore."""
    data = left_out_set(name, unknown, options.data, options.out / "data")
    folder = options.out / "runs" / f"{name}-{unknown}"
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        flexunet(["fit", str(data), "--time", options.time, "--run_dir", str(folder), *OPTIONS.get(name, [])])
    task = SegmentationTask.from_checkpoint(checkpoint)
    module = spread(data_of(task, checkpoint, data), "train", options.most)
    statistics = training_statistics(task, module)
    ours = rates(*(measured(task, one, "valid", statistics) for one in splits(task, module, options.most)))
    return {"drift score": ours, "PatchCore": patchcore_rates(task, module, statistics, options.most)}


def table(results: dict[str, dict[str, dict[str, float | int | None]]]) -> str:
    """Return a Markdown table with a row for each set, class and method."""
    titles = ["unknown class", "method", "unknown / good / known", "AUROC good", "known", "good areas", "flagged"]
    lines = [f"| {' | '.join([*titles, 'false flags'])} |", f"| {' | '.join(['---'] * (len(titles) + 1))} |"]
    for what, methods in results.items():
        for method, row in methods.items():
            areas = ("auroc_good", "auroc_known", "auroc_good_areas")
            shown = ["n/a" if row[key] is None else f"{row[key]:.2f}" for key in areas]
            cells = [what, method, f"{row['unknown']} / {row['good']} / {row['known']}", *shown]
            cells += [f"{row['flagged']} of {row['unknown']}", f"{row['false_flags']} of {row['calibrated']}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all that is asked for and not done."""
    parser = argparse.ArgumentParser(description="AUROC of the drift score on a class left out of training.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and the table")
    parser.add_argument("--sets", nargs="+", choices=LEFT_OUT, default=list(LEFT_OUT))
    parser.add_argument("--classes", type=int, default=1, help="classes to leave out of each set, in turn")
    parser.add_argument("--time", default="2m", help="how long each network trains")
    parser.add_argument("--most", type=int, default=60, help="most images of a split")
    options = parser.parse_args()
    try:
        results = {}
        for name in options.sets:
            for unknown in LEFT_OUT[name][: options.classes]:
                results[f"{name}: {unknown}"] = run(name, unknown, options)
                write_json(options.out / "results.json", results)
                write_text(options.out / "table.md", table(results))
        print(table(results))
    except UserError as error:
        return print_user_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
