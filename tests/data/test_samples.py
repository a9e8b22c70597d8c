"""Files become arrays, and what is wrong with them is told."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.dataset import ImageDataset
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, check_pairs, find_images, find_pairs, image_size, read_image
from flexunet_pl.data.sizing import Sizing

RGB = ReadingRules()
GRADIENT = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def save(path: Path, pixels: npt.NDArray[np.generic], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]  # options of one format
    return path


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".TIFF"])
def test_lossless_formats_read_back(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", GRADIENT)
    assert (read_image(path, RGB) == GRADIENT).all()
    assert image_size(path) == (4, 6)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_lossy_formats_read(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 24, 3), 120, dtype=np.uint8)
    read = read_image(save(tmp_path / f"a{suffix}", flat), RGB)
    assert read.shape == (16, 24, 3)
    assert np.abs(read.astype(int) - 120).max() <= 2


def test_grey_palette_and_alpha_become_rgb(tmp_path: Path) -> None:
    grey = GRADIENT[..., 0]
    assert (read_image(save(tmp_path / "grey.png", grey), RGB) == grey[..., None]).all()
    alpha = np.dstack([GRADIENT, np.full((4, 6), 7, dtype=np.uint8)])
    assert (read_image(save(tmp_path / "alpha.png", alpha), RGB) == GRADIENT).all()
    Image.fromarray(GRADIENT).quantize(24).save(tmp_path / "p.png")
    assert (read_image(tmp_path / "p.png", RGB) == GRADIENT).all()


def test_channels_are_what_was_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GRADIENT)
    assert read_image(path, ReadingRules(channels=1)).shape == (4, 6, 1)
    assert read_image(path, ReadingRules(channels=4))[..., 3].min() == 255
    with pytest.raises(UserError, match=r"data\.channels=2 needs \.npy images \(H, W, 2\)"):
        read_image(path, ReadingRules(channels=2))


def test_exif_orientation_turns_image_and_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    path = save(tmp_path / "a.jpg", np.zeros((8, 24, 3), dtype=np.uint8), exif=exif)
    assert read_image(path, RGB).shape == (24, 8, 3)
    assert image_size(path) == (24, 8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_need_a_rule(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", np.array([[1000, 2000], [3000, 65535]], dtype=np.uint16))
    with pytest.raises(UserError, match=r"a 16-bit image; .*data\.sixteen_bit to full_range .* or min_max"):
        read_image(path, RGB)
    # 1000 * 255 / 65535 = 3.9, 2000: 7.8, 3000: 11.7
    full = read_image(path, ReadingRules(sixteen_bit="full_range"))
    assert full[..., 0].tolist() == [[4, 8], [12, 255]]
    # (2000 - 1000) * 255 / 64535 = 3.95
    assert read_image(path, ReadingRules(sixteen_bit="min_max"))[..., 1].tolist() == [[0, 4], [8, 255]]


def test_sixteen_bit_colour_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(sixteen_bit_rgb_png())
    with pytest.raises(UserError, match="a 16-bit image"):
        read_image(path, RGB)
    assert read_image(path, ReadingRules(sixteen_bit="full_range")).tolist() == [[[255, 128, 0]]]


def sixteen_bit_rgb_png() -> bytes:
    """Return a PNG of one pixel (65535, 32768, 0), which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", 65535, 32768, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_array_images(tmp_path: Path) -> None:
    image = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", image)
    assert (read_image(tmp_path / "a.npy", ReadingRules(channels=4)) == image).all()
    assert image_size(tmp_path / "a.npy") == (2, 3)
    with pytest.raises(UserError, match=r"shape \(2, 3, 4\); .* with data\.channels=3"):
        read_image(tmp_path / "a.npy", RGB)
    np.save(tmp_path / "b.npy", image.astype(np.float32))
    with pytest.raises(UserError, match="float32; an array image must be uint8"):
        read_image(tmp_path / "b.npy", ReadingRules(channels=4))
    np.save(tmp_path / "c.npy", image[0])
    with pytest.raises(UserError, match=r"must be \(H, W, C\)"):
        read_image(tmp_path / "c.npy", ReadingRules(channels=4))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy: cannot be read"):
        read_image(tmp_path / "a.npy", RGB)


