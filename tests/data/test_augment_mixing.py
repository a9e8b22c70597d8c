"""Mosaics, copied defects and crops: whose pixels and labels end up where."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexunet_pl.data.augment import Planes, build_augmentation
from flexunet_pl.data.augment.crop import Crop

UInt8Array = npt.NDArray[np.uint8]


def surface(height: int, width: int, value: int, defect: tuple[slice, slice] | None = None, label: int = 1) -> Planes:
    """Return a flat picture of ``value``, with a rectangular defect 60 above it."""
    image = np.full((3, height, width), value, dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    if defect is not None:
        image[:, *defect] += np.uint8(60)
        mask[defect] = label
    return image, mask


def endless(*pairs: Planes) -> Iterator[Planes]:
    while True:
        yield from pairs


@pytest.mark.parametrize("feather", [0, 3])
def test_copy_paste_brings_the_defect_its_class_and_the_surface_it_lands_on(feather: float) -> None:
    image, mask = surface(64, 64, 100)
    donor = surface(40, 90, 150, (slice(10, 18), slice(30, 50)), label=4)
    mixed_image, mixed_mask = build_augmentation({"copy_paste": {"p": 1, "feather": feather}})(
        image, mask, np.random.default_rng(0), lambda: donor
    )
    rows, columns = np.nonzero(mixed_mask == 4)
    assert len(rows) == 8 * 20
    assert (int(np.ptp(rows)), int(np.ptp(columns))) == (7, 19)
    # The donor's surface is 50 brighter: its defect of 210 comes over as 160, 60 above the surface as it was.
    assert np.abs(mixed_image[:, mixed_mask == 4].astype(int) - 160).max() <= 1
    far = np.ones_like(mask, dtype=bool)
    far[max(0, rows.min() - 4) : rows.max() + 5, max(0, columns.min() - 4) : columns.max() + 5] = False
    assert (mixed_image[:, far] == 100).all()
    assert (image == 100).all()
    assert (mask == 0).all()


def test_copy_paste_copies_one_class_and_neither_other_defects_nor_ignored_pixels() -> None:
    donor_image, donor_mask = surface(32, 32, 90)
    donor_mask[2:4, 2:4], donor_mask[20:30, 20:22], donor_mask[10:12] = 1, 2, 255
    augmentation = build_augmentation({"copy_paste": 1})
    seen = set()
    for seed in range(20):
        mask = augmentation(*surface(32, 32, 90), np.random.default_rng(seed), lambda: (donor_image, donor_mask))[1]
        seen.add((int((mask == 1).sum()), int((mask == 2).sum()), int((mask == 255).sum())))
    assert seen == {(4, 0, 0), (0, 20, 0)}


def test_copy_paste_takes_part_of_a_defect_larger_than_the_picture() -> None:
    donor = surface(200, 200, 90, (slice(5, 195), slice(5, 195)))
    _, mask = build_augmentation({"copy_paste": 1})(
        *surface(32, 48, 90), np.random.default_rng(0), partner=lambda: donor
    )
    assert (mask == 1).mean() > 0.5


def test_copy_paste_asks_three_partners_for_a_defect_and_then_leaves_the_sample() -> None:
    asked = 0

    def clean() -> Planes:
        nonlocal asked
        asked += 1
        return surface(32, 32, 200)

    image, mask = build_augmentation({"copy_paste": 1})(*surface(32, 32, 90), np.random.default_rng(0), clean)
    assert asked == 3
    assert (image == 90).all()
    assert (mask == 0).all()


def test_mosaic_keeps_one_part_and_takes_three_from_partners_labels_included() -> None:
    partners = endless(*(surface(70, 80, value, (slice(0, 70), slice(0, 80)), label=value) for value in (1, 2, 3)))
    for seed in range(10):
        image, mask = build_augmentation({"mosaic": 1})(
            *surface(48, 64, 9, (slice(0, 48), slice(0, 64)), label=9),
            np.random.default_rng(seed),
            lambda: next(partners),
        )
        assert set(np.unique(mask).tolist()) == {1, 2, 3, 9}
        np.testing.assert_array_equal(image[0], mask + 60)
        corners = {int(mask[row, column]) for row in (0, -1) for column in (0, -1)}
        assert corners == {1, 2, 3, 9}


def test_mosaic_pads_small_partners_with_ignore() -> None:
    partners = endless(surface(4, 4, 50))
    _, mask = build_augmentation({"mosaic": 1})(*surface(64, 64, 9), np.random.default_rng(0), lambda: next(partners))
    assert (mask == 255).any()


@pytest.mark.parametrize("name", ["copy_paste", "mosaic"])
def test_mixing_without_a_partner_is_an_error(name: str) -> None:
    augmentation = build_augmentation({name: 0.01})
    with pytest.raises(ValueError, match="need a partner"):
        augmentation(*surface(8, 8, 0), np.random.default_rng(0))


def test_without_mixing_no_partner_is_read() -> None:
    augmentation = build_augmentation({"preset": "full", "copy_paste": False, "mosaic": 0})
    augmentation(*surface(8, 8, 0), np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_a_crop_has_its_size_and_is_cut_out_unchanged(
    height: int, width: int, crop_height: int, crop_width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 3, (height, width), dtype=np.uint8)
    image = np.stack([mask, np.arange(height * width, dtype=np.uint16).reshape(height, width).astype(np.uint8)])
    cut, cut_mask = build_augmentation(None, (crop_height, crop_width))(image, mask, rng)
    assert cut.shape == (2, crop_height, crop_width)
    inside = cut_mask != 255
    np.testing.assert_array_equal(cut[0][inside], cut_mask[inside])
    # What is beyond the picture, and only that, is ignored, and lies at the right and at the bottom.
    rows, columns = min(height, crop_height), min(width, crop_width)
    assert inside[:rows, :columns].all()
    assert inside.sum() == rows * columns
    if crop_width > width:
        np.testing.assert_array_equal(cut[:, :rows, -1], cut[:, :rows, width - 1])


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0.0, 0.25), (0.7, 0.6, 0.85), (1.0, 1.0, 1.0)])
def test_the_share_of_crops_about_a_foreground_pixel(share: float, least: float, most: float) -> None:
    _, mask = surface(128, 128, 0, (slice(60, 64), slice(100, 104)))
    rng = np.random.default_rng(0)
    crop = Crop(foreground_share=share)
    hits = [(crop.window(mask, 32, 32, rng).cut(mask[None], mask)[1] == 1).any() for _ in range(300)]
    assert least <= np.mean(hits) <= most


def test_a_foreground_crop_keeps_its_pixel_in_the_middle_half_unless_the_edge_forbids() -> None:
    _, mask = surface(200, 200, 0, (slice(90, 91), slice(2, 3)))
    rng = np.random.default_rng(0)
    crop = Crop(foreground_share=1)
    windows = [crop.window(mask, 40, 40, rng) for _ in range(200)]
    assert {window.left for window in windows} == {0}
    offsets = {90 - window.top for window in windows}
    assert offsets == set(range(10, 30))


def test_class_balanced_crops_find_the_rare_class_as_often_as_the_common_one() -> None:
    _, mask = surface(256, 256, 0, (slice(0, 100), slice(0, 100)))
    mask[230:232, 230:232] = 2
    rng = np.random.default_rng(0)
    rare = {}
    for balanced in (True, False):
        crop = Crop(foreground_share=1, class_balanced=balanced)
        cuts = [crop.window(mask, 32, 32, rng).cut(mask[None], mask)[1] for _ in range(300)]
        rare[balanced] = np.mean([(cut == 2).any() for cut in cuts])
    assert 0.4 < rare[True] < 0.6
    assert rare[False] < 0.05


@pytest.mark.parametrize("value", [0, 255])
def test_foreground_crops_of_pictures_without_foreground_lie_anywhere(value: int) -> None:
    mask = np.full((50, 50), value, dtype=np.uint8)
    rng = np.random.default_rng(0)
    for balanced in (True, False):
        crop = Crop(foreground_share=1, class_balanced=balanced)
        assert len({crop.window(mask, 20, 20, rng).top for _ in range(100)}) > 20
