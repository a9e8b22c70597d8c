"""The command line of the self-contained inference file: what it writes, mistakes, hostile files."""

import io
import json
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tifffile
from onnx import helper
from onnx_models import (
    BLUE,
    FACTS,
    GREEN,
    PALETTE,
    RED,
    labels,
    noise,
    picture,
    png_16_bit_rgb,
    read_summary,
    write_model,
)
from PIL import Image

from flexunet_pl.inference.onnx_infer import InferenceError, Model, main

UInt8Array = npt.NDArray[np.uint8]


@pytest.fixture(scope="session")
def brightest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture([[RED, GREEN, GREEN], [RED, RED, RED], [RED, RED, GREEN]])).save(folder / "a.png")
    Image.fromarray(picture([[BLUE] * 4] * 2)).save(folder / "b.bmp")
    (folder / "notes.txt").write_text("not an image, and passed over")
    (folder / ".hidden.png").write_text("hidden files are passed over")
    return folder


def test_everything_is_written(brightest: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    extras = ["--colors", "--overlays", "--probabilities"]
    assert main([str(brightest), str(photos), "--out", str(out), *extras]) == 0
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == [
        "a.png",
        "b.png",
        "colors/a.png",
        "colors/b.png",
        "decisions.json",
        "overlays/a.png",
        "overlays/b.png",
        "probabilities/a.npz",
        "probabilities/b.npz",
        "summary.csv",
    ]
    with Image.open(out / "a.png") as mask:
        assert mask.mode == "P"
        assert np.asarray(mask).tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1]]
        assert mask.getpalette() == PALETTE.flat()
    colors = np.asarray(Image.open(out / "colors" / "a.png"))
    assert colors[0].tolist() == [[0, 0, 0], [255, 0, 0], [255, 0, 0]]
    overlay = np.asarray(Image.open(out / "overlays" / "a.png"))
    assert overlay[0].tolist() == [list(RED), [5 + 127, 100, 5], [5 + 127, 100, 5]]
    with np.load(out / "probabilities" / "b.npz") as archive:
        assert archive["probabilities"].shape == (2, 4, 3)
    rows = read_summary(out)
    assert len(rows) == 6
    assert rows[1] == {
        "file": str(photos / "a.png"),
        "class": "crack",
        "pixels": "3",
        "share": "0.333333",
        "regions": "2",
        "largest_region": "2",
        "highest_probability": "1.0",
        "defect_probability": "1.0",
        "decision": "NG",
        "uncertainty": "0.0",
        "drift_score": "",
    }
    assert [row["regions"] for row in rows[3:]] == ["0", "0", "1"]


