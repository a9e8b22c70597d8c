"""The five lines at the end of a run: score, worst class and why, pictures, next command, what would help most.

Every sentence has the figure it rests on. Nothing is read here: the figures come from the last validations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from flexunet_pl.nn.bootstrap import draw_counts, group_counts, group_weights, has_interval, interval
from flexunet_pl.nn.metric_registry import METRICS, PRIMARY, Metric
from flexunet_pl.nn.metrics import EDGE
from flexunet_pl.nn.score_table import PixelCounts, ScoreTable
from flexunet_pl.training.run_status import Scored
from flexunet_pl.training.validation_images import ValidationImages

DRAWS, MOST_DRAWN = 1000, 10_000_000  # bootstrap draws, and the most groups drawn in all of them
# Edges are what is wrong with a class of at least this Dice, if such a share of its wrong pixels is near outlines. The
# pixels of a crack that is missed are near its outline, too.
FOUND, EDGES = 0.5, 0.6
HARDLY_LEARNED = 0.1  # mDice below which only more training tells anything
FEW_SOURCES = 2
SWAPPED, SWAPPED_IN_TRAINING = 0.2, 0.1  # shares of a class' pixels found as another class
TINY, SHRUNK = 100, 1.3  # pixels of a defect at the working size, and how much longer the image's sides are in its file
RISE, FAST_RISE = 0.02, 0.05  # of mDice in the last quarter of the validations


@dataclass(frozen=True)
class Findings:
    """What is known at the end of a run.

    Attributes:
        names: The classes, background first.
        images: What the validation counted that chose the best checkpoint, or the last one.
        is_best: Whether it is that of the best checkpoint.
        groups: The group (such as photographs of one object) of each of its images.
        history: mDice of all validations.
        training: The confusion matrix (K, K) of the last epoch's training images, None if it is unknown.
        sources: Number of sources of the training images that show a class, by its index; empty if that is unknown.
        size: Working size as text, such as 512 x 512.
    """

    names: Sequence[str]
    images: ValidationImages
    is_best: bool
    groups: Sequence[str]
    history: Sequence[Scored]
    training: ScoreTable | None
    sources: Mapping[int, int]
    size: str


def primary() -> Metric:
    """Return the metric that decides between two models."""
    return METRICS["pixels", False, PRIMARY]


def score_line(found: Findings) -> str:
    """Return mDice with its bootstrap interval over groups, and which validation it is from."""
    images = found.images
    score = images.table[PRIMARY]
    which = f"epoch {images.epoch}, the best checkpoint" if found.is_best else f"epoch {images.epoch}, the last"
    where = f"{_counted(len(images.names), 'validation image')} ({which})"
    if score is None:
        return f"No score: no defect in {where}."
    groups = len(set(found.groups))
    ends = score_interval(images.confusions, found.groups)
    of = "" if groups == len(images.names) else f" over {groups} sources"
    between = "too few images for an interval" if ends is None else f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}{of}"
    return f"mDice {score:.3f}, {between}; {where}."


def score_interval(confusions: npt.NDArray[np.int64], groups: Sequence[str]) -> list[float] | None:
    """Return the 95 % bootstrap interval of mDice, None if fewer than two groups have a score.

    Args:
        confusions: Of each image, (N, K, K).
        groups: The group of each image; groups are drawn with replacement.
    """
    draws = max(100, min(DRAWS, MOST_DRAWN // len(set(groups))))
    places, weights = group_weights(list(groups), draws, seed=0)
    by_group = group_counts(confusions, places)
    if not has_interval(primary().compute(PixelCounts(by_group))):
        return None
    return interval(primary().compute(draw_counts(by_group, weights)))


def worst_line(found: Findings) -> str:
    """Return the worst class, its Dice, and what most of its wrong pixels are."""
    images = found.images
    worst = images.worst_class
    if worst is None:
        return "Worst class: none of the classes occurs in the validation images."
    index, dice = worst
    why = reason(images.confusion, images.edges, index, found.names)
    return f"Worst class: {found.names[index]}, Dice {dice:.3f}; {why}."


def reason(confusion: npt.NDArray[np.int64], edges: npt.NDArray[np.int64], index: int, names: Sequence[str]) -> str:
    """Return what most of the wrong pixels of a class are: edges, missed, false alarms, or confused with another class.

    Args:
        confusion: Pixels (K, K), rows the truth.
        edges: The wrong ones of them near an outline of the truth, (K, K).
        index: The class.
        names: All classes, background first.
    """
    wrong = _wrong(confusion, index)
    total = int(wrong.sum())
    if not total:
        return "no pixel of it is wrong"
    share = int(_wrong(edges, index).sum()) / total
    hits = 2 * int(confusion[index, index])
    if share >= EDGES and hits >= FOUND * (hits + total):
        return f"its edges: {share:.0%} of its wrong pixels lie within {EDGE} pixels of an outline"
    kinds = {
        "it is missed": int(confusion[index, 0]),
        "false alarms": int(confusion[0, index]),
        **{
            f"confused with {names[other]}": int(confusion[index, other] + confusion[other, index])
            for other in range(1, len(names))
            if other != index
        },
    }
    kind = max(kinds, key=lambda name: kinds[name])
    return f"{kind}: {kinds[kind] / total:.0%} of its wrong pixels"


def _wrong(confusion: npt.NDArray[np.int64], index: int) -> npt.NDArray[np.int64]:
    """Return the wrong pixels of a class: its truth found as others, and others' truth found as it, (2 K - 2,)."""
    return np.concatenate([np.delete(confusion[index], index), np.delete(confusion[:, index], index)])


