"""decide: the threshold by which a piece is OK or NG."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from flexunet_pl.core.console import say
from flexunet_pl.core.errors import UserError

MOST_PLACES = 2  # RUN and DATA


def run(words: Sequence[str]) -> int:
    """Run the command; data may stand after the model without ``--data``."""
    from flexunet_pl.cli.parser import call

    places = list(takewhile(lambda word: not word.startswith("-"), words))
    if len(places) > MOST_PLACES:
        raise UserError(f"decide {' '.join(places)}: takes RUN and DATA before its options; leave {places[2]!r} out")
    data = ["--data", places[1]] if len(places) == MOST_PLACES else []
    return call("decide", decide, [*places[:1], *data, *words[len(places) :]])


def decide(
    model: Path,
    data: Path | None = None,
    escape_rate: float = 0.02,
    mm_per_pixel: float | None = None,
    rules: Path | None = None,
    out: Path | None = None,
    split: str = "valid",
    antialiased_masks: bool = False,
    draws: int = 1000,
    seed: int = 0,
    max_pixels: int | None = None,
) -> int:
    """Show how escapes trade against overkill, and choose the threshold for a wanted escape rate.

    An escape is a defective piece called OK, overkill a good piece called NG. The threshold is kept in decision.json of
    the run; infer, predict and report apply it, and export puts it into a bundle.

    Args:
        model: Run (its best checkpoint), latest, checkpoint, bundle or .onnx file.
        data: A folder with train, valid and test, or one with images and masks; for a run by default its own data.
        escape_rate: The share of defective pieces that may be called OK.
        mm_per_pixel: Side of a pixel of the images in mm, for rules and sizes in mm.
        rules: YAML file with regions that are OK, such as "- {class: scratch, max_length_mm: 0.2}".
        out: Folder for the chart and the list of pieces (default for a run: its folder decision).
        split: Which images choose; not those that the model is evaluated on later.
        antialiased_masks: Whether blended colours of the truth are moved to the nearest class.
        draws: Bootstrap draws for the intervals, 0 for none.
        seed: Seed of the draws.
        max_pixels: The most pixels of an image or mask (default: 100 million).
    """
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.evaluation.decide import Wish
    from flexunet_pl.evaluation.decide import decide as choose
    from flexunet_pl.evaluation.images import find_images_with_truth
    from flexunet_pl.training.data_paths import split_data_of
    from flexunet_pl.training.decision_file import run_of
    from flexunet_pl.training.trained_model import model_file

    wish = Wish(escape_rate, mm_per_pixel, rules, draws, seed)
    run = run_of(model)
    if data is None and run is None:
        model_file(model)  # if there is no model, that is the mistake
        raise UserError(f"decide {model}: which data? Give a folder with images and masks after the model")
    if run is None and out is None:
        raise UserError(f"decide {model}: --out DIR is not given; only a run folder keeps a decision itself")
    folder = out if out is not None else Path(run or "") / "decision"
    places: dict[str, Any] = {"data": data, "images": None, "masks": None}
    if data is None and run is not None:
        places |= split_data_of(run, split)
        antialiased_masks = antialiased_masks or places["antialiased_masks"]
    with pixel_limit(max_pixels):
        images = find_images_with_truth(places["data"], split, places["images"], places["masks"], antialiased_masks)
        kind = {"valid": "validation", "train": "training"}.get(split, split)
        say(*choose(model, images, kind if images.facts["split"] or data is None else "given", wish, run, folder))
    return 0
