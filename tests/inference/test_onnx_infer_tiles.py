"""Tiles of the self-contained inference file: seams, and TIFF files read and written in windows."""

import itertools
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import (
    BRIGHTEST_AROUND,
    FACTS,
    PALETTE,
    noise,
    read_summary,
    scipy_tally,
    write_model,
)
from PIL import Image

from flexunet_pl.inference import onnx_infer
from flexunet_pl.inference.onnx_infer import InferenceError, Model, Tiling, main

UInt8Array = npt.NDArray[np.uint8]


SOURCE = Path(onnx_infer.__file__)


@pytest.fixture(scope="session")
def brightest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="session")
def around(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", BRIGHTEST_AROUND, size_multiple=4)


@given(
    length=st.integers(1, 700),
    side=st.integers(1, 100),
    overlap=st.integers(0, 99),
    step=st.sampled_from([1, 2, 8, 32]),
)
@settings(max_examples=200, deadline=None)
def test_tiles_cover_every_pixel_once(length: int, side: int, overlap: int, step: int) -> None:
    if overlap > side - step:
        return
    total = np.zeros(length)
    tiles = Tiling(side, overlap, step).along(length)
    for start, end, weights in tiles:
        assert start % step == 0
        assert 0 < end - start == len(weights) <= side
        total[start:end] += weights
    np.testing.assert_allclose(total, 1, atol=1e-5)
    for (_, end, _), (start, _, _) in itertools.pairwise(tiles):
        assert end - start >= overlap
    assert tiles[0][0] == 0
    assert tiles[-1][1] == length


def test_worked_tiles() -> None:
    tiles = Tiling(side=8, overlap=4).along(14)
    assert [(start, end) for start, end, _ in tiles] == [(0, 8), (4, 12), (6, 14)]
    first, second = (weights.tolist() for _, _, weights in Tiling(side=8, overlap=4).along(12))
    # Of the 4 pixels in common the outer ones belong to one tile, the inner ones are mixed 3:1 and 1:3.
    assert first == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.25, 0], abs=1e-5)
    assert second == pytest.approx([0, 0.25, 0.75, 1, 1, 1, 1, 1], abs=1e-5)


def test_tiles_equal_the_whole_image_where_the_overlap_covers_what_the_network_sees(around: Path) -> None:
    model = Model(around)
    image = noise(144, 96, 3)
    whole = model.predict(image)
    # It sees 7 pixels far, and a quarter of the overlap at either end has no weight.
    covered = model.predict(image, model.tiling(48, 28))
    np.testing.assert_allclose(covered.probabilities, whole.probabilities, atol=1e-5)
    np.testing.assert_array_equal(covered.mask_index, whole.mask_index)
    bare = model.predict(image, model.tiling(48, 0))
    assert abs(bare.probabilities - whole.probabilities).max() > 0.1
    # Without overlap the error sits within 7 pixels of the seams at 48 and 96, and nowhere else.
    wrong = abs(bare.probabilities - whole.probabilities).max(axis=2) > 1e-4
    rows, columns = np.nonzero(wrong)
    seams = np.array([48, 96])
    distance = np.minimum(*(abs(place[:, None] + 0.5 - seams).min(axis=1) for place in (rows, columns)))
    assert distance.max() < 7


def test_tiles_are_pooled_like_the_whole_image(tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "model.onnx", pool=8, size_multiple=8))
    image = noise(120, 80, 3)
    whole = model.predict(image)
    tiled = model.predict(image, model.tiling(40, 13))  # tiles advance by 24, the multiple of 8 below 27
    np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-6)
    askew = model.predict(image, Tiling(40, 13, step=1))
    assert abs(askew.probabilities - whole.probabilities).max() > 0.1


def test_image_smaller_than_a_tile_is_one_tile(around: Path) -> None:
    model = Model(around)
    image = noise(20, 30, 3)
    np.testing.assert_array_equal(model.predict(image, model.tiling(64)).probabilities, model.predict(image)[1])


