"""What is too small to be seen in a picture is ringed and enlarged."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.training.epoch_pictures import Shot, write_worst
from flexunet_pl.visualization.layers import (
    CONTEXT,
    Layer,
    crop_window,
    draw_layers,
    filled,
    overlay_picture,
    plain,
    scaled_mask,
    zoom_of,
)
from flexunet_pl.visualization.markers import MOST_MARKERS, Spot, find_spots, mark, ring_radius
from flexunet_pl.visualization.panels import write_panel
from flexunet_pl.visualization.pictures import legend, outlines, overlay

CRACK = (213, 94, 0)
PALETTE = Palette(("background", "crack", "oil"), ((0, 0, 0), CRACK, (0, 158, 115)))


def a_mask(*boxes: tuple[int, int, int, int, int], size: tuple[int, int] = (300, 400)) -> UInt8Array:
    """Return a mask with boxes (top, left, height, width, class)."""
    mask = np.zeros(size, dtype=np.uint8)
    for top, left, height, width, index in boxes:
        mask[top : top + height, left : left + width] = index
    return mask


# Which regions are tiny


def test_regions_up_to_a_share_of_the_longest_side_are_tiny() -> None:
    truth = a_mask((10, 20, 12, 5, 1), (100, 100, 13, 5, 1), (200, 200, 60, 60, 2))
    assert find_spots(truth, None, share=0.03) == [Spot(10, 20, 12, 5)], "12 of 400 pixels, but not 13"


def test_what_is_missed_comes_first_and_what_is_ignored_never() -> None:
    truth = a_mask((10, 10, 8, 8, 1), (50, 50, 4, 4, 2), (90, 90, 8, 8, 255))
    predicted = a_mask((12, 12, 8, 8, 1), (92, 92, 3, 3, 1), (200, 300, 5, 6, 1))
    assert find_spots(truth, predicted) == [Spot(50, 50, 4, 4), Spot(10, 10, 8, 8), Spot(200, 300, 5, 6)]
    assert find_spots(None, predicted)[0] == Spot(12, 12, 8, 8), "the largest first"
    assert find_spots(truth * 0, truth * 0) == []


def test_diagonal_neighbours_of_any_class_are_one_region_and_markers_are_few() -> None:
    truth = a_mask((10, 10, 2, 2, 1), (12, 12, 2, 2, 2))
    assert find_spots(truth, None) == [Spot(10, 10, 4, 4)]
    noise = np.zeros((300, 400), dtype=np.uint8)
    noise[::4, ::4] = 1
    assert len(find_spots(None, noise)) == MOST_MARKERS


# Where markers and crops are


@pytest.mark.parametrize("surface", [0, 128, 255])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_a_ring_in_white_and_black_is_around_the_defect(surface: int, scale: float) -> None:
    spot = Spot(100, 150, 10, 10)
    rgb = np.full((round(300 * scale), round(400 * scale), 3), surface, dtype=np.uint8)
    drawn = mark(rgb, [spot], scale)
    row, column, side = round(105 * scale), round(155 * scale), round(400 * scale)
    radius = round(ring_radius(spot, scale, side))
    inside = drawn[
        row - round(5 * scale) : row + round(5 * scale), column - round(5 * scale) : column + round(5 * scale)
    ]
    assert (inside == surface).all(), "the defect itself stays clear"
    right = drawn[row, column + radius // 2 : column + 2 * radius, 0]
    assert {0, 255} <= set(right.tolist()), "seen on black and on white"
    changed = np.argwhere((drawn != rgb).any(axis=2) if surface else (drawn == 255).any(axis=2))
    assert np.abs(changed.mean(axis=0) - (row, column)).max() <= 1.5
    assert np.abs(changed - (row, column)).max() <= radius + 3
    assert (rgb == surface).all(), "the picture given is left alone"


@pytest.mark.parametrize(
    ("spot", "zoom"),
    [
        pytest.param(Spot(700, 900, 10, 10), 4, id="128 rows of a crop hold 3 * 10 pixels 4 times"),
        pytest.param(Spot(700, 900, 2, 3), 8, id="16 pixels are shown at least: 8 times"),
        pytest.param(Spot(700, 900, 60, 20), 1, id="180 pixels are more than the crop has rows: as they are"),
    ],
)
def test_crops_are_enlarged_by_whole_numbers(spot: Spot, zoom: int) -> None:
    assert zoom_of(spot, (341, 256), (1500, 2000)) == zoom
    rows, columns = crop_window(spot, zoom, (341, 256), (1500, 2000))
    assert (rows.stop - rows.start, columns.stop - columns.start) == (128 // zoom, 341 // zoom)
    assert rows.start <= spot.top < spot.top + spot.height <= rows.stop
    assert zoom == 1 or rows.stop - rows.start >= CONTEXT * spot.side


@pytest.mark.parametrize("corner", [(0, 0), (1490, 0), (0, 1990), (1490, 1990)])
def test_a_crop_at_a_corner_holds_the_defect(corner: tuple[int, int]) -> None:
    spot = Spot(*corner, 10, 10)
    rows, columns = crop_window(spot, 4, (341, 256), (1500, 2000))
    assert 0 <= rows.start <= spot.top < spot.top + 10 <= rows.stop <= 1500
    assert 0 <= columns.start <= spot.left < spot.left + 10 <= columns.stop <= 2000


def test_ten_pixels_of_two_thousand_are_seen_in_a_panel() -> None:
    image = np.full((1500, 2000, 1), 120, dtype=np.uint8)
    truth = a_mask((700, 900, 10, 10, 1), size=(1500, 2000))
    layers = [Layer("image", plain), Layer("truth", filled(PALETTE.colors), (truth,))]
    drawn = draw_layers(image, layers, find_spots(truth, None))
    without = draw_layers(image, layers, [])
    assert without.shape[1] == drawn.shape[1]
    assert drawn.shape[0] > without.shape[0] + 128, "a row of crops below"
    edge = np.argwhere((drawn[without.shape[0] :] == CRACK).all(axis=2))
    assert np.ptp(edge, axis=0).tolist() == [39, 39], "10 pixels, 4 times as large"
    assert (drawn[: without.shape[0]] == 255).all(axis=2).any(), "a ring in the row above"
    assert (without[:, 347:] == CRACK).all(axis=2).any(), "and the defect is not lost when the picture shrinks"


def test_a_picture_that_shows_everything_gets_no_crop() -> None:
    truth = a_mask((10, 10, 2, 2, 1), size=(60, 80))
    layers = [Layer("image", plain)]
    shown = draw_layers(np.zeros((60, 80, 3), dtype=np.uint8), layers, find_spots(truth, None), height=1200)
    assert shown.shape == draw_layers(np.zeros((60, 80, 3), dtype=np.uint8), layers, [], height=1200).shape


# Masks and outlines at the size shown


def test_a_thin_line_and_the_rarer_class_survive_shrinking() -> None:
    mask = a_mask((0, 100, 300, 1, 1), (0, 0, 300, 80, 2), (50, 50, 4, 4, 1), size=(300, 400))
    small = scaled_mask(mask, (50, 38))
    assert (small[:, 12] == 1).all(), "an eighth of a pixel is covered"
    assert small[6, 6] == 1, "a quarter of a pixel among another class"
    assert (scaled_mask(mask, (800, 600)) == mask.repeat(2, axis=0).repeat(2, axis=1)).all()
    assert not scaled_mask(mask * 0, (50, 38)).any()


def test_outlines_lie_outside_and_may_be_dashed() -> None:
    image = np.full((40, 40, 3), 100, dtype=np.uint8)
    mask = a_mask((10, 10, 20, 20, 1), (0, 0, 3, 3, 255), size=(40, 40))
    drawn = outlines(image, mask, PALETTE.colors)
    colored = (drawn == CRACK).all(axis=2)
    assert not colored[10:30, 10:30].any(), "the surface inside is left alone"
    assert colored.sum() == 24 * 24 - 20 * 20, "two pixels wide on all sides"
    dashed = (outlines(image, mask, PALETTE.colors, dashed=True) == CRACK).all(axis=2)
    assert 0.3 < dashed.sum() / colored.sum() < 0.7
    assert not dashed[~colored].any()


# Files


def test_an_overlay_begins_with_the_image_in_its_own_size() -> None:
    image = np.full((600, 800, 3), 100, dtype=np.uint8)
    plain_mask = a_mask((100, 100, 300, 300, 1), size=(600, 800))
    assert (
        overlay_picture(image, plain_mask, PALETTE.colors, [overlay]) == overlay(image, plain_mask, PALETTE.colors)
    ).all()
    tiny = a_mask((300, 400, 6, 6, 1), size=(600, 800))
    drawn = overlay_picture(image, tiny, PALETTE.colors, [overlay])
    assert drawn.shape[0] > 600
    assert drawn.shape[1] == 800
    assert (drawn[302, 402] == overlay(image, tiny, PALETTE.colors)[302, 402]).all(), "pixel by pixel"
    zoomed = (drawn[600:] == CRACK).all(axis=2)
    assert zoomed.any()
    assert overlay_picture(image, tiny, PALETTE.colors, [overlay, outlines]).shape[1] == 1600


def test_the_pictures_of_reports_and_epochs_show_it(tmp_path: Path) -> None:
    image = np.full((300, 400, 1), 90, dtype=np.uint8)
    truth = a_mask((200, 30, 4, 4, 1))
    small = write_panel(tmp_path / "a.jpg", image, truth, [("", truth * 0)], PALETTE)
    write_panel(tmp_path / "b.jpg", image, truth * 0, [("", truth * 0)], PALETTE)
    assert small.startswith(b"\xff\xd8")
    with Image.open(tmp_path / "a.jpg") as ringed, Image.open(tmp_path / "b.jpg") as clear:
        assert ringed.width == clear.width
        assert ringed.height > clear.height + 128
    for name, mask in (("a", truth), ("b", truth * 0)):
        (tmp_path / name).mkdir()
        write_worst(tmp_path / name, [Shot("x", image, mask, truth * 0)], PALETTE)
    with Image.open(tmp_path / "a" / "worst.png") as ringed, Image.open(tmp_path / "b" / "worst.png") as clear:
        assert ringed.height > clear.height + 128


def test_a_legend_keeps_the_order_and_wraps() -> None:
    colors = [(10 * number, 100, 200) for number in range(12)]
    drawn = legend([f"class {number}" for number in range(12)], colors, width=300, title="classes:")
    places = [np.argwhere((drawn == color).all(axis=2)).min(axis=0) for color in colors]
    assert [tuple(place) for place in places] == sorted(tuple(place) for place in places), (
        "from left to right, downwards"
    )
    assert drawn.shape[1] == 300
    assert min(place[1] for place in places) > 60, "after the title"
