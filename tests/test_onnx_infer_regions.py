"""Regions of masks, counted by the self-contained inference file."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import (
    scipy_tally,
)

from flexunet_pl.inference import onnx_infer

UInt8Array = npt.NDArray[np.uint8]


def test_worked_regions() -> None:
    mask = np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.uint8)
    pixels, regions, largest = (column[:4].tolist() for column in onnx_infer.tally([mask]))
    assert pixels == [8, 3, 1, 0]
    assert regions == [1, 2, 1, 0]  # the two diagonal ones touch, the third one does not
    assert largest == [8, 2, 1, 0]


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    classes=st.integers(1, 4),
    grain=st.integers(1, 4),
    parts=st.integers(1, 8),
)
@settings(max_examples=150, deadline=None)
def test_regions_are_those_of_scipy_however_the_mask_is_cut(
    seed: int, height: int, width: int, classes: int, grain: int, parts: int
) -> None:
    coarse = np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)
    mask = np.kron(coarse, np.ones((grain, grain), dtype=np.uint8))
    bands = np.array_split(mask, min(parts, len(mask)))
    for found, expected in zip(onnx_infer.tally(bands), scipy_tally(mask), strict=True):
        np.testing.assert_array_equal(found[:255], expected[:255])


def spiral(side: int) -> UInt8Array:
    """Return one line of ones that winds from the border to the centre, the longest way a region can take."""
    mask = np.zeros((side, side), dtype=np.uint8)
    row, column, step_row, step_column = 0, 0, 0, 1
    mask[0, 0] = 1
    while True:
        for _ in range(2):
            ahead_row, ahead_column = row + 2 * step_row, column + 2 * step_column
            inside = 0 <= row + step_row < side and 0 <= column + step_column < side
            free = not (0 <= ahead_row < side and 0 <= ahead_column < side) or not mask[ahead_row, ahead_column]
            if inside and free and not mask[row + step_row, column + step_column]:
                row, column = row + step_row, column + step_column
                mask[row, column] = 1
                break
            step_row, step_column = step_column, -step_row
        else:
            return mask


@pytest.mark.parametrize("parts", [1, 3, 50])
def test_winding_region_is_one_region(parts: int) -> None:
    mask = spiral(101)
    _, regions, largest = onnx_infer.tally(np.array_split(mask, parts))
    assert regions[1] == 1
    assert largest[1] == mask.sum() > 4000