def test_blending_takes_any_predictor_and_bands_of_any_height() -> None:
    image = noise(57, 40, 3)
    bands = iter(np.split(image, [1, 2, 30, 55]))
    seen: list[tuple[int, ...]] = []

    def predict(images: UInt8Array) -> npt.NDArray[np.float32]:
        seen.append(images.shape)
        return images[..., :2].astype(np.float32)

    blocks = onnx_infer.tiled_rows(bands, (57, 40), predict, Tiling(24, 8))
    np.testing.assert_allclose(np.concatenate([block.copy() for block in blocks]), image[..., :2], atol=1e-3)
    assert seen == [(1, 24, 24, 3)] * 8


@pytest.mark.parametrize(("side", "overlap"), [(16, 16), (16, 13), (16, -1), (0, 0), (3, None)])
def test_tiles_that_do_not_advance_are_an_error(side: int, overlap: int | None, around: Path) -> None:
    with pytest.raises(InferenceError, match=r"--tile .*--overlap .*must be within 0\.\."):
        Model(around).tiling(side, overlap)


def tiff_kinds(image: UInt8Array) -> dict[str, tuple[npt.NDArray[Any], dict[str, Any]]]:
    rgb: dict[str, Any] = {"photometric": "rgb"}
    alpha = {"extrasamples": ["unassalpha"]}
    return {
        "tiled": (image, rgb | {"tile": (32, 48), "compression": "zlib", "predictor": True}),
        "strips": (image, rgb | {"rowsperstrip": 7}),
        "one_strip": (image, rgb | {"rowsperstrip": len(image)}),
        "rgba": (np.dstack([image, image[..., :1]]), rgb | alpha | {"tile": (64, 64)}),
        "grey": (image[..., 0], {"tile": (64, 64)}),
    }


@pytest.mark.parametrize("kind", ["tiled", "strips", "one_strip", "rgba", "grey"])
def test_tiff_in_windows_gives_the_mask_of_the_whole(kind: str, around: Path, tmp_path: Path) -> None:
    pixels, layout = tiff_kinds(noise(300, 201, 3))[kind]
    path, out = tmp_path / "slide.tif", tmp_path / "masks"
    tifffile.imwrite(path, pixels, **layout)
    model = Model(around)
    expected = model.predict(onnx_infer.read_image(path, model.labels), model.tiling(64, 32))
    assert main([str(around), str(path), "--out", str(out), "--tile", "64", "--overlap", "32"]) == 0
    with tifffile.TiffFile(out / "slide.tif") as file:
        page: Any = file.pages.first
        assert page.is_tiled
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
        np.testing.assert_array_equal(page.asarray(), expected.mask_index)
    with Image.open(out / "slide.tif") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), PALETTE.decode(expected.mask_index))
    columns = scipy_tally(expected.mask_index)
    highest = expected.probabilities.max(axis=(0, 1))
    for index, row in enumerate(read_summary(out)):
        found = [int(row[name]) for name in ("pixels", "regions", "largest_region")]
        assert found == [int(column[index]) for column in columns]
        assert float(row["highest_probability"]) == pytest.approx(float(highest[index]), abs=1e-6)


@pytest.mark.parametrize("rule", ["full_range", "min_max"])
def test_16_bit_tiff_in_windows(rule: str, tmp_path: Path) -> None:
    weight = np.array([0.1, -0.1])[:, None, None, None]  # bright is class 0
    settings = {"num_classes": 2, "classes": FACTS["classes"][:2], "channels": 1, "sixteen_bit": rule}
    model = Model(write_model(tmp_path / "model.onnx", weight, **settings))
    deep = (noise(130, 70).astype(np.uint16) * 30 + 500).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep, tile=(32, 32))
    out = tmp_path / "masks"
    assert main([str(tmp_path / "model.onnx"), str(tmp_path / "deep.tif"), "--out", str(out), "--tile", "64"]) == 0
    expected = model.predict(tmp_path / "deep.tif", model.tiling(64))
    highest = float(read_summary(out)[0]["highest_probability"])
    assert highest == pytest.approx(float(expected.probabilities[..., 0].max()), abs=1e-6)
    np.testing.assert_array_equal(tifffile.imread(out / "deep.tif"), expected.mask_index)


