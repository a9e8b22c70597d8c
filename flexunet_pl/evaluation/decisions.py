"""Escapes and overkill: choose the threshold at which a piece is no good, and say what so many pieces can show.

An escape is a defective piece called OK, overkill a good piece called NG.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError
from flexunet_pl.inference.onnx_infer import Acceptance
from flexunet_pl.nn.bootstrap import FEWEST_GROUPS, LEVEL, group_weights, interval

FloatArray = npt.NDArray[np.float64]

MOST_POINTS = 1000  # of a curve


@dataclass(frozen=True)
class Piece:
    """An image with truth, and what a model says about it.

    Attributes:
        name: Name of the image.
        group: The object it shows, such as one seen in several photographs.
        score: The probability that it shows any defect, 0..1.
        is_defective: Whether its truth has a defect that no rule allows.
        is_allowed: Whether the model finds regions and rules allow all of them: the piece is OK whatever its score.
    """

    name: str
    group: str
    score: float
    is_defective: bool
    is_allowed: bool = False

    def is_ok(self, threshold: float) -> bool:
        """Whether the piece is called OK."""
        return self.score < threshold or self.is_allowed

    def outcome(self, threshold: float) -> str:
        """Return escape, overkill or right."""
        if self.is_ok(threshold) != self.is_defective:
            return "right"
        return "escape" if self.is_defective else "overkill"


@dataclass(frozen=True)
class Outcome:
    """What a threshold does to pieces.

    Attributes:
        threshold: A piece with this score or a higher one is NG.
        escapes: Defective pieces called OK.
        defective: Defective pieces.
        overkill: Good pieces called NG.
        good: Good pieces.
        objects: How many different objects the defective pieces show; at most ``defective``.
    """

    threshold: float
    escapes: int
    defective: int
    overkill: int
    good: int
    objects: int

    @property
    def escape_rate(self) -> float | None:
        """The share of defective pieces called OK; None without any."""
        return self.escapes / self.defective if self.defective else None

    @property
    def overkill_rate(self) -> float | None:
        """The share of good pieces called NG; None without any."""
        return self.overkill / self.good if self.good else None

    @property
    def escape_rate_upper(self) -> float | None:
        """The escape rate that is not exceeded with a confidence of ``LEVEL``; None without defective pieces."""
        if self.escape_rate is None:
            return None
        return upper_bound(self.escape_rate * self.objects, self.objects)


def upper_bound(events: float, trials: float, level: float = LEVEL) -> float:
    """Return the one-sided upper confidence bound of a rate (Clopper and Pearson, Biometrika 26, 1934).

    20 trials without an event still allow a rate of 13.9 %. Numbers that are not whole serve trials that depend on each
    other: their effective number is smaller (Korn and Graubard, Survey Methodology 24, 1998).
    """
    from scipy.special import betaincinv  # scipy takes long to import

    return 1.0 if events >= trials else float(betaincinv(events + 1, trials - events, level))


def pieces_to_show(rate: float, level: float = LEVEL) -> int | None:
    """Return how many defective pieces, none of which escapes, show an escape rate; None for 0, which none can."""
    return None if rate <= 0 else math.ceil(math.log(1 - level) / math.log(1 - rate) - 1e-9)


def outcome_at(pieces: Sequence[Piece], threshold: float) -> Outcome:
    """Count escapes and overkill at a threshold."""
    outcomes = [piece.outcome(threshold) for piece in pieces]
    defective = [piece for piece in pieces if piece.is_defective]
    return Outcome(
        threshold=threshold,
        escapes=outcomes.count("escape"),
        defective=len(defective),
        overkill=outcomes.count("overkill"),
        good=len(pieces) - len(defective),
        objects=len({piece.group for piece in defective}),
    )


def choose_threshold(pieces: Sequence[Piece], escape_rate: float) -> float:
    """Return the threshold with the least overkill at which no larger share of the defective pieces escapes.

    With n defective pieces, k = floor(rate * n) may escape. The threshold lies halfway between the lowest score that
    must be NG, the (k + 1)-th lowest of defective pieces, and the next lower score of any piece, so that programs that
    differ in the last digits decide alike. If rules let more than k pieces escape, the threshold catches all others.

    Raises:
        UserError: If there is no defective piece, or rules allow whatever is found in all of them.
    """
    thresholds = _thresholds(pieces)
    if not len(thresholds):
        raise UserError(
            f"none of the {len(pieces)} images has a defect: without defective pieces no escape rate can be measured, "
            "and no threshold chosen; add images with defects and their masks, or choose another --split"
        )
    allowed = int(np.isneginf(thresholds).sum())
    if allowed == len(thresholds):
        raise UserError(
            f"the rules allow all that the model finds in each of the {allowed} defective pieces, so that all escape; "
            "give rules with lower limits"
        )
    return float(thresholds[max(allowed, _may_escape(escape_rate, len(thresholds)))])


def intervals(pieces: Sequence[Piece], escape_rate: float, draws: int, seed: int) -> dict[str, list[float] | None]:
    """Return bootstrap intervals of the threshold and of the overkill rate it leads to, both at level ``LEVEL``.

    Objects are drawn with replacement, and the threshold is chosen anew in each draw. None where fewer than two objects
    are defective (or, for overkill, good), or without draws.
    """
    defective = [index for index, piece in enumerate(pieces) if piece.is_defective]
    good = [index for index, piece in enumerate(pieces) if not piece.is_defective]
    known: dict[str, list[float] | None] = {"threshold_interval": None, "overkill_interval": None}
    if not draws or len({pieces[index].group for index in defective}) < FEWEST_GROUPS:
        return known
    places, weights = group_weights([piece.group for piece in pieces], draws, seed)
    scores = np.array([_effective(pieces[index]) for index in defective])
    order = np.argsort(scores, kind="stable")
    drawn = np.cumsum(weights[:, places[defective][order]], axis=1)  # (B, defective pieces)
    may_escape = np.array([_may_escape(escape_rate, int(count)) for count in drawn[:, -1]])
    thresholds = _thresholds(pieces)[(drawn > may_escape[:, None]).argmax(axis=1)]
    thresholds[(drawn[:, -1] == 0) | np.isneginf(thresholds)] = np.nan
    known["threshold_interval"] = interval(thresholds)
    if len({pieces[index].group for index in good}) >= FEWEST_GROUPS:
        times = weights[:, places[good]]
        is_ng = np.array([_effective(pieces[index]) for index in good]) >= thresholds[:, None]
        totals = times.sum(axis=1)
        rates = np.where(totals > 0, (times * is_ng).sum(axis=1) / np.maximum(totals, 1), np.nan)
        known["overkill_interval"] = interval(np.where(np.isnan(thresholds), np.nan, rates))
    return known


def curve(pieces: Sequence[Piece]) -> list[list[float]]:
    """Return [threshold, escape rate, overkill rate] at each score, upwards; at most ``MOST_POINTS``, evenly chosen.

    A rate without any piece is 0.
    """
    scores = np.unique([piece.score for piece in pieces])
    if len(scores) > MOST_POINTS:
        scores = scores[np.linspace(0, len(scores) - 1, MOST_POINTS).round().astype(int)]
    sides = []
    for kind in (True, False):
        effective = np.sort([_effective(piece) for piece in pieces if piece.is_defective == kind])
        below = np.searchsorted(effective, [*scores, np.inf], side="left") / max(len(effective), 1)
        sides.append(below if kind or not len(effective) else 1 - below)
    thresholds = [*scores.tolist(), 1.0]
    return [[float(value) for value in point] for point in zip(thresholds, *sides, strict=True)]


def statement(outcome: Outcome, kind: str) -> str:
    """Say what is known about a threshold; ``kind`` is what the images are, such as "validation"."""
    if outcome.escape_rate_upper is None:
        return f"no escape rate is known: none of {outcome.good} {kind} images is defective"
    objects = f" of {outcome.objects} objects" if outcome.objects < outcome.defective else ""
    overkill = "overkill unknown, since no image is good"
    if outcome.overkill_rate is not None:
        overkill = f"overkill {percent(outcome.overkill_rate)}, {outcome.overkill} of {outcome.good} good ones"
    return (
        f"escapes at most {percent(outcome.escape_rate_upper)} at {percent(LEVEL)} confidence, "
        f"{outcome.escapes} of {outcome.defective} defective {kind} images{objects}; {overkill}"
    )


def percent(rate: float | None) -> str:
    """Write a rate as 2 % or 13.9 %; n/a for None."""
    return "n/a" if rate is None else f"{100 * rate:.3g} %"


def to_mapping(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as plain data, with its rates."""
    return {
        "threshold": outcome.threshold,
        "escapes": outcome.escapes,
        "defective": outcome.defective,
        "objects": outcome.objects,
        "escape_rate": outcome.escape_rate,
        "escape_rate_upper": outcome.escape_rate_upper,
        "overkill": outcome.overkill,
        "good": outcome.good,
        "overkill_rate": outcome.overkill_rate,
        "level": LEVEL,
    }


def decision_mapping(pieces: Sequence[Piece], acceptance: Acceptance) -> dict[str, Any] | None:
    """Return what a model's own threshold does to pieces, as plain data for scores.json; None without any."""
    if not pieces:
        return None
    facts = acceptance._asdict() | {"rules": [dict(rule) for rule in acceptance.rules]}
    return facts | to_mapping(outcome_at(pieces, acceptance.threshold)) | {"curve": curve(pieces)}


def _effective(piece: Piece) -> float:
    return -math.inf if piece.is_allowed else piece.score


def _may_escape(rate: float, pieces: int) -> int:
    return min(math.floor(rate * pieces + 1e-9), max(pieces - 1, 0))


def _thresholds(pieces: Sequence[Piece]) -> FloatArray:
    """Return for each defective piece, by rising score, the threshold that catches it and all above: (D,)."""
    scores = np.sort([_effective(piece) for piece in pieces if piece.is_defective])
    every = np.unique([0.0, *(piece.score for piece in pieces if not piece.is_allowed)])
    below = every[np.maximum(np.searchsorted(every, scores, side="left") - 1, 0)]
    return np.where(np.isneginf(scores), scores, (scores + np.minimum(below, scores)) / 2)
