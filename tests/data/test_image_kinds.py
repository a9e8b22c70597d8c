"""Images of every orientation, depth and colour are upright and right, or refused, alike in training and inference."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from onnx_models import write_model
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, has_sixteen_bits, image_size, read_image
from flexunet_pl.inference import onnx_infer
from flexunet_pl.inference.onnx_infer import InferenceError

Array = npt.NDArray[Any]
ORIENTATION = 274
GREY = (np.arange(6 * 9, dtype=np.uint8).reshape(6, 9) * 4 + 1).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 257
RGB = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
BLACK_AND_WHITE = Palette.from_mapping({"background": [0, 0, 0], "defect": [255, 255, 255]})
UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def write_tiff(path: Path, pixels: Array, orientation: int = 1, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, extratags=[(ORIENTATION, 3, 1, orientation, True)], **options)
    return path


def read_both(path: Path, rules: ReadingRules) -> Array:
    """Read as training does, and check that inference reads the same."""
    found = read_image(path, rules)
    np.testing.assert_array_equal(onnx_infer.read_image(path, rules), found)
    assert found.shape[:2] == image_size(path)
    return found


def refuse_both(path: Path, message: str) -> None:
    rules = ReadingRules(channels=1, sixteen_bit="full_range")
    with pytest.raises(UserError, match=rf"{path.name}: .*{message}"):
        read_image(path, rules)
    with pytest.raises(InferenceError, match=rf"{path.name}: .*{message}"):
        onnx_infer.read_image(path, rules)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("pixels", "layout"),
    [
        pytest.param(GREY, {}, id="grey"),
        pytest.param(GREY, {"compression": "zlib"}, id="grey zlib"),
        pytest.param(GREY, {"rowsperstrip": 2}, id="grey strips"),
        pytest.param(GREY, {"tile": (16, 16)}, id="grey tiles"),
        pytest.param(GREY, {"photometric": "miniswhite"}, id="white is 0"),
        pytest.param(RGB, {"photometric": "rgb"}, id="rgb"),
        pytest.param(RGB, {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}, id="rgb tiles zlib"),
        pytest.param(DEEP, {}, id="16 bits"),
        pytest.param(DEEP, {"byteorder": ">"}, id="16 bits big-endian"),
        pytest.param(DEEP, {"compression": "zlib", "rowsperstrip": 2}, id="16 bits strips zlib"),
        pytest.param(np.dstack([DEEP] * 3), {"photometric": "rgb"}, id="16 bits rgb"),
    ],
)
def test_a_turned_tiff_is_upright(orientation: int, pixels: Array, layout: dict[str, Any], tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", pixels, orientation, **layout)
    expected = UPRIGHT[orientation]((pixels >> 8 if pixels.dtype == np.uint16 else pixels).astype(np.uint8))
    expected = 255 - expected if layout.get("photometric") == "miniswhite" else expected
    found = read_both(path, ReadingRules(channels=3, sixteen_bit="full_range"))
    np.testing.assert_array_equal(found, expected if expected.ndim == 3 else np.dstack([expected] * 3))
    assert has_sixteen_bits(path) == (pixels.dtype == np.uint16)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_exif_turns_other_formats(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    of_format: dict[str, dict[str, Any]] = {".webp": {"lossless": True}, ".jpg": {"quality": 100}}
    options = of_format.get(suffix, {})
    Image.fromarray(np.dstack([GREY] * 3)).save(tmp_path / f"a{suffix}", exif=exif, **options)
    found = read_both(tmp_path / f"a{suffix}", ReadingRules(channels=1))[..., 0]
    assert np.abs(found.astype(int) - UPRIGHT[orientation](GREY)).max() <= (2 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_turned_mask_is_upright(orientation: int, tmp_path: Path) -> None:
    mask = np.zeros((6, 9), dtype=np.uint8)
    mask[0, :3] = mask[4] = 255
    path = write_tiff(tmp_path / "a.tif", mask, orientation)
    found, _ = read_mask(path, BLACK_AND_WHITE, antialiased=False)
    np.testing.assert_array_equal(found, UPRIGHT[orientation](mask) // 255)


def test_white_is_0_with_16_bits(tmp_path: Path) -> None:
    values = np.array([[0, 65535, 257 * 10]], dtype=np.uint16)
    path = write_tiff(tmp_path / "a.tif", values, photometric="miniswhite")
    assert read_both(path, ReadingRules(channels=1, sixteen_bit="full_range")).ravel().tolist() == [255, 0, 245]
    assert read_both(path, ReadingRules(channels=1, sixteen_bit="min_max")).ravel().tolist() == [255, 0, 245]


def test_white_is_0_with_1_bit(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.array([[True, False] * 8]), photometric="miniswhite")
    assert read_both(path, ReadingRules(channels=1)).ravel().tolist() == [0, 255] * 8


@pytest.mark.parametrize("scale", [1, 257], ids=["8 bits", "16 bits"])
def test_cmyk_is_converted(scale: int, tmp_path: Path) -> None:
    ink = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]])  # white, cyan, black
    values = (ink * scale).astype(np.uint8 if scale == 1 else np.uint16)
    path = write_tiff(tmp_path / "a.tif", values, photometric="separated")
    found = read_both(path, ReadingRules(sixteen_bit=None if scale == 1 else "full_range"))
    assert found.tolist() == [[[255, 255, 255], [0, 255, 255], [0, 0, 0]]]
    if scale == 257:
        with pytest.raises(UserError, match=r"a\.tif: a 16-bit image; .*min_max \(grey only\)"):
            read_image(path, ReadingRules(sixteen_bit="min_max"))


def png_16_bit(color_type: int, samples: list[int]) -> bytes:
    """Return a PNG of one pixel; colour types: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 16, color_type, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(f">{len(samples)}H", *samples))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("color_type", "samples", "expected"),
    [
        pytest.param(0, [200 * 257], [200, 200, 200], id="grey"),
        pytest.param(2, [200 * 257, 257, 0], [200, 1, 0], id="RGB"),
        pytest.param(4, [200 * 257, 65535], [200, 200, 200], id="grey and alpha"),
        pytest.param(6, [200 * 257, 257, 0, 65535], [200, 1, 0], id="RGB and alpha"),
    ],
)
def test_png_of_16_bits(color_type: int, samples: list[int], expected: list[int], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_16_bit(color_type, samples))
    assert has_sixteen_bits(tmp_path / "a.png")
    assert read_both(tmp_path / "a.png", ReadingRules(sixteen_bit="full_range")).tolist() == [[expected]]
    with pytest.raises(UserError, match="a 16-bit image"):
        read_image(tmp_path / "a.png", ReadingRules())
    with pytest.raises(UserError, match="a mask of 16 bits"):
        read_mask(tmp_path / "a.png", BLACK_AND_WHITE, antialiased=True)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (np.int8, "signed values of 8 bits"),
        (np.int16, "signed values of 16 bits"),
        (np.int32, "signed values of 32 bits"),
        (np.uint32, "unsigned values of 32 bits"),
        (np.float32, "floating-point values of 32 bits"),
        (np.float64, "cannot"),  # Pillow does not know it
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_other_values_are_refused(dtype: type, message: str, compression: str | None, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", GREY.astype(dtype), compression=compression)
    refuse_both(path, message)
    with pytest.raises(UserError, match=r"a\.tif"):
        read_mask(path, BLACK_AND_WHITE, antialiased=True)


def test_lab_is_refused(tmp_path: Path) -> None:
    refuse_both(write_tiff(tmp_path / "a.tif", RGB, photometric="cielab"), "mode LAB; convert it")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32, np.float32, np.float64, np.bool_])