def test_files_folders_and_globs(brightest: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    arguments = [str(photos / "a.png"), str(photos), str(photos / "*.bmp"), str(tmp_path / "**" / "a.*")]
    assert main([str(brightest), *arguments, "--out", str(out)]) == 0
    assert [row["file"] for row in read_summary(out)[::3]] == [str(photos / "a.png"), str(photos / "b.bmp")]


def test_names_that_coincide_are_told_apart(brightest: Path, tmp_path: Path) -> None:
    for name in ("left/a.png", "left/a.bmp", "left/b.png", "right/b.png", "right/C.png", "left/c.bmp", "left/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture([[RED]])).save(path)
    out = tmp_path / "masks"
    assert main([str(brightest), str(tmp_path / "left"), str(tmp_path / "right"), "--out", str(out)]) == 0
    masks = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert masks == [
        "d.png",
        "left/a.bmp.png",
        "left/a.png.png",
        "left/b.png",
        "left/c.png",
        "right/C.png",
        "right/b.png",
    ]


def test_images_are_never_overwritten(brightest: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (photos / "a.png").read_bytes()
    assert main([str(brightest), str(photos), "--out", str(photos)]) == 2
    assert "a.png: would overwrite an image or another mask" in capsys.readouterr().err
    assert (photos / "a.png").read_bytes() == before


def test_broken_image_is_named_and_the_rest_done(
    brightest: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "text.png").write_text("hello")
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    (photos / "truncated.png").write_bytes(whole.read_bytes()[:3000])
    np.save(photos / "evil.npy", np.array([print], dtype=object), allow_pickle=True)
    out = tmp_path / "masks"
    assert main([str(brightest), str(photos), "--out", str(out)]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for name, error in zip(("evil.npy", "text.png", "truncated.png"), errors, strict=True):
        assert str(photos / name) in error
        assert "cannot be read as a" in error  # an image, or a numpy array
    assert {row["file"] for row in read_summary(out)} == {str(photos / "a.png"), str(photos / "b.bmp")}
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "decisions.json", "summary.csv"]


def test_decompression_bomb_is_refused_before_it_is_decoded(
    brightest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = tmp_path / "bomb.png"
    png = png_16_bit_rgb(np.zeros((1, 1, 3), dtype=np.uint16))
    header = struct.pack(">IIBBBBB", 60_000, 50_000, 8, 2, 0, 0, 0)
    bomb.write_bytes(png[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:])
    np.save(tmp_path / "large.npy", np.zeros((50, 21, 3), dtype=np.uint8))
    Image.fromarray(np.zeros((50, 20, 3), dtype=np.uint8)).save(tmp_path / "small.png")
    limit = Image.MAX_IMAGE_PIXELS
    images = [str(tmp_path / name) for name in ("bomb.png", "large.npy", "small.png")]
    assert main([str(brightest), *images, "--out", str(tmp_path / "masks"), "--max-pixels", "1000"]) == 1
    errors = capsys.readouterr().err
    assert "bomb.png: 50000 x 60000 pixels exceed --max-pixels 1000" in errors
    assert "large.npy: 50 x 21 pixels" in errors
    assert (tmp_path / "masks" / "small.png").exists()
    assert limit == Image.MAX_IMAGE_PIXELS


def test_nothing_half_written_stays(brightest: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    (out / "a.png").mkdir(parents=True)  # cannot be replaced by a file
    assert main([str(brightest), str(photos), "--out", str(out)]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "decisions.json", "summary.csv"]


def make_text(path: Path) -> Path:
    path.write_text("this is no protobuf")
    return path


def make_without_metadata(path: Path) -> Path:
    return write_model(path, metadata=False)


def make_without_classes(path: Path) -> Path:
    write_model(path)
    model = onnx.load(path)
    helper.set_model_props(model, {"flexunet_pl": json.dumps({k: v for k, v in FACTS.items() if k != "classes"})})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(make_text, "is it an ONNX file", id="text called .onnx"),
        pytest.param(make_without_metadata, "its metadata 'flexunet_pl' .*palette.* is missing", id="no metadata"),
        pytest.param(make_without_classes, "missing or incomplete.*KeyError: 'classes'", id="no classes"),
        pytest.param(lambda path: path, "no such model", id="no file"),
    ],
)
def test_what_is_no_exported_model(make: Callable[[Path], Path], message: str, engine: str, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match=rf"model\.onnx.*{message}"):
        Model(make(tmp_path / "model.onnx"), engine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 is not 1"),
        ({"num_classes": 4}, "num_classes 4 with 3 names"),
        ({"resize": "shrink"}, "resize 'shrink'"),
        ({"sixteen_bit": "auto"}, "sixteen_bit 'auto'"),
        (
            {"classes": [{"name": "a", "color": [0, 0, 256]}, {"name": "b", "color": [0, 0, 0]}], "num_classes": 2},
            "256",
        ),
        ({"classes": [{"name": "a"}]}, "KeyError: 'color'"),
    ],
    ids=str,
)
def test_malformed_metadata(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        labels(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "required", id="nothing"),
        pytest.param(["MODEL", "none.png", "--out", "OUT"], "none.png: no image", id="no such image"),
        pytest.param(["MODEL", "EMPTY", "--out", "OUT"], "no image", id="empty folder"),
        pytest.param(["EMPTY", "A", "--out", "OUT"], "no such model", id="folder without a model"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--engine", "tensorrt"], "invalid choice", id="engine"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--precision", "bf16"], "needs --engine openvino", id="precision"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--providers", "nvidia"], "has only", id="provider"),
        pytest.param(
            ["MODEL", "A", "--out", "OUT", "--engine", "openvino", "--providers", "cpu"],
            "leave it out with openvino",
            id="provider of openvino",
        ),
        pytest.param(["MODEL", "A", "--out", "OUT", "--tile", "64", "--overlap", "64"], "must be within", id="overlap"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--overlap", "8"], "--overlap 8 needs --tile", id="no tile"),
        pytest.param(["MODEL", "A", "--out", "A"], "cannot be created", id="output is a file"),
        pytest.param(["MODEL", "A", "--out", "OUT", "--tille", "64"], "unrecognized arguments: --tille", id="mistyped"),
        pytest.param(
            ["MODEL", "TIFF", "--out", "OUT", "--tile", "64", "--overlays"],
            "leave it out for TIFF",
            id="extras of TIFF",
        ),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    brightest: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 8))
    names = {"MODEL": brightest, "A": photos / "a.png", "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    names["TIFF"] = tmp_path / "a.tif"
    assert main([str(names.get(argument, argument)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_grows_on_a_terminal(
    brightest: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main([str(brightest), str(photos), "--out", str(tmp_path / "masks")]) == 0
    shown = terminal.getvalue().split("\r\x1b[K")
    assert re.fullmatch(r"\[#{10} {10}\] 1 of 2 images, \d+ s left", shown[1])
    assert shown[2] == f"[{'#' * 20}] 2 of 2 images, 0 s left"
    assert shown[3].startswith("2 of 2 images segmented")


def test_providers_by_their_beginning(brightest: Path) -> None:
    assert Model(brightest, providers=["cpu"]).predict(picture([[GREEN]])).mask_index.tolist() == [[1]]


@pytest.mark.parametrize("stem", ['a,b "q"', "l\nf", os.fsdecode(b"caf\xe9"), "x" * 246], ids=repr)
def test_odd_names_are_segmented_and_listed(stem: str, brightest: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.png"
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(path)
    options = ["--out", str(tmp_path / "out"), "--overlays", "--probabilities"]
    assert main([str(brightest), str(path), *options]) == 0
    for written in (f"{stem}.png", f"overlays/{stem}.png", f"probabilities/{stem}.npz"):
        assert (tmp_path / "out" / written).is_file()
    listed = str(path).encode(errors="backslashreplace").decode()
    assert {row["file"] for row in read_summary(tmp_path / "out")} == {listed}
