"""Escapes, overkill and the threshold between them, against counts and bounds worked out by hand."""

import math

import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.evaluation.decisions import (
    Piece,
    choose_threshold,
    curve,
    intervals,
    outcome_at,
    pieces_to_show,
    statement,
    upper_bound,
)


def pieces(defective: list[float], good: list[float], *, allowed: int = 0, per_object: int = 1) -> list[Piece]:
    """Return pieces with these scores; the first ``allowed`` defective ones have regions that rules allow."""
    bad = [
        Piece(f"bad{i}", f"object{i // per_object}", score, is_defective=True, is_allowed=i < allowed)
        for i, score in enumerate(defective)
    ]
    return [*bad, *(Piece(f"good{i}", f"good{i}", score, is_defective=False) for i, score in enumerate(good))]


@pytest.mark.parametrize(
    ("events", "trials", "expected"),
    [
        pytest.param(0, 20, 1 - 0.05 ** (1 / 20), id="0 of 20 allow 13.9 %: 1 - 0.05^(1/20)"),
        pytest.param(0, 149, 1 - 0.05 ** (1 / 149), id="0 of 149 allow just less than 2 %"),
        pytest.param(1, 2, math.sqrt(0.95), id="1 of 2: p with 1 - p^2 = 0.05"),
        pytest.param(3, 3, 1.0, id="all"),
    ],
)
def test_the_upper_bound_is_clopper_and_pearsons(events: int, trials: int, expected: float) -> None:
    assert upper_bound(events, trials) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("rate", "count"), [(0.02, 149), (0.05, 59), (0.1, 29), (0.5, 5)])
def test_pieces_to_show_a_rate_are_the_fewest(rate: float, count: int) -> None:
    assert pieces_to_show(rate) == count
    assert upper_bound(0, count) <= rate < upper_bound(0, count - 1)
    assert pieces_to_show(0.0) is None


@pytest.mark.parametrize(
    ("defective", "good", "rate", "threshold", "escapes", "overkill"),
    [
        pytest.param([0.6, 0.9], [0.2, 0.4], 0.0, 0.5, 0, 0, id="halfway between 0.4 and 0.6"),
        pytest.param([0.3, 0.9], [0.2, 0.4], 0.0, 0.25, 0, 1, id="the good one at 0.4 is overkill"),
        pytest.param([0.3, 0.9], [0.2, 0.4], 0.5, 0.65, 1, 0, id="one of two may escape"),
        pytest.param([0.3, 0.9], [0.2, 0.4], 0.49, 0.25, 0, 1, id="49 % of two is none"),
        pytest.param([0.5, 0.5], [0.5], 0.5, 0.25, 0, 1, id="ties do not escape"),
        pytest.param([0.0, 1.0], [0.5], 0.0, 0.0, 0, 1, id="a score of 0 makes all NG"),
        pytest.param([0.1] * 2 + [0.8] * 98, [0.4], 0.02, 0.6, 2, 0, id="2 % of 100 are 2"),
    ],
)
def test_the_threshold_has_least_overkill(
    defective: list[float], good: list[float], rate: float, threshold: float, escapes: int, overkill: int
) -> None:
    found = pieces(defective, good)
    chosen = choose_threshold(found, rate)
    assert chosen == pytest.approx(threshold)
    outcome = outcome_at(found, chosen)
    assert (outcome.escapes, outcome.overkill) == (escapes, overkill)
    assert (outcome.escape_rate, outcome.overkill_rate) == (escapes / len(defective), overkill / len(good))


def test_pieces_that_rules_allow_escape_at_any_threshold() -> None:
    found = pieces([0.9, 0.8, 0.7], [0.1], allowed=1)
    chosen = choose_threshold(found, 0.0)
    assert chosen == pytest.approx(0.4)
    assert outcome_at(found, chosen).escapes == 1
    with pytest.raises(UserError, match="rules allow all that the model finds in each of the 3 defective"):
        choose_threshold(pieces([0.9, 0.8, 0.7], [0.1], allowed=3), 0.0)


def test_nothing_can_be_chosen_without_defective_pieces() -> None:
    with pytest.raises(UserError, match="none of the 2 images has a defect"):
        choose_threshold(pieces([], [0.1, 0.2]), 0.1)
    assert intervals(pieces([], [0.1]), 0.1, 10, 0) == {"threshold_interval": None, "overkill_interval": None}


def test_without_good_pieces_overkill_is_unknown() -> None:
    outcome = outcome_at(pieces([0.5], []), 0.1)
    assert outcome.overkill_rate is None
    assert "overkill unknown, since no image is good" in statement(outcome, "validation")


def test_the_bound_counts_objects_and_not_their_photographs() -> None:
    alone, twice = (outcome_at(pieces([0.5] * 20, [0.1], per_object=n), 0.3) for n in (1, 2))
    assert alone.escape_rate_upper == pytest.approx(1 - 0.05 ** (1 / 20))
    assert twice.escape_rate_upper == pytest.approx(1 - 0.05 ** (1 / 10))
    assert statement(alone, "validation") == (
        "escapes at most 13.9 % at 95 % confidence, 0 of 20 defective validation images; overkill 0 %, 0 of 1 good ones"
    )
    assert "of 10 objects" in statement(twice, "validation")


def test_the_curve_goes_from_all_rejected_to_all_accepted() -> None:
    assert curve(pieces([0.4, 0.8], [0.2, 0.6])) == [
        [0.2, 0.0, 1.0],
        [0.4, 0.0, 0.5],
        [0.6, 0.5, 0.5],
        [0.8, 0.5, 0.0],
        [1.0, 1.0, 0.0],
    ]


def test_intervals_are_those_of_thresholds_in_draws() -> None:
    found = pieces([0.2, 0.8], [0.1, 0.5])
    known = intervals(found, 0.0, 4000, 0)
    # A draw of the four objects holds the low one in 1 - (3/4)^4 = 68 % of cases: threshold 0.15; otherwise 0.65.
    assert known["threshold_interval"] == pytest.approx([0.15, 0.65])
    assert known["overkill_interval"] == pytest.approx([0.0, 1.0])
    assert intervals(found, 0.0, 100, 1) == intervals(found, 0.0, 100, 1), "a seed decides"
    assert intervals(pieces([0.2, 0.8], [0.1], per_object=2), 0.0, 100, 0)["threshold_interval"] is None, "one object"
    assert intervals(found, 0.0, 0, 0)["threshold_interval"] is None, "no draws"


def test_draws_of_equal_scores_have_no_width() -> None:
    assert intervals(pieces([0.5] * 5, [0.1] * 5), 0.1, 200, 0)["threshold_interval"] == pytest.approx([0.3, 0.3])