def test_pairs_by_stem_with_dots_and_any_suffix(tmp_path: Path) -> None:
    for name in ("barrdistorted_1001_0.3_0.3_crack_16.JPG", "b.2.tif", ".hidden.png"):
        save(
            tmp_path / "images" / name.replace("JPG", "jpeg") if "JPG" in name else tmp_path / "images" / name, GRADIENT
        )
    (tmp_path / "images" / "barrdistorted_1001_0.3_0.3_crack_16.jpeg").rename(
        tmp_path / "images" / "barrdistorted_1001_0.3_0.3_crack_16.JPG"
    )
    save(tmp_path / "masks" / "barrdistorted_1001_0.3_0.3_crack_16.png", GRADIENT)
    save(tmp_path / "masks" / "b.2.PNG", GRADIENT)
    (tmp_path / "images" / "notes.txt").write_text("hello")
    pairs, problems = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert [pair.name for pair in pairs] == ["b.2", "barrdistorted_1001_0.3_0.3_crack_16"]
    assert pairs[0].mask == tmp_path / "masks" / "b.2.PNG"
    assert problems == []


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: this folder does not exist"):
        find_images(tmp_path / "absent")
    with pytest.raises(UserError, match="no image"):
        find_images(tmp_path)


def test_planted_faults_are_all_told_at_once(tmp_path: Path) -> None:
    palette = Palette.from_mapping({"background": [0, 0, 0], "crack": [0, 0, 255], "oil": [255, 255, 0]})
    images, masks = tmp_path / "images", tmp_path / "masks"
    clear = np.zeros((4, 6, 3), dtype=np.uint8)
    for name in ("good", "broken_image", "broken_mask", "colour", "index", "size", "npz_shape", "sixteen"):
        save(images / f"{name}.png", GRADIENT)
        save(masks / f"{name}.png", clear)
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    whole = save(images / "broken_image.png", noise).read_bytes()
    (images / "broken_image.png").write_bytes(whole[: len(whole) // 2])
    (masks / "broken_mask.png").write_text("not an image")
    off = clear.copy()
    off[1:3, 4] = [10, 20, 30]
    save(masks / "colour.png", off)
    save(masks / "index.png", np.full((4, 6), 7, dtype=np.uint8))
    save(masks / "size.png", clear[:3])
    (masks / "npz_shape.png").unlink()
    np.savez(masks / "npz_shape.npz", mask=np.zeros((4, 6, 5)))
    save(images / "sixteen.png", np.zeros((4, 6), dtype=np.uint16))
    save(images / "lonely_image.png", GRADIENT)
    save(masks / "lonely_mask.png", clear)
    save(images / "good.bmp", GRADIENT)
    save(images / "lossy.png", GRADIENT)
    save(masks / "lossy.jpg", clear)
    pairs, problems = find_pairs(images, masks)
    problems += check_pairs(pairs, palette, RGB)[0]
    expected = [
        ("good.png", "same stem"),
        ("lossy.jpg", "lossy format"),
        ("lonely_image.png", "no mask with the stem"),
        ("lonely_mask.png", "no image with the stem"),
        ("broken_image.png", "cannot be read as an image"),
        ("broken_mask.png", "cannot be read as a mask"),
        ("colour.png", "2 pixels have a colour in no palette ([10, 20, 30] x 2), first at row 1, column 4"),
        (
            "index.png",
            "class index 7 out of range at 24 pixels, first at row 0, column 0; with 3 classes an index is 0..2",
        ),
        ("npz_shape.npz", "shape (4, 6, 5); with 3 classes it must be (H, W, 3)"),
        ("sixteen.png", "a 16-bit image"),
        ("size.png", "differ in size (height x width: 4 x 6 and 3 x 6)"),
    ]
    assert len(problems) == len(expected)
    for (name, reason), problem in zip(expected, problems, strict=True):
        assert name in str(problem)
        assert reason in str(problem)


def test_max_pixels_is_the_limit_and_not_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", np.zeros((64, 64), dtype=np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path, ReadingRules(max_pixels=64 * 64)).shape == (64, 64, 3)
    with pytest.raises(UserError, match=r"a\.png: 64 x 64 pixels exceed data\.max_pixels=4095 .*raise it"):
        read_image(path, ReadingRules(max_pixels=64 * 64 - 1))
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("rules", "message"),
    [({"channels": 0}, "channels=0"), ({"max_pixels": 0}, "max_pixels=0"), ({"sixteen_bit": "half"}, "full_range")],
)
def test_rules_are_checked(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReadingRules(**rules)


def test_images_without_masks_are_read_at_the_working_size(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GRADIENT)
    sample = ImageDataset([path], RGB, Sizing(8, 8))[0, 0]
    assert {key: sample[key] for key in ("name", "path", "size")} == {"name": "a", "path": str(path), "size": (4, 6)}
    assert (sample["image"].shape, sample["image"].dtype) == ((3, 8, 8), torch.uint8)
    assert "mask" not in sample


@pytest.mark.parametrize("header", [b"{'descr': '|u1', 'shape': (2", b"\xff" * 60, b"1 +" + b"(" * 57])
def test_a_damaged_array_header_is_one_error(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    with pytest.raises(UserError, match=r"a\.npy: cannot be read as a numpy array"):
        read_image(path, RGB)
