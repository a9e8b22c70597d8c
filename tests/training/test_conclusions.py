"""The last lines of a run: every sentence with the figure it rests on."""

from typing import Any

import numpy as np
import pytest
from test_validation_images import ALARM, GOOD, HALF, MISSED, PERFECT, counted

from flexunet_pl.nn.score_table import ScoreTable
from flexunet_pl.training.conclusions import Findings, advice_line, reason, score_interval, score_line, worst_line
from flexunet_pl.training.run_status import Scored

NAMES = ("background", "crack", "oil")
FINE = [[80, 0, 0], [1, 9, 0], [0, 0, 10]]  # crack 18 / 19, oil 1
SWAPPED = [[80, 0, 0], [0, 6, 4], [0, 0, 10]]  # 40 % of the crack is found as oil


def found(*confusions: list[list[int]], edges: Any = None, shrinkage: float = 1.0, **changes: Any) -> Findings:
    extra: dict[str, Any] = {} if edges is None else {"edges": np.array(edges)}
    images = counted(*confusions, shrinkage=shrinkage, **extra)
    values: dict[str, Any] = {
        "names": NAMES,
        "images": images,
        "is_best": True,
        "groups": images.names,
        "history": [],
        "training": None,
        "sources": {},
        "size": "32 x 32",
    }
    return Findings(**values | changes)


def test_the_interval_is_that_of_the_groups() -> None:
    """Of two images with Dice 1 and 0, a quarter of the draws has each one twice."""
    both = np.array([PERFECT, MISSED])
    assert score_interval(both, ["a", "b"]) == [0, 1]
    assert score_interval(both, ["a", "a"]) is None, "one group alone"
    assert score_interval(np.array([PERFECT, GOOD]), ["a", "b"]) is None, "one group alone has a defect"
    assert score_interval(np.array([PERFECT, PERFECT]), ["a", "b"]) == [1, 1]


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        pytest.param(
            found(PERFECT, MISSED),
            "mDice 0.667, 95 % interval 0.000 to 1.000; 2 validation images (epoch 3, the best checkpoint).",
            id="2*10 / (20 + 10)",
        ),
        pytest.param(
            found(PERFECT, MISSED, PERFECT, groups=["a", "b", "a"], is_best=False),
            "mDice 0.800, 95 % interval 0.000 to 1.000 over 2 sources; 3 validation images (epoch 3, the last).",
            id="2*20 / (30 + 20), by source",
        ),
        pytest.param(
            found(PERFECT),
            "mDice 1.000, too few images for an interval; 1 validation image (epoch 3, the best checkpoint).",
            id="one image",
        ),
        pytest.param(
            found(GOOD, ALARM),
            "No score: no defect in 2 validation images (epoch 3, the best checkpoint).",
            id="no defects",
        ),
    ],
)
def test_the_score_comes_with_its_interval(finding: Findings, line: str) -> None:
    assert score_line(finding) == line


@pytest.mark.parametrize(
    ("confusion", "edges", "text"),
    [
        pytest.param([[0, 1, 0], [6, 0, 2], [0, 0, 0]], 0, "it is missed: 67% of its wrong pixels", id="6 of 9"),
        pytest.param([[0, 6, 0], [3, 9, 0], [0, 0, 0]], 0, "false alarms: 67% of its wrong pixels", id="6 of 9 alarms"),
        pytest.param(
            [[0, 1, 0], [1, 5, 2], [0, 4, 0]], 0, "confused with oil: 75% of its wrong pixels", id="6 of 8, both ways"
        ),
        pytest.param(
            [[0, 3, 0], [2, 9, 0], [0, 0, 0]],
            [[0, 3, 0], [1, 8, 0], [0, 0, 0]],
            "its edges: 80% of its wrong pixels lie within 2 pixels of an outline",
            id="4 of 5 at the edge",
        ),
        pytest.param(
            [[0, 0, 0], [5, 1, 0], [0, 0, 0]],
            [[0, 0, 0], [5, 1, 0], [0, 0, 0]],
            "it is missed: 100% of its wrong pixels",
            id="a thin class that is missed is all edge",
        ),
        pytest.param([[9, 0, 0], [0, 5, 0], [3, 0, 4]], 0, "no pixel of it is wrong", id="nothing wrong"),
    ],
)
def test_the_worst_class_has_a_reason(confusion: list[list[int]], edges: Any, text: str) -> None:
    near = np.zeros((3, 3), dtype=np.int64) if edges == 0 else np.array(edges)
    assert reason(np.array(confusion), near, 1, NAMES) == text


def test_the_worst_class_is_the_one_with_the_lowest_dice() -> None:
    assert worst_line(found(FINE)) == "Worst class: crack, Dice 0.947; it is missed: 100% of its wrong pixels."
    assert worst_line(found(GOOD)) == "Worst class: none of the classes occurs in the validation images."


def history(*scores: float) -> list[Scored]:
    return [Scored(epoch, score) for epoch, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("finding", "advice"),
    [
        pytest.param(
            found(MISSED, PERFECT[:1] + MISSED[1:]),
            "more training; no defect is found in 2 validation images",
            id="background only",
        ),
        pytest.param(
            found([[89, 1, 0], [10, 0, 0], [0, 0, 0]], history=history(0.1, 0.0)),
            "more training; mDice is 0.000 after 2 epochs",
            id="hardly anything is learned",
        ),
        pytest.param(
            found(FINE, history=history(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.92), sources={1: 1, 2: 9}),
            "more time; mDice still rose by 0.210 in the last 2 of 8",
            id="(.8 + .92) / 2 - (.6 + .7) / 2, before anything else",
        ),
        pytest.param(
            found(FINE, sources={1: 2, 2: 1}),
            "more sources of crack; it has 2 sources in training, and Dice 0.947 in validation",
            id="few sources matter where the class is below the mean",
        ),
        pytest.param(
            found(FINE, sources={1: 3, 2: 1}),
            "more images of crack, the lowest Dice (0.947 in 1 validation image); nothing else stands out",
            id="oil has one source, and is fine",
        ),
        pytest.param(
            found(SWAPPED, training=ScoreTable([[80, 0, 0], [0, 8, 2], [0, 0, 10]])),
            "labels to check, of crack and oil; 40% of the pixels of crack are found as oil, and 20% in the images "
            "trained on",
            id="confused in training too",
        ),
        pytest.param(
            found(SWAPPED, training=ScoreTable([[80, 0, 0], [0, 10, 0], [0, 0, 10]])),
            "more images of crack, the lowest Dice (0.750 in 1 validation image); nothing else stands out",
            id="not confused in training",
        ),
        pytest.param(
            found(HALF, shrinkage=2.0),
            "a larger data.image_size; at 32 x 32, half of the images with crack show at most 10 pixels of it, and the "
            "files are 2.0 times as long and wide",
            id="tiny at the working size",
        ),
        pytest.param(
            found(HALF, history=history(0.6, 0.63, 0.667)),
            "more time; mDice still rose by 0.037 in the last validation of 3",
            id="rising a little, and nothing else",
        ),
        pytest.param(
            found(GOOD),
            "validation images with defects; there is no score without them",
            id="no defect in validation",
        ),
    ],
)
def test_the_advice_is_the_first_rule_that_holds(finding: Findings, advice: str) -> None:
    assert advice_line(finding) == f"Would help most: {advice}."