def advice_line(found: Findings) -> str:
    """Return the one thing that would help most: the first rule that holds, with its figure."""
    rules = (_hardly_learned, _rising_fast, _few_sources, _swapped_labels, _tiny_defects, _rising)
    said = next((sentence for rule in rules if (sentence := rule(found)) is not None), None)
    return f"Would help most: {_more_images(found) if said is None else said}."


def _hardly_learned(found: Findings) -> str | None:
    images, score = found.images, found.images.table[PRIMARY]
    if score is None or score >= HARDLY_LEARNED:
        return None
    if not images.confusion[:, 1:].any():
        return f"more training; no defect is found in {_counted(len(images.names), 'validation image')}"
    epochs = found.history[-1].epoch if found.history else images.epoch
    return f"more training; mDice is {score:.3f} after {_counted(epochs, 'epoch')}"


def _few_sources(found: Findings) -> str | None:
    """Return the class with the fewest sources, if it has one or two and is not above the mean."""
    table, mean = found.images.table, found.images.table[PRIMARY]
    few = []
    for index, sources in found.sources.items():
        dice = table.of_class(index)["dice"]
        if 0 < sources <= FEW_SOURCES and dice is not None and mean is not None and dice <= mean:
            few.append((sources, dice, index))
    if not few:
        return None
    sources, dice, index = min(few)
    count = _counted(sources, "source")
    return f"more sources of {found.names[index]}; it has {count} in training, and Dice {dice:.3f} in validation"


def _swapped_labels(found: Findings) -> str | None:
    """Return the two classes of which most is confused, if it is much, in the images that were trained on too."""
    if found.training is None:
        return None
    validation, training = (_shares(matrix) for matrix in (found.images.confusion, found.training.counts.confusion))
    validation[training < SWAPPED_IN_TRAINING] = 0
    index, other = np.unravel_index(int(validation.argmax()), validation.shape)
    if validation[index, other] < SWAPPED:
        return None
    one, two = found.names[int(index)], found.names[int(other)]
    return (
        f"labels to check, of {one} and {two}; {validation[index, other]:.0%} of the pixels of {one} are found as "
        f"{two}, and {training[index, other]:.0%} in the images trained on"
    )


def _shares(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return which share of a defect class' pixels is found as another defect class, (K, K), 0 elsewhere."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shares[0], shares[:, 0] = 0, 0
    np.fill_diagonal(shares, 0)
    return np.asarray(shares)


def _tiny_defects(found: Findings) -> str | None:
    """Return the worst class, if its defects are tiny at the working size and the files hold more."""
    images, worst = found.images, found.images.worst_class
    if worst is None or images.shrinkage < SHRUNK:
        return None
    index, _ = worst
    areas = images.confusions[:, index].sum(axis=1)
    area = float(np.median(areas[areas > 0]))
    if area >= TINY:
        return None
    return (
        f"a larger data.image_size; at {found.size}, half of the images with {found.names[index]} show at most "
        f"{area:.0f} pixels of it, and the files are {images.shrinkage:.1f} times as long and wide"
    )


def _rising_fast(found: Findings) -> str | None:
    return _rising(found, FAST_RISE)


def _rising(found: Findings, least: float = RISE) -> str | None:
    """Return by how much the score rose in the last quarter of the validations, if it did by ``least``."""
    scores = [one.score for one in found.history]
    if len(scores) < 2:
        return None
    quarter = max(1, len(scores) // 4)
    rise = fmean(scores[-quarter:]) - fmean(scores[-2 * quarter : -quarter])
    if rise < least:
        return None
    last = "in the last validation" if quarter == 1 else f"in the last {quarter}"
    return f"more time; mDice still rose by {rise:.3f} {last} of {len(scores)}"


def _more_images(found: Findings) -> str:
    worst = found.images.worst_class
    if worst is None:
        return "validation images with defects; there is no score without them"
    index, dice = worst
    shown = int((found.images.confusions[:, index].sum(axis=1) > 0).sum())
    where = _counted(shown, "validation image")
    return f"more images of {found.names[index]}, the lowest Dice ({dice:.3f} in {where}); nothing else stands out"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
