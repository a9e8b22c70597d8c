"""Choose how pieces are decided: a threshold for a wanted escape rate, by validation images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flexunet_pl import __version__
from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.console import progress, table
from flexunet_pl.core.csv_text import csv_of_maps
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_json, write_text
from flexunet_pl.core.types import Pair
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation import decisions
from flexunet_pl.evaluation.decisions import Outcome, Piece, percent
from flexunet_pl.evaluation.evaluator import WORKERS, in_order
from flexunet_pl.evaluation.images import ImageSet, check_truth, palette_of_truth
from flexunet_pl.evaluation.judgement import judgement
from flexunet_pl.evaluation.models import NetworkModel, open_model
from flexunet_pl.inference.onnx_infer import Acceptance, InferenceError
from flexunet_pl.training.decision_file import FILE
from flexunet_pl.visualization.decision_chart import decision_chart
from flexunet_pl.visualization.pictures import save_picture

CHART, PIECES = "decision.png", "decisions.csv"
SHOWN_RATES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # wanted escape rates in the table


@dataclass(frozen=True)
class Wish:
    """What is asked of a threshold.

    Attributes:
        escape_rate: The share of defective pieces that may be called OK, 0 or more and below 1.
        mm_per_pixel: Side of a pixel of the images in mm, None if unknown.
        rules: YAML file with regions that are OK, None for none.
        draws: Bootstrap draws for the intervals, 0 for none.
        seed: Seed of the draws.
    """

    escape_rate: float
    mm_per_pixel: float | None = None
    rules: Path | None = None
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError if a number is out of its range."""
        if not 0 <= self.escape_rate < 1:
            raise UserError(f"--escape-rate {self.escape_rate} must be a share, 0 or more and below 1; 2 % is 0.02")
        if self.draws < 0 or self.seed < 0:
            raise UserError(f"--draws {self.draws} --seed {self.seed}: both must be at least 0")

    def acceptance(self, names: Sequence[str]) -> Acceptance:
        """Return scale and rules as a check of pieces, for classes ``names``; UserError if they are not usable."""
        rules: Any = []
        if self.rules is not None:
            try:
                rules = load_yaml(self.rules.read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError) as error:
                reason = " ".join(str(error).split())
                raise UserError(f"--rules {self.rules}: cannot be read as a list of rules ({reason})") from error
        origin = f"--mm-per-pixel {self.mm_per_pixel}" if self.rules is None else f"--rules {self.rules}"
        try:
            return Acceptance().changed(names, origin, mm_per_pixel=self.mm_per_pixel, rules=rules)
        except InferenceError as error:
            raise UserError(str(error)) from error


def decide(path: Path, images: ImageSet, kind: str, wish: Wish, run: Path | None, out: Path) -> list[str]:
    """Choose the threshold of a model, write it, its curve and the pieces, and return lines for the terminal.

    Args:
        path: The model: a run folder, a checkpoint, a bundle or an .onnx file.
        images: The images that choose.
        kind: What they are, such as "validation".
        wish: What is asked for.
        run: The run folder that keeps the decision, None for a model without one.
        out: Folder for the chart and the list of pieces, and for the decision of a model without a run folder.

    Raises:
        UserError: If the model gives no probabilities, the rules or the data are not usable, or nothing can be chosen.
    """
    model = open_model(path)
    if not isinstance(model, NetworkModel):
        raise UserError(f"{path}: predicted masks have no probabilities, by which pieces are decided; give a model")
    palette = palette_of_truth(None, images, [model.palette])
    acceptance = wish.acceptance(palette.names)
    check_truth(images, palette)
    model.network.labels = model.network.labels._replace(acceptance=acceptance)
    pieces = judge(model, images, palette)
    chosen = decisions.outcome_at(pieces, decisions.choose_threshold(pieces, wish.escape_rate))
    known = decisions.intervals(pieces, wish.escape_rate, wish.draws, wish.seed)
    content = {
        **acceptance._asdict(),
        **decisions.to_mapping(chosen),
        **known,
        "statement": decisions.statement(chosen, kind),
        "score": "defect_probability",
        "wanted_escape_rate": wish.escape_rate,
        "is_shown": _is_shown(chosen, wish),
        "pieces_to_show": decisions.pieces_to_show(wish.escape_rate),
        "has_groups": images.groups is not None,
        "draws": wish.draws,
        "seed": wish.seed,
        "images": images.facts,
        "checkpoint": Path(str(model.facts["path"])).name,
        "checkpoint_sha256": model.facts["sha256"],
        "version": __version__,
        "curve": decisions.curve(pieces),
    }
    write_text(out / PIECES, _csv(pieces, chosen.threshold))
    save_picture(out / CHART, decision_chart(content))
    place = (out if run is None else run) / FILE
    write_json(place, content)
    how = f"; {PROGRAM} infer, predict and report apply it, and {PROGRAM} export {run} puts it into a bundle"
    return [
        *_table(pieces, wish, chosen),
        *(["", *_allowances(pieces)] if acceptance.rules else []),
        "",
        *_conclusions(chosen, known, wish, kind),
        f"written: {place}, {out / CHART} and {out / PIECES}{how if run is not None else ''}",
    ]