def test_arrays_of_other_values_are_refused(dtype: type, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY[..., None].astype(dtype))
    refuse_both(tmp_path / "a.npy", np.dtype(dtype).name)


def test_a_big_endian_array_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", DEEP[..., None].astype(">u2"))
    found = read_both(tmp_path / "a.npy", ReadingRules(channels=1, sixteen_bit="full_range"))
    np.testing.assert_array_equal(found[..., 0], GREY)


def test_an_image_of_one_long_side_is_refused(tmp_path: Path) -> None:
    # Resizing 90,000,000 x 1 pixels takes Pillow 1.4 GB.
    header = struct.pack(">IIBBBBB", 1, 90_000_000, 8, 0, 0, 0, 0)
    png = png_16_bit(0, [0])
    path = tmp_path / "a.png"
    path.write_bytes(png[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:])
    refuse_both(path, "90000000 x 1 pixels exceed .*max.pixels.100000000")
    for read in (lambda: image_size(path), lambda: read_mask(path, BLACK_AND_WHITE, antialiased=False)):
        with pytest.raises(UserError, match=r"exceed data\.max_pixels=100000000 .*raise it"):
            read()


BOMBS: dict[str, Callable[[Path], Any]] = {
    "image.tif": lambda path: write_rows(path, height=70_000, width=66_000),
    "tile.tif": lambda path: write_rows(path, height=16, width=16, tile=46_336),
    "image.npy": lambda path: write_array(path, (40_000, 40_000, 3)),
    "channels.npy": lambda path: write_array(path, (1000, 1000, 10_000)),
    "mask.npz": lambda path: write_archive(path, (60_000, 60_000, 2)),
}


