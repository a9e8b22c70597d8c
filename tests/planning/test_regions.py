"""Shapes of regions, and directions that mean something."""

import numpy as np
import pytest

from flexunet_pl.data.palette import UInt8Array
from flexunet_pl.planning.orientation import mirrored_classes, surface_direction
from flexunet_pl.planning.regions import RegionShape, region_shapes


def test_a_bar_has_its_own_width_length_and_direction() -> None:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[10:14, 5:45] = 2  # 4 high, 40 wide
    mask[30:34, 50:54] = 1
    bar = next(shape for shape in region_shapes(mask, 3) if shape.index == 2)
    # A uniform bar of length 40 has the variance 40²/12, so the ellipse is 4·40/√12 long and 160·4/(π·46.2) wide.
    assert bar.area == 160
    assert bar.length == pytest.approx(4 * 40 / 12**0.5)
    assert bar.width == pytest.approx(160 * 4 / (np.pi * bar.length))
    assert bar.angle == pytest.approx(0)
    square = next(shape for shape in region_shapes(mask, 3) if shape.index == 1)
    assert square.area == 16


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    mask = np.eye(10, dtype=np.uint8)
    (line,) = region_shapes(mask, 2)
    assert line.area == 10
    assert line.angle == pytest.approx(np.pi / 4)  # downwards to the right
    assert line.width < 2


def _stripes(angle: float) -> UInt8Array:
    rows, columns = np.mgrid[:64, :64]
    waves = 127 + 100 * np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * 0.8)
    return np.asarray(waves[..., None], dtype=np.uint8)


def test_a_surface_has_a_direction_if_all_images_agree() -> None:
    assert surface_direction([_stripes(0.0), _stripes(0.1)]) > 0.9
    assert surface_direction([_stripes(0.0), _stripes(np.pi / 2)]) < 0.05
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert surface_direction([noise]) < 0.1
    assert surface_direction([]) == 0


def _bars(index: int, angle: float, count: int = 6) -> list[RegionShape]:
    spread = np.linspace(-0.1, 0.1, count)
    return [RegionShape(index, 100, 4.0, 30.0, angle + float(off)) for off in spread]


@pytest.mark.parametrize(
    ("angles", "change", "expected"),
    [
        pytest.param((0.6, -0.6), "flip", (1, 2), id="mirror images of each other"),
        pytest.param((0.6, 0.6), "flip", None, id="the same direction"),
        pytest.param((0.0, np.pi / 2), "flip", None, id="a flip keeps upright and lying"),
        pytest.param((0.0, np.pi / 2), "quarter", (1, 2), id="a quarter turn exchanges upright and lying"),
        pytest.param((0.3, 0.9), "quarter", None, id="unrelated directions"),
    ],
)
def test_classes_that_a_change_exchanges(
    angles: tuple[float, float], change: str, expected: tuple[int, int] | None
) -> None:
    shapes = {index: _bars(index, angle) for index, angle in enumerate(angles, start=1)}
    assert mirrored_classes(shapes, change) == expected


def test_few_or_round_regions_have_no_direction() -> None:
    few = {1: _bars(1, 0.6, count=4), 2: _bars(2, -0.6)}
    assert mirrored_classes(few, "flip") is None
    round_ones = [RegionShape(1, 100, 10.0, 12.0, 0.6)] * 9
    assert mirrored_classes({1: round_ones, 2: _bars(2, -0.6)}, "flip") is None
