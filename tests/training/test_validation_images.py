"""Which validation images need a look, and the file that keeps what a validation counted."""

from pathlib import Path

import numpy as np
import pytest

from flexunet_pl.training.validation_images import FILE, ValidationImages

# (background, crack, oil), rows the truth: 100 pixels an image.
PERFECT = [[90, 0, 0], [0, 10, 0], [0, 0, 0]]  # mDice 1
MISSED = [[90, 0, 0], [10, 0, 0], [0, 0, 0]]  # 0, 10 wrong
MISSED_MORE = [[70, 0, 0], [0, 0, 0], [30, 0, 0]]  # 0, 30 wrong
HALF = [[90, 0, 0], [5, 5, 0], [0, 0, 0]]  # 2*5 / (10 + 5) = 0.667
ALARM = [[80, 20, 0], [0, 0, 0], [0, 0, 0]]  # a good image, 20 false pixels
LOUDER = [[60, 0, 40], [0, 0, 0], [0, 0, 0]]
GOOD = [[100, 0, 0], [0, 0, 0], [0, 0, 0]]


def counted(*confusions: list[list[int]], first: int = 0, **changes: object) -> ValidationImages:
    values: dict[str, object] = {
        "epoch": 3,
        "indices": np.arange(first, first + len(confusions)),
        "names": [f"image_{number}" for number in range(len(confusions))],
        "confusions": np.array(confusions, dtype=np.int64),
        "edges": np.zeros((len(confusions[0]),) * 2, dtype=np.int64),
        "shrinkage": 1.0,
    }
    return ValidationImages(**values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("confusions", "count", "expected"),
    [
        pytest.param(
            [PERFECT, HALF, MISSED, MISSED_MORE],
            3,
            [(3, "mDice 0.000"), (2, "mDice 0.000"), (1, "mDice 0.667")],
            id="lowest first, more wrong pixels first",
        ),
        pytest.param(
            [ALARM, HALF, MISSED, LOUDER, PERFECT],
            3,
            [(2, "mDice 0.000"), (1, "mDice 0.667"), (3, "40 false pixels")],
            id="one in three is a good image, with the largest false alarm",
        ),
        pytest.param([GOOD, HALF, PERFECT], 3, [(1, "mDice 0.667"), (2, "mDice 1.000")], id="no false alarm"),
        pytest.param([ALARM, LOUDER, HALF], 3, [(2, "mDice 0.667"), (1, "40 false pixels"), (0, "20 false pixels")]),
        pytest.param([HALF, ALARM], 1, [(0, "mDice 0.667")], id="the only one has a defect"),
        pytest.param([GOOD, GOOD], 3, [], id="nothing to see"),
        pytest.param([HALF, MISSED], 0, [], id="none asked for"),
    ],
)
def test_the_worst_images_need_a_look(
    confusions: list[list[list[int]]], count: int, expected: list[tuple[int, str]]
) -> None:
    assert counted(*confusions).worst(count) == expected
    elsewhere = [(place + 7, reason) for place, reason in expected]
    assert counted(*confusions, first=7).worst(count) == elsewhere, "places are those in the split"


def test_one_sigmoid_channel_has_two_classes() -> None:
    images = counted([[90, 0], [10, 0]], [[90, 10], [0, 0]], [[90, 0], [0, 10]])
    assert images.worst(3) == [(0, "mDice 0.000"), (2, "mDice 1.000"), (1, "10 false pixels")]


def test_the_file_gives_the_counts_back(tmp_path: Path) -> None:
    images = counted(HALF, MISSED, names=["a", "b\udcff<&"], shrinkage=2.5)
    images.save(tmp_path)
    found = ValidationImages.load(tmp_path)
    assert found is not None
    assert (found.epoch, found.shrinkage, found.names) == (3, 2.5, ["a", "b\udcff<&"])
    assert found.worst(2) == images.worst(2)
    assert found.table == images.table
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_file_that_cannot_be_read_is_none(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    assert ValidationImages.load(tmp_path) is None
