"""Colours that the program chooses differ for every kind of colour vision."""

from itertools import islice

import numpy as np
import pytest

from flexunet_pl.data.distinct_colors import DEFICIENCIES, SAFE_COLORS, distances, distinct_colors
from flexunet_pl.data.palette import Color

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def least_distance(colors: list[Color]) -> float:
    return float((distances(colors, colors) + np.diag([np.inf] * len(colors))).min())


def test_distances_are_those_of_cielab() -> None:
    assert distances([BLACK], [WHITE])[0, 0] == pytest.approx(100, abs=0.1), "L* runs from 0 to 100"
    assert distances([(90, 90, 90)], [(90, 90, 90)])[0, 0] == 0


@pytest.mark.parametrize(
    ("confused", "clear"),
    [
        pytest.param([(204, 0, 0), (95, 95, 0)], [(0, 0, 255), (255, 255, 0)], id="red and olive, for want of a cone"),
        pytest.param([(0, 155, 155), (155, 155, 155)], [(213, 94, 0), (86, 180, 233)], id="cyan and grey"),
    ],
)
def test_what_some_eyes_confuse_is_close(confused: list[Color], clear: list[Color]) -> None:
    assert distances(confused[:1], confused[1:])[0, 0] < 25 < distances(clear[:1], clear[1:])[0, 0]


def test_greys_look_alike_to_all_eyes() -> None:
    for view in DEFICIENCIES.values():
        assert np.sum(view, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("classes", "least"), [(5, 16), (7, 16), (12, 16), (20, 13), (40, 9), (254, 1.5)])
def test_colours_of_many_classes_stay_apart(classes: int, least: float) -> None:
    colors = list(islice(distinct_colors([BLACK, WHITE]), classes))
    assert tuple(colors[:7]) == SAFE_COLORS[:classes]
    assert len(set(colors)) == classes
    assert least_distance([BLACK, WHITE, *colors]) >= least
    assert min(max(color) - min(color) for color in colors) > 80, "no greys"


def test_new_colours_keep_clear_of_those_that_are_taken() -> None:
    taken: list[Color] = [BLACK, (213, 94, 0), (80, 180, 230)]
    found = list(islice(distinct_colors(taken), 6))
    assert found[0] == SAFE_COLORS[2], "vermillion is taken, and sky blue too close to what is taken"
    assert distances(found, taken).min() >= 10