def write_rows(path: Path, height: int, width: int, tile: int = 0) -> None:
    """Write the header of an RGB TIFF of one empty strip or tile."""
    sides = [(322, 4, tile), (323, 4, tile), (324, 4, 8), (325, 4, 8)] if tile else [(273, 4, 8), (278, 4, height)]
    sides += [] if tile else [(279, 4, 8)]
    tags = sorted([(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 2), (277, 3, 3), *sides])
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 16) + zlib.compress(b"")[:8].ljust(8, b"\0") + body + bytes(4))


def write_array(path: Path, shape: tuple[int, ...]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))  # a file without blocks


def write_archive(path: Path, shape: tuple[int, ...]) -> None:
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mask.npy", header.getvalue() + bytes(1 << 20))


READ = """
import resource, sys
from pathlib import Path
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, read_image
from flexunet_pl.inference.onnx_infer import InferenceError, read_image as read_in_inference

def read_truth(path, rules):
    read_mask(path, Palette(("a", "b"), ((0, 0, 0), (255, 255, 255))), antialiased=True)

path, rules = Path(sys.argv[1]), ReadingRules(channels=10_000 if "channels" in sys.argv[1] else 3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in [read_truth] if path.suffix == ".npz" else [read_image, read_in_inference]:
    try:
        read(path, rules)
    except (UserError, InferenceError) as error:
        assert "pixels exceed" in str(error), error
    else:
        raise AssertionError(read)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "50 MB"
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_gigabytes_takes_no_memory(name: str, tmp_path: Path) -> None:
    BOMBS[name](tmp_path / name)
    subprocess.run([sys.executable, "-c", READ, str(tmp_path / name)], check=True)


def test_the_limit_can_be_raised(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 10, 40), dtype=np.uint8))  # 4000 bytes count as 1000 pixels
    with pytest.raises(UserError, match=r"10 x 10 pixels exceed data\.max_pixels=999"):
        read_image(tmp_path / "a.npy", ReadingRules(channels=40, max_pixels=999))
    assert read_image(tmp_path / "a.npy", ReadingRules(channels=40, max_pixels=1000)).shape == (10, 10, 40)


def test_the_data_set_is_read_within_data_max_pixels(tiny_data: Path) -> None:
    SegmentationDataModule(root=str(tiny_data), max_pixels=32 * 32).prepare("fit")
    with pytest.raises(UserError, match=r"32 x 32 pixels exceed data\.max_pixels=1023"):
        SegmentationDataModule(root=str(tiny_data), max_pixels=32 * 32 - 1).prepare("fit")


@pytest.mark.parametrize(
    ("pixels", "layout", "message"),
    [
        pytest.param(np.zeros((8, 8, 5), dtype=np.uint8), {"photometric": "rgb"}, "--tile reads", id="5 samples"),
        pytest.param(np.zeros((8, 8, 3), dtype=np.uint8), {"photometric": "ycbcr"}, "--tile reads", id="plain YCbCr"),
        pytest.param(GREY, {"photometric": "miniswhite"}, "--tile reads", id="white is 0"),
        pytest.param(GREY.astype(np.int16), {}, "--tile reads", id="signed"),
        pytest.param(
            np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8),
            {"photometric": "rgb", "compression": "zlib"},
            "may unpack to",
            id="a strip without a limit",
        ),
    ],
)
def test_tiles_of_tiff_are_read_rightly_or_refused(
    pixels: Array, layout: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiff(tmp_path / "a.tif", pixels, **layout)
    model = write_model(tmp_path / "model.onnx")
    options = ["--out", str(tmp_path / "out"), "--tile", "16", "--max-pixels", "5000"]
    assert onnx_infer.main([str(model), str(path), *options]) == 1
    assert message in capsys.readouterr().err