@pytest.mark.parametrize(
    ("pixels", "layout", "message"),
    [
        pytest.param(noise(9, 9, 3).astype(np.float32), {"photometric": "rgb"}, "8 or 16 bits", id="float"),
        pytest.param(
            noise(3, 9, 9), {"photometric": "rgb", "planarconfig": "separate"}, "8 or 16 bits", id="planes apart"
        ),
        pytest.param(noise(9, 9).astype(np.uint16), {}, "values of type uint16", id="16 bits without a rule"),
        pytest.param(noise(9, 9), {"extratags": [(274, "H", 1, 6, True)]}, "upright", id="lying on its side"),
        pytest.param(noise(40, 40), {"rowsperstrip": 40}, "--max-pixels", id="one large strip"),
    ],
)
def test_tiff_that_cannot_be_read_in_windows(
    pixels: npt.NDArray[Any],
    layout: dict[str, Any],
    message: str,
    brightest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **layout)
    (tmp_path / "text.tif").write_text("hello")
    images = [str(tmp_path / "a.tif"), str(tmp_path / "text.tif")]
    options = ["--out", str(tmp_path / "masks"), "--tile", "16", "--max-pixels", "1000"]
    assert main([str(brightest), *images, *options]) == 1
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert "text.tif" in second
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {"summary.csv", "decisions.json"}


def test_truncated_tiff_is_an_error(brightest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(200, 200, 3), photometric="rgb", tile=(64, 64), compression="zlib")
    path.write_bytes(path.read_bytes()[:-5000])
    assert main([str(brightest), str(path), "--out", str(tmp_path / "masks"), "--tile", "64"]) == 1
    assert f"error: {path}" in capsys.readouterr().err
    assert not (tmp_path / "masks" / "a.tif").exists()


def test_memory_follows_the_tile_row_and_not_the_image(
    brightest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_infer, "TIFF_BYTES", 1 << 16)  # else the whole of so small a file is read at once
    path = tmp_path / "tall.tif"
    image = np.tile(noise(200, 256, 3), (40, 1, 1))
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), compression="zlib")
    main([str(brightest), str(path), "--out", str(tmp_path / "warm"), "--tile", "64"])
    tracemalloc.start()
    try:
        assert main([str(brightest), str(path), "--out", str(tmp_path / "masks"), "--tile", "64"]) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The image has 6.1 MB and its probabilities 24.6 MB; one row of tiles of both is 0.25 MB.
    assert peak < 4_000_000


# Programs of their own, so that the tests' own memory does not count: torch is in it, and a file of 900 million pixels.
LARGE_TIFF = """
import sys, zlib, numpy as np, tifffile
side, path = int(sys.argv[1]), sys.argv[2]
tile = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
body = zlib.compress(tile.tobytes())
count = (-(-side // 256)) ** 2
tifffile.imwrite(path, (body for _ in range(count)), shape=(side, side, 3), dtype=np.uint8,
                 photometric="rgb", tile=(256, 256), compression="zlib", bigtiff=True)
"""
# VmHWM is the peak of this program alone; ru_maxrss would begin with what its parent held when it started it.
WITH_PEAK = """
import runpy, sys
from pathlib import Path
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="its peak of memory is read from /proc")
def test_900_million_pixels_within_two_gibibytes(tmp_path: Path) -> None:
    from flexunet_pl.export.onnx import export_onnx
    from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings

    network = FlexUNet(3, settings=FlexUNetSettings(base_filters=2, base_kernel=3, num_layers=2))
    export_onnx(network, FACTS | {"size_multiple": 2}, tmp_path / "model.onnx")
    side = 30_000
    subprocess.run([sys.executable, "-c", LARGE_TIFF, str(side), str(tmp_path / "slide.tif")], check=True, timeout=300)
    command = [sys.executable, "-c", WITH_PEAK, str(SOURCE), str(tmp_path / "model.onnx"), str(tmp_path / "slide.tif")]
    command += ["--out", str(tmp_path / "masks"), "--tile", "1024", "--overlap", "32"]
    run = subprocess.run(command, check=True, timeout=900, stdout=subprocess.PIPE, text=True)
    peak = int(run.stdout.split()[-2])  # kibibytes
    assert 100_000 < peak < 2 * 1024 * 1024
    with tifffile.TiffFile(tmp_path / "masks" / "slide.tif") as file:
        assert file.pages.first.shape == (side, side)
    assert sum(int(row["pixels"]) for row in read_summary(tmp_path / "masks")) == side * side
