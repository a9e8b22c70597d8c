"""Geometric augmentation: image and mask stay together, and every transform does what its formula says."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from flexunet_pl.data.augment import PRESETS, TRANSFORMS, Planes, build_augmentation
from flexunet_pl.data.augment.distortion import Barrel, Elastic, Pincushion, SmoothNoise
from flexunet_pl.data.augment.geometric import Perspective, Rotation, Shrink
from flexunet_pl.data.augment.kinds import Field, Flip, Homography, Radial
from flexunet_pl.data.augment.sampling import Warp, sample, source_points

UInt8Array = npt.NDArray[np.uint8]
CLASSES = 3

share = st.floats(0, 1)
GEOMETRIC: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "hflip": {},
    "vflip": {},
    "right_angle": {},
    "rotation": {"angles": st.lists(st.floats(-360, 360), max_size=2), "limit": st.floats(0, 180)},
    "shrink": {"shrinks": st.lists(st.floats(0.05, 0.99), min_size=1, max_size=2)},
    "scale": {"factor": st.floats(0.05, 20)},
    "shear": {"shears": st.lists(st.floats(-0.99, 0.99), max_size=2), "limit": st.floats(0, 2)},
    "perspective": {"limit": st.floats(0, 0.24)},
    "barrel": {
        "radius": st.floats(0.01, 2),
        "amount": st.floats(0.01, 4),
        "centers": st.lists(st.tuples(share, share), min_size=1, max_size=3),
    },
    "pincushion": {
        "radius": st.floats(0.01, 2),
        "amount": st.floats(-0.95, -0.01),
        "centers": st.lists(st.tuples(share, share), min_size=1, max_size=3),
    },
    "elastic": {"alpha": st.floats(0, 3000), "sigmoids": st.lists(st.floats(1, 40), min_size=1, max_size=2)},
    "smooth_noise": {
        "gaussian_filter_rsigma": st.floats(1, 80),
        "distortions": st.lists(st.floats(0, 0.2), min_size=1, max_size=2),
    },
}


@st.composite
def specs(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    """Draw options for every transform of ``names``, each certain to act."""
    return {name: {"p": 1} | {key: draw(value) for key, value in GEOMETRIC[name].items()} for name in names}


def mask_and_its_image(height: int, width: int, seed: int) -> Planes:
    """Return a mask of random patches down to one pixel, and as image its classes, 255 in the channel of the class."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, CLASSES, ((height + 3) // 4, (width + 3) // 4), dtype=np.uint8)
    mask = patches.repeat(4, axis=0).repeat(4, axis=1)[:height, :width].copy()
    speckled = rng.random((height, width)) < 0.2
    mask[speckled] = rng.integers(0, CLASSES, int(speckled.sum()), dtype=np.uint8)
    return np.stack([(mask == index) * np.uint8(255) for index in range(CLASSES)]), mask


def misaligned(image: UInt8Array, mask: UInt8Array) -> int:
    """Count the pixels whose label contradicts the image.

    Of the four pixels that bilinear interpolation mixes, the nearest has at least a quarter of the weight. So the
    channel of the label's class shows at least 255 / 4, rounding aside, and no other channel more than 3 * 255 / 4.
    """
    known = mask != 255
    own = np.zeros(mask.shape, dtype=bool)
    for index in range(CLASSES):
        here = mask == index
        own |= here & (image[index] >= 63)
        known &= ~(~here & (mask != 255) & (image[index] > 192))
    return int(((mask != 255) & ~(own & known)).sum())


@pytest.mark.parametrize("name", GEOMETRIC)
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_image_and_mask_stay_aligned(name: str, data: st.DataObject) -> None:
    spec = data.draw(specs([name])) | {"fill": data.draw(st.sampled_from(["mirror", "ignore"]))}
    image, mask = mask_and_its_image(data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70)), 0)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    assert misaligned(*build_augmentation(spec)(image, mask, rng)) == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_image_and_mask_stay_aligned_when_all_transforms_are_composed_in_a_crop(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(list(GEOMETRIC)), unique=True))
    spec = data.draw(specs(names)) | {"fill": data.draw(st.sampled_from(["mirror", "ignore"]))}
    crop = (data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)))
    image, mask = mask_and_its_image(data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70)), 0)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    new_image, new_mask = build_augmentation(spec, crop)(image, mask, rng)
    assert new_mask.shape == crop
    assert misaligned(new_image, new_mask) == 0


def test_every_geometric_transform_is_under_the_alignment_test() -> None:
    kinds = (Flip, Homography, Radial, Field)
    assert set(GEOMETRIC) == {name for name, kind in TRANSFORMS.items() if issubclass(kind, kinds)}


