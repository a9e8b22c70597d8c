"""Regions of masks, counted by the self-contained inference file."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import (
    scipy_tally,
)
from scipy import ndimage

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


def test_worked_small_regions() -> None:
    # 1 and 2 touch at a corner: one region of 3 pixels, of two classes. The last two are one of 2 pixels.
    mask = np.array([[1, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 3, 3]], dtype=np.uint8)
    assert onnx_infer.without_small_regions(mask, 0) is mask
    np.testing.assert_array_equal(onnx_infer.without_small_regions(mask, 2), mask)
    np.testing.assert_array_equal(onnx_infer.without_small_regions(mask, 3), [*mask[:3], [0] * 4])
    assert not onnx_infer.without_small_regions(mask, 4).any()


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 30),
    share=st.sampled_from([0.1, 0.3, 0.5]),
    smallest=st.integers(0, 15),
    cuts=st.sets(st.integers(1, 39)),
)
@settings(max_examples=150, deadline=None)
def test_small_regions_are_those_of_scipy_however_the_mask_is_cut(
    seed: int, height: int, width: int, share: float, smallest: int, cuts: set[int]
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((height, width)) < share, rng.integers(1, 4, (height, width)), 0).astype(np.uint8)
    region_of, _ = ndimage.label(mask > 0, structure=np.ones((3, 3)))
    expected = np.where(np.bincount(region_of.ravel())[region_of] < smallest, 0, mask)
    found = onnx_infer.without_small_regions(mask, smallest)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    bands = np.split(mask, sorted(cut for cut in cuts if cut < height))
    in_bands = onnx_infer._without_small_regions(bands, smallest)
    np.testing.assert_array_equal(np.concatenate(list(in_bands)), expected)


def test_few_rows_are_remembered() -> None:
    bands = [np.ones((4, 3), dtype=np.uint8)] * 20
    lengths = [len(band) for band in onnx_infer._without_small_regions(bands, 10)]
    assert sum(lengths) == 80
    # After three bands the first rows have ten below them; from then on as many rows leave as come.
    assert lengths == [2, *[4] * 17, 10]


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
