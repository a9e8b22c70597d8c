"""Evaluate models on images: each image is segmented, counted and drawn, two at a time, and only sums are kept."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from flexunet_pl.core.types import Pair
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.image_counts import ImageCounts, count_image
from flexunet_pl.evaluation.images import ImageSet, check_truth, find_images_with_truth, palette_of_truth
from flexunet_pl.evaluation.judgement import judgement
from flexunet_pl.evaluation.models import Model, PredictedMasks, open_model
from flexunet_pl.evaluation.totals import Totals
from flexunet_pl.visualization.panels import FOLDER, write_panel

WORKERS = 2
# Pages hold a small picture of every image up to this many; with more they get too large.
MOST_ROW_PICTURES = 3000

Item = TypeVar("Item")
Result = TypeVar("Result")


class Evaluation(NamedTuple):
    """The results of an evaluation."""

    totals: list[Totals]  # for each model what its results add up to
    panels: list[str]  # for each image its picture, relative to the report's folder, with slashes
    row_pictures: list[bytes]  # for each image the bytes of a small picture, empty where there are too many images


def open_with_truth(path: Path, data: Path, split: str, antialiased: bool) -> tuple[Model, ImageSet, Palette]:
    """Open a model, find the images of a split, check their truth, and choose the palette.

    Raises:
        UserError: If one of them cannot be used.
    """
    model = open_model(path)
    images = find_images_with_truth(data, split, None, None, antialiased)
    palette = palette_of_truth(None, images, [model.palette])
    check_truth(images, palette)
    if isinstance(model, PredictedMasks):
        model.use(palette, list(images.pairs))
    return model, images, palette


def evaluate(models: Sequence[tuple[str, Model]], images: ImageSet, palette: Palette, out: Path) -> Evaluation:
    """Evaluate models by name (empty for the only one) on the same images; write a picture of each into ``out``.

    Raises:
        UserError: If an image or a predicted mask cannot be used.
    """
    totals = [Totals(palette, model.acceptance) for _, model in models]

    def work(pair: Pair) -> tuple[list[ImageCounts], bytes]:
        truth, _ = read_mask(pair.mask, palette, images.antialiased)
        predictions = [model.predict(pair) for _, model in models]
        counts = [
            count_image(one, truth, len(palette))._replace(
                judgement=None if one.decision is None else judgement(one, truth, model.acceptance, palette.names)
            )
            for (_, model), one in zip(models, predictions, strict=True)
        ]
        drawn = [(name, one.mask_index) for (name, _), one in zip(models, predictions, strict=True)]
        return counts, write_panel(out / FOLDER / f"{pair.name}.jpg", predictions[0].image, truth, drawn, palette)

    groups = images.groups if images.groups is not None else [None] * len(images.pairs)
    row_pictures = []
    with ThreadPoolExecutor(WORKERS) as pool:
        results = in_order(pool, work, images.pairs)
        for done, (pair, group, (counts, small)) in enumerate(zip(images.pairs, groups, results, strict=True), 1):
            for total, one in zip(totals, counts, strict=True):
                total.add(pair.name, group, one)
            row_pictures.append(small if len(images.pairs) <= MOST_ROW_PICTURES else b"")
            _show_progress(done, len(images.pairs))
    return Evaluation(totals, [f"{FOLDER}/{pair.name}.jpg" for pair in images.pairs], row_pictures)


def in_order(pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield ``work(item)`` of each item in order, done by the pool, with only a few results waiting at a time."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 2 * WORKERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _show_progress(done: int, images: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{done} of {images} images" + ("\n" if done == images else ""))
