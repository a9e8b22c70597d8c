"""Masks of every kind become class indices; blended edges only where asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, check_pairs, find_pairs

PALETTE = Palette.from_mapping({"background": [0, 0, 0], "crack": [0, 0, 255], "oil": [255, 255, 0], "ok": [0, 255, 0]})
INDEX = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], dtype=np.uint8)


def write(path: Path, array: npt.NDArray[np.generic]) -> Path:
    Image.fromarray(array).save(path)
    return path


def test_colour_index_and_npz_masks_mean_the_same(tmp_path: Path) -> None:
    write(tmp_path / "rgb.png", PALETTE.decode(INDEX))
    write(tmp_path / "rgba.png", np.dstack([PALETTE.decode(INDEX), np.full(INDEX.shape, 255, dtype=np.uint8)]))
    write(tmp_path / "l.png", INDEX)
    indexed = Image.fromarray(INDEX)
    indexed.putpalette(PALETTE.flat())
    indexed.save(tmp_path / "p.png")
    Image.fromarray(PALETTE.decode(INDEX)).quantize(4).save(tmp_path / "p_other_order.png")
    grey = Image.fromarray(INDEX)
    grey.putpalette([value for value in range(256) for _ in range(3)])
    grey.save(tmp_path / "p_no_colours.png")
    np.savez_compressed(tmp_path / "onehot.npz", mask=np.eye(4, dtype=np.int8)[INDEX])
    np.savez(tmp_path / "onehot_float.npz", mask=np.eye(4, dtype=np.float32)[INDEX])
    np.savez(tmp_path / "index.npz", mask=INDEX.astype(np.int64))
    for path in sorted(tmp_path.iterdir()):
        mask_index, moved = read_mask(path, PALETTE, antialiased=False)
        assert mask_index.tolist() == INDEX.tolist(), path.name
        assert mask_index.dtype == np.uint8
        assert moved == 0


def test_a_black_and_white_palette_reads_grey_masks_as_colours(tmp_path: Path) -> None:
    palette = Palette.from_mapping({"background": [0, 0, 0], "defect": [255, 255, 255]})
    path = write(tmp_path / "a.png", np.array([[0, 255]], dtype=np.uint8))
    assert read_mask(path, palette, antialiased=False)[0].tolist() == [[0, 1]]


def test_255_is_ignore_only_where_the_palette_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.array([[0, 255]], dtype=np.uint8))
    with pytest.raises(UserError, match="class index 255 out of range at 1 pixels, first at row 0, column 1") as caught:
        read_mask(path, PALETTE, antialiased=False)
    assert "the palette must be black and white" in str(caught.value)
    with_ignore = Palette.from_mapping(PALETTE.to_mapping() | {"ignore": [9, 9, 9]})
    assert read_mask(path, with_ignore, antialiased=False)[0].tolist() == [[0, 255]]


def test_a_one_channel_npz_is_the_second_class(tmp_path: Path) -> None:
    palette = Palette.from_mapping({"background": [0, 0, 0], "defect": [255, 255, 255]})
    np.savez(tmp_path / "a.npz", mask=np.array([[[0], [1]]]))
    assert read_mask(tmp_path / "a.npz", palette, antialiased=False)[0].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        pytest.param(np.zeros((2, 2, 4)), "not one-hot at 4 pixels, first at row 0, column 0", id="no class"),
        pytest.param(np.ones((2, 2, 4)), "not one-hot", id="all classes"),
        pytest.param(np.zeros((2, 2, 3)), r"must be \(H, W, 4\)", id="a class is missing"),
        pytest.param(np.full((2, 2), -1), "class index -1 out of range", id="negative index"),
        pytest.param(np.array([["a"]]), "must be numbers", id="letters"),
    ],
)
def test_wrong_npz_masks_are_told(tmp_path: Path, mask: npt.NDArray[np.generic], message: str) -> None:
    np.savez(tmp_path / "a.npz", mask=mask)
    with pytest.raises(UserError, match=message):
        read_mask(tmp_path / "a.npz", PALETTE, antialiased=False)


def test_an_npz_without_mask_a_pickle_and_a_text_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", truth=INDEX)
    with pytest.raises(UserError, match="has no array 'mask'"):
        read_mask(tmp_path / "a.npz", PALETTE, antialiased=False)
    np.savez(tmp_path / "b.npz", mask=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"b\.npz: cannot be read"):
        read_mask(tmp_path / "b.npz", PALETTE, antialiased=False)
    (tmp_path / "c.npz").write_text("no archive")
    with pytest.raises(UserError, match=r"c\.npz: cannot be read"):
        read_mask(tmp_path / "c.npz", PALETTE, antialiased=False)


def test_blended_edges_get_a_neighbouring_class_and_are_counted(tmp_path: Path) -> None:
    row = [[0, 0, 0], [0, 0, 90], [0, 0, 200], [0, 0, 255], [120, 120, 128], [255, 255, 0]]
    path = write(tmp_path / "a.png", np.array([row, row], dtype=np.uint8))
    with pytest.raises(UserError, match=r"6 pixels .* or set data\.antialiased_masks: true"):
        read_mask(path, PALETTE, antialiased=False)
    mask_index, moved = read_mask(path, PALETTE, antialiased=True)
    # (120, 120, 128) lies nearer to crack (distance 212) than to oil (228) and to black (213), which is no neighbour.
    assert mask_index.tolist() == [[0, 0, 1, 1, 1, 2]] * 2
    assert moved == 6


def test_a_class_that_is_no_neighbour_is_never_invented(tmp_path: Path) -> None:
    # Half way from oil (255, 255, 0) to black lies olive, and half way from oil to crack lies grey: no third class.
    row = [[0, 255, 0], [0, 128, 128], [0, 0, 255]]  # nearest of all colours to (0, 128, 128) is black or green or blue
    path = write(tmp_path / "a.png", np.array([row], dtype=np.uint8))
    assert set(read_mask(path, PALETTE, antialiased=True)[0].ravel().tolist()) <= {1, 3}


def test_a_thin_blended_line_keeps_its_class(tmp_path: Path) -> None:
    mask_rgb = np.zeros((5, 12, 3), dtype=np.uint8)
    mask_rgb[2, :3] = [0, 0, 255]
    mask_rgb[2, 3:] = [0, 0, 190]  # no exact colour inside the thin end
    mask_index, moved = read_mask(write(tmp_path / "a.png", mask_rgb), PALETTE, antialiased=True)
    assert mask_index[2].tolist() == [1] * 12
    assert moved == 9


def test_an_unknown_colour_stays_an_error_with_the_option(tmp_path: Path) -> None:
    mask_rgb = np.zeros((12, 12, 3), dtype=np.uint8)
    mask_rgb[:3] = [0, 0, 255]
    mask_rgb[6:9, 6:9] = [255, 0, 255]
    path = write(tmp_path / "a.png", mask_rgb)
    with pytest.raises(
        UserError, match=r"9 pixels have a colour in no palette \(\[255, 0, 255\] x 9\), first at row 6"
    ):
        read_mask(path, PALETTE, antialiased=True)


def test_a_smoothly_resized_mask_loses_no_class_and_gains_none(tmp_path: Path) -> None:
    mask_index = np.zeros((64, 64), dtype=np.uint8)
    mask_index[10:30, 10:30] = 1
    mask_index[30:50, 20:60] = 2
    smooth = Image.fromarray(PALETTE.decode(mask_index)).resize((96, 96), Image.Resampling.BILINEAR)
    smooth.save(tmp_path / "a.png")
    read, moved = read_mask(tmp_path / "a.png", PALETTE, antialiased=True)
    exact = np.asarray(Image.fromarray(mask_index).resize((96, 96), Image.Resampling.NEAREST))
    assert moved > 0
    assert set(np.unique(read)) == {0, 1, 2}
    assert (read != exact).mean() < 0.02


def test_real_masks_have_the_blended_pixels_that_were_counted(shared_dir: Path) -> None:
    palette = Palette.from_mapping(
        {
            "background": [0, 0, 0],
            "crack": [0, 0, 255],
            "glue_strip": [255, 0, 0],
            "gray_stroke": [0, 255, 0],
            "oil": [255, 255, 0],
            "rough": [0, 255, 255],
        }
    )
    folder = shared_dir / "data" / "mvtec-tile-mini" / "valid"
    pairs, problems = find_pairs(folder / "images", folder / "masks")
    assert (len(pairs), problems) == (9, [])
    problems, moved = check_pairs(pairs, palette, ReadingRules(antialiased_masks=True))
    assert problems == []
    pixels = 0
    for pair in pairs:
        with Image.open(pair.mask) as image:
            mask_rgb = np.asarray(image.convert("RGB")).astype(int)
        is_exact = np.zeros(mask_rgb.shape[:2], dtype=bool)
        for color in palette.colors:
            is_exact |= (mask_rgb == color).all(axis=2)
        pixels += int((~is_exact).sum())
    assert sum(moved.values()) == pixels > 0


def test_a_colour_of_no_class_counts_as_the_nearest_of_those_named(tmp_path: Path) -> None:
    """Cyan is as far from green as from blue, and the first wins; grey is nearest to black, orange to red."""
    palette = Palette.from_mapping(
        {"background": [0, 0, 0], "a": [0, 255, 0], "b": [255, 0, 0], "c": [0, 0, 255], "fresh": [0, 255, 175]}
    )
    colors = [[0, 255, 255], [255, 165, 0], [60, 60, 60], [0, 0, 255]]
    Image.fromarray(np.array([colors], dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="3 pixels have a colour in no palette"):
        read_mask(tmp_path / "mask.png", palette, antialiased=False)
    lenient = replace(palette, nearest=("background", "a", "b", "c"))
    mask_index, moved = read_mask(tmp_path / "mask.png", lenient, antialiased=False)
    assert (mask_index.tolist(), moved) == ([[1, 2, 0, 3]], 3)
    with pytest.raises(UserError, match=r"data\.nearest_classes: 'backgrund' is no class.*did you mean 'background'"):
        replace(palette, nearest=("backgrund",))


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(np.array([[0, 1, 1, 0]], dtype=np.uint8), id="grey"),
        pytest.param(np.array([[[0] * 3, [1] * 3, [1] * 3]], dtype=np.uint8), id="all channels"),
        pytest.param(np.array([[[0, 0, 0], [0, 0, 1]]], dtype=np.uint8), id="one channel"),
    ],
)
def test_indices_do_not_pass_for_blended_black(mask: npt.NDArray[np.uint8], antialiased: bool, tmp_path: Path) -> None:
    palette = Palette.from_mapping({"background": [0, 0, 0], "defect": [255, 255, 255], "ignore": [255, 0, 0]})
    path = write(tmp_path / "a.png", mask)
    with pytest.raises(UserError, match=r"a\.png: .*seems to hold class indices: save it with the palette's colours"):
        read_mask(path, palette, antialiased)