@pytest.mark.parametrize("name", GEOMETRIC)
def test_the_alignment_test_notices_one_pixel(name: str) -> None:
    spec = {name: {**PRESETS["full"][name], "p": 1}}
    image, mask = mask_and_its_image(64, 64, 1)
    image, mask = build_augmentation(spec)(image, mask, np.random.default_rng(2))
    assert misaligned(image, mask) == 0
    assert misaligned(image, np.roll(mask, 1, axis=1)) > 100
    assert misaligned(image, np.roll(mask, 1, axis=0)) > 100


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_by_right_angles_is_exact_and_counter_clockwise(quarters: int) -> None:
    image, mask = mask_and_its_image(33, 33, 3)
    spec = {"rotation": {"p": 1, "angles": [90 * quarters]}}
    turned_image, turned_mask = build_augmentation(spec)(image, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(turned_image, np.rot90(image, quarters, axes=(1, 2)))
    np.testing.assert_array_equal(turned_mask, np.rot90(mask, quarters))


def test_right_angle_takes_every_turn_on_squares_and_only_180_elsewhere() -> None:
    augmentation = build_augmentation({"right_angle": 1})
    rng = np.random.default_rng(0)
    image, mask = mask_and_its_image(8, 8, 3)
    seen = {augmentation(image, mask, rng)[1].tobytes() for _ in range(40)}
    assert seen == {np.rot90(mask, quarters).tobytes() for quarters in (1, 2, 3)}
    image, mask = mask_and_its_image(8, 12, 3)
    for _ in range(10):
        np.testing.assert_array_equal(augmentation(image, mask, rng)[1], mask[::-1, ::-1])


def test_flips_reverse_columns_and_rows() -> None:
    image, mask = mask_and_its_image(5, 7, 4)
    flipped_image, flipped_mask = build_augmentation({"hflip": 1})(image, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped_image, image[:, :, ::-1])
    np.testing.assert_array_equal(flipped_mask, mask[:, ::-1])
    flipped_image, flipped_mask = build_augmentation({"vflip": 1})(image, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped_image, image[:, ::-1])
    np.testing.assert_array_equal(flipped_mask, mask[::-1])


@pytest.mark.parametrize(
    ("spec", "row", "column", "source_row", "source_column"),
    [
        # The middle of 41 x 61 pixels is (20, 30).
        pytest.param({"shrink": {"shrinks": [0.5]}}, 25, 40, 30, 50, id="shrink to a half: twice as far out"),
        pytest.param({"scale": {"factor": 2}}, 30, 40, 25, 35, id="scale by 2: half as far out"),
        pytest.param({"shear": {"shears": [0.5]}}, 25, 40, 20, 40, id="shear 0.5: 10 columns right came from 5 up"),
        pytest.param({"shear": {"shears": [-0.5]}}, 25, 40, 30, 40, id="shear -0.5: the other way"),
        pytest.param({"rotation": {"angles": [180]}}, 25, 40, 15, 20, id="rotation by 180 degrees"),
        pytest.param({"rotation": {"angles": [90]}}, 25, 40, 30, 25, id="rotation by 90: 10 right came from 10 down"),
        pytest.param(
            {"rotation": {"angles": [90]}, "shrink": {"shrinks": [0.5]}}, 25, 35, 30, 20, id="composed in one step"
        ),
    ],
)
def test_homographies_look_where_they_should(
    spec: dict[str, Any], row: int, column: int, source_row: int, source_column: int
) -> None:
    mask = np.arange(41 * 61).reshape(41, 61) % 251
    certain = {name: options | {"p": 1} for name, options in spec.items()}
    image = np.zeros((1, 41, 61), dtype=np.uint8)
    warped = build_augmentation(certain)(image, mask.astype(np.uint8), np.random.default_rng(0))[1]
    assert warped[row, column] == mask[source_row, source_column]


def test_perspective_takes_corners_to_points_within_its_limit_and_keeps_lines_straight() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        x, y = source_points([Perspective(limit=0.2)], 101, 201, rng)
        for row, column, corner_y, corner_x in ((0, 0, 0, 0), (0, -1, 0, 200), (-1, 0, 100, 0), (-1, -1, 100, 200)):
            assert abs(float(x[row, column]) - corner_x) <= 0.2 * 200 + 1e-2
            assert abs(float(y[row, column]) - corner_y) <= 0.2 * 100 + 1e-2
        first, middle, last = ((float(x[50, at]), float(y[50, at])) for at in (0, 90, 200))
        cross = (middle[0] - first[0]) * (last[1] - first[1]) - (middle[1] - first[1]) * (last[0] - first[0])
        assert abs(cross) / math.dist(first, last) < 1e-2


def radial_source(x: float, y: float, width: int, height: int, lens: Barrel | Pincushion) -> tuple[float, float]:
    """Return the source of one pixel, straight from the formula."""
    ((ox, oy),) = lens.centers
    center_x, center_y, reach = width * ox, height * oy, width * lens.radius
    distance = math.hypot(x - center_x, y - center_y)
    if not 0 < distance < reach:
        return x, y
    factor = math.sin(math.pi * distance / (2 * reach)) ** lens.amount
    return center_x + factor * (x - center_x), center_y + factor * (y - center_y)


@pytest.mark.parametrize("center", [(0.5, 0.5), (0.3, 0.3), (0.7, 0.3), (0.3, 0.7), (0.7, 0.7), (0.0, 1.0)])
@pytest.mark.parametrize(
    ("name", "radius", "amount"),
    [
        ("barrel", 0.5, 0.5),
        ("barrel", 0.3, 0.3),
        ("barrel", 0.9, 1.7),
        ("pincushion", 0.5, -0.5),
        ("pincushion", 0.3, -0.3),
    ],
)
def test_barrel_and_pincushion_agree_with_the_formula_within_half_a_pixel(
    name: str, radius: float, amount: float, center: tuple[float, float]
) -> None:
    height, width = 96, 124
    # The image shows twice its own coordinates, so that reading it tells the source to a quarter of a pixel.
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([2 * columns, 2 * rows]).astype(np.uint8)
    spec = {name: {"p": 1, "radius": radius, "amount": amount, "centers": [center]}}
    seen_x, seen_y = build_augmentation(spec)(image, columns.astype(np.uint8), np.random.default_rng(0))[0] / 2.0
    seen_column = build_augmentation(spec)(image, columns.astype(np.uint8), np.random.default_rng(0))[1]
    lens = TRANSFORMS[name](radius=radius, amount=amount, centers=(center,))  # type: ignore[call-arg]
    assert isinstance(lens, Barrel | Pincushion)
    checked = moved = 0
    for row in range(0, height, 5):
        for column in range(0, width, 5):
            x, y = radial_source(column, row, width, height, lens)
            if 0 <= x <= width - 1 and 0 <= y <= height - 1:
                assert abs(seen_x[row, column] - x) <= 0.26
                assert abs(seen_y[row, column] - y) <= 0.26
                assert abs(int(seen_column[row, column]) - x) <= 0.51
                checked += 1
                moved += math.dist((x, y), (column, row)) > 1
    assert checked > 300
    assert moved > 10


def test_one_of_several_centers_is_drawn_for_each_sample() -> None:
    lens = Barrel(radius=0.2, amount=0.5, centers=((0.25, 0.25), (0.75, 0.75)))
    rng = np.random.default_rng(0)
    moved = set()
    for _ in range(20):
        x, y = source_points([lens], 100, 100, rng)
        bent = torch.hypot(x - torch.arange(100), y - torch.arange(100)[:, None]) > 0.5
        moved.add((bool(bent[:50, :50].any()), bool(bent[50:, 50:].any())))
    assert moved == {(True, False), (False, True)}


def test_barrel_enlarges_and_pincushion_shrinks_about_the_centre() -> None:
    disk = np.hypot(*(np.mgrid[:101, :101] - 50)) < 15
    image = np.zeros((1, 101, 101), dtype=np.uint8)
    sizes = {
        name: int(build_augmentation({name: 1})(image, disk.astype(np.uint8), np.random.default_rng(0))[1].sum())
        for name in ("barrel", "pincushion")
    }
    assert sizes["pincushion"] < disk.sum() / 1.5
    assert sizes["barrel"] > disk.sum() * 1.5


@pytest.mark.parametrize("sigma", [7, 12])
def test_elastic_is_as_strong_as_the_original(sigma: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.random((256, 256, 3)) * 2 - 1
    original = gaussian_filter(noise, sigma, mode="constant", cval=0)[40:-40, 40:-40] * 1300
    ours = torch.stack([torch.stack(Elastic(sigmoids=(sigma,)).shifts(256, 256, rng)) for _ in range(4)])
    assert float(ours.std()) == pytest.approx(1300 / (2 * math.sqrt(2) * math.pi * sigma**2), rel=0.1)
    assert float(ours.std()) == pytest.approx(float(original.std()), rel=0.2)
    slope = float(torch.diff(ours, dim=-1).std())
    assert slope == pytest.approx(float(np.diff(original, axis=1).std()), rel=0.2)


def test_smooth_noise_shifts_by_at_most_its_share_of_the_longer_side() -> None:
    shift_x, shift_y = SmoothNoise(distortions=(0.03,)).shifts(120, 200, np.random.default_rng(0))
    assert shift_x.shape == shift_y.shape == (120, 200)
    assert float(shift_x.abs().max()) == pytest.approx(6)
    assert float(shift_y.abs().max()) == pytest.approx(6)
    # Smooth over about 40 pixels: neighbouring pixels stay neighbours.
    assert float(torch.diff(shift_x).abs().max()) < 0.5


def test_smooth_noise_follows_the_slopes_of_one_landscape() -> None:
    shift_x, shift_y = SmoothNoise().shifts(160, 160, np.random.default_rng(0))
    across, down = torch.diff(shift_x, dim=0)[:, :-1].double(), torch.diff(shift_y, dim=1)[:-1].double()
    # d2/dydx of the landscape is the same either way; the two shifts are scaled, hence a correlation.
    correlation = torch.corrcoef(torch.stack([across.reshape(-1), down.reshape(-1)]))[0, 1]
    assert float(correlation) > 0.999


def test_beyond_the_edge_lies_the_mirror_image_or_ignore() -> None:
    image = np.arange(1, 10, dtype=np.uint8).reshape(1, 1, 9)
    mask = image[0].copy()
    x = torch.arange(-3.0, 12.0)[None]
    points = (x, torch.zeros_like(x))
    mirrored_image, mirrored_mask = sample(image, mask, points, ignore_outside=False)
    assert mirrored_mask.tolist() == [[3, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7]]
    np.testing.assert_array_equal(mirrored_image[0], mirrored_mask)
    repeated_image, ignored_mask = sample(image, mask, points, ignore_outside=True)
    assert ignored_mask.tolist() == [[255] * 3 + list(range(1, 10)) + [255] * 3]
    assert repeated_image.tolist() == [[[1, 1, 1, *range(1, 10), 9, 9, 9]]]


def test_bilinear_for_the_image_and_nearest_for_the_mask() -> None:
    image = np.array([[[0, 100], [200, 40]]], dtype=np.uint8)
    mask = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    points = (torch.tensor([[0.25, 0.75]]), torch.tensor([[0.25, 0.75]]))
    new_image, new_mask = sample(image, mask, points, ignore_outside=False)
    # 0.75 * (0.75 * 0 + 0.25 * 100) + 0.25 * (0.75 * 200 + 0.25 * 40) = 58.75
    # 0.25 * (0.25 * 0 + 0.75 * 100) + 0.75 * (0.25 * 200 + 0.75 * 40) = 78.75
    assert new_image.tolist() == [[[59, 79]]]
    assert new_mask.tolist() == [[1, 4]]


def test_a_crop_turned_by_a_warp_shows_what_really_lies_beside_it() -> None:
    rows, columns = np.mgrid[:100, :100]
    image = np.stack([2 * columns, 2 * rows]).astype(np.uint8)
    spec = {"rotation": {"p": 1, "angles": [45]}, "crop": {"foreground_share": 1}}
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[50, 50] = 1
    x, y = build_augmentation(spec, (20, 20))(image, mask, np.random.default_rng(0))[0] / 2.0
    # The corners of the turned crop stand 9.5 * sqrt(2) off its middle along one axis, which is beyond its 9.5.
    middle_x, middle_y = x[9:11, 9:11].mean(), y[9:11, 9:11].mean()
    offsets = [
        math.dist((x[corner], y[corner]), (middle_x, middle_y)) for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1))
    ]
    np.testing.assert_allclose(offsets, 9.5 * math.sqrt(2), atol=0.5)
    assert max(abs(x[0, 0] - middle_x), abs(y[0, 0] - middle_y)) > 13


def test_fields_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        for field in (Elastic(), SmoothNoise()):
            shifts = []
            for threads in (1, 3):
                torch.set_num_threads(threads)
                shifts.append(torch.stack(field.shifts(512, 512, np.random.default_rng(0))))
            assert torch.equal(*shifts)
    finally:
        torch.set_num_threads(before)


def test_warps_draw_their_parameters_from_the_given_generator_alone() -> None:
    warps: list[Warp] = [Rotation(limit=90), Shrink(shrinks=(0.5, 0.8)), Barrel(), Elastic(), SmoothNoise()]
    first = source_points(warps, 50, 60, np.random.default_rng(3))
    torch.manual_seed(99)
    again = source_points(warps, 50, 60, np.random.default_rng(3))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