def judge(model: NetworkModel, images: ImageSet, palette: Palette) -> list[Piece]:
    """Return what a model says about each image, and whether its truth has a defect.

    A defect that the model's rules allow is none: truth and prediction are held to the same rules.
    """
    acceptance = model.network.labels.acceptance

    def work(pair: Pair) -> tuple[float, bool, bool]:
        truth, _ = read_mask(pair.mask, palette, images.antialiased)
        return judgement(model.predict(pair), truth, acceptance, palette.names)

    groups = images.groups if images.groups is not None else [pair.name for pair in images.pairs]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = progress(in_order(pool, work, images.pairs), "Deciding", len(images.pairs))
        return [Piece(pair.name, group, *facts) for pair, group, facts in zip(images.pairs, groups, found, strict=True)]


def _is_shown(chosen: Outcome, wish: Wish) -> bool:
    return chosen.escape_rate_upper is not None and chosen.escape_rate_upper <= wish.escape_rate


def _table(pieces: Sequence[Piece], wish: Wish, chosen: Outcome) -> list[str]:
    """Return a row for some wanted escape rates, marking the one that is asked for."""
    rows = []
    for rate in sorted({*SHOWN_RATES, wish.escape_rate}):
        one = decisions.outcome_at(pieces, decisions.choose_threshold(pieces, rate))
        mark = "chosen" if one == chosen and rate == wish.escape_rate else ""
        escapes = f"{one.escapes} of {one.defective}"
        overkill = f"{one.overkill} of {one.good}"
        rates = percent(one.escape_rate), percent(one.escape_rate_upper), percent(one.overkill_rate)
        rows.append([percent(rate), one.threshold, escapes, rates[0], rates[1], overkill, rates[2], mark])
    headers = ["wanted", "threshold", "escapes", "rate", "at most", "overkill", "rate", ""]
    return [table(headers, rows)]


def _allowances(pieces: Sequence[Piece]) -> list[str]:
    """Return a line on what the rules do."""
    allowed = sum(piece.is_allowed for piece in pieces)
    escaping = sum(piece.is_allowed and piece.is_defective for piece in pieces)
    return [
        f"The rules allow all regions that the model finds in {allowed} of {len(pieces)} images; {escaping} of these "
        "are defective and escape at any threshold."
    ]


def _conclusions(chosen: Outcome, known: dict[str, list[float] | None], wish: Wish, kind: str) -> list[str]:
    ends = known["threshold_interval"]
    width = f" (95 % interval {ends[0]:.4g} to {ends[1]:.4g})" if ends is not None else ""
    lines = [f"Threshold {chosen.threshold:.4g}{width}: {decisions.statement(chosen, kind)}."]
    if (ends := known["overkill_interval"]) is not None and ends[0] < ends[1]:  # no width: too few, or none
        lines.append(f"95 % interval of the overkill, the choice of the threshold included: {_range(ends)}.")
    if chosen.overkill_rate is None:
        lines.append("No image is good, so nothing says how many good pieces are rejected; add good images.")
    rate, needed = percent(wish.escape_rate), decisions.pieces_to_show(wish.escape_rate)
    if chosen.escape_rate is not None and chosen.escape_rate > wish.escape_rate:
        lines.append(f"The wanted escape rate of {rate} is not reached: the rules let more defective pieces pass.")
    elif not _is_shown(chosen, wish):
        few = f"{chosen.objects} {'objects' if chosen.objects < chosen.defective else 'pieces'}"
        repair = "no number of pieces can show it" if needed is None else f"it takes {needed} without a single escape"
        lines.append(f"An escape rate of {rate} cannot be shown with {few} that are defective: {repair}.")
    else:
        lines.append(f"An escape rate of {rate} is shown.")
    return lines


def _range(ends: Sequence[float]) -> str:
    return f"{percent(ends[0])} to {percent(ends[1])}"


def _csv(pieces: Sequence[Piece], threshold: float) -> str:
    return csv_of_maps(
        [
            {
                "image": piece.name,
                "group": piece.group,
                "score": piece.score,
                "truth": "NG" if piece.is_defective else "OK",
                "decision": "OK" if piece.is_ok(threshold) else "NG",
                "outcome": piece.outcome(threshold),
                "allowed_by_rules": piece.is_allowed,
            }
            for piece in sorted(pieces, key=lambda piece: -piece.score)
        ]
    )
