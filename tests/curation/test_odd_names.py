"""Names with commas, quotes, line breaks, stray bytes and 250 bytes, and class names that YAML misreads."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.data.manifest import read_manifest
from flexunet_pl.data.palette import Palette

STRAY = os.fsdecode(b"caf\xe9")
NAMES = ['a,b "q"', "l\nf", "r\rf", STRAY, "=1+1", "plain"]
CLASSES = ("no", "on")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in CLASSES:
        for number, name in enumerate(NAMES):
            mask = np.zeros((16, 16), dtype=np.uint8)
            mask[2:6, 2 : 8 + number] = 255
            for folder, pixels in (("images", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)), ("masks", mask)):
                path = tmp_path / "src" / label / folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path / "src"


def test_prepare_and_audit_take_odd_names(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    strict = open(os.devnull, "w", encoding="utf-8", errors="strict")  # noqa: PTH123, SIM115  a terminal of UTF-8
    monkeypatch.setattr("sys.stdout", strict)
    assert main(["prepare", "folders", str(folders), str(data)]) == 0
    assert Palette.load(data / "palette.yaml").names == ("background", *CLASSES)
    rows = read_manifest(data)
    assert {Path(row.file).stem for row in rows} == {f"{label}_{name}" for label in CLASSES for name in NAMES}
    assert all((data / row.file).is_file() for row in rows)
    assert main(["prepare", "folders", str(folders), str(data), "--update", "true"]) == 0
    assert read_manifest(data) == rows
    assert main(["audit", str(data)]) == 0
    assert json.loads((data / "audit.json").read_text(encoding="utf-8"))["exit_code"] == 0
    strict.close()


def test_near_duplicates_read_back(folders: Path, tmp_path: Path) -> None:
    for name in NAMES[:2]:  # a copy under another name
        image = np.asarray(Image.open(folders / "no" / "images" / f"{name}.png")) // 2 + 60
        Image.fromarray(image.astype(np.uint8)).save(folders / "no" / "images" / f"{name} copy.png")
        mask = (folders / "no" / "masks" / f"{name}.png").read_bytes()
        (folders / "no" / "masks" / f"{name} copy.png").write_bytes(mask)
    for _ in range(2):  # the second run adds nothing
        assert main(["prepare", "folders", str(folders), str(tmp_path / "data"), "--update", "true"]) == 0
        with (tmp_path / "data" / "near_duplicates.csv").open(newline="", encoding="utf-8") as file:
            pairs = [set(row[:2]) for row in csv.reader(file)][1:]
        assert {f"no_{NAMES[0]}", f"no_{NAMES[0]} copy"} in pairs
        assert len(pairs) == len({frozenset(pair) for pair in pairs})


def test_a_name_too_long_is_refused_before_writing(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("images", "masks"):
        (folders / "no" / folder / "plain.png").rename(folders / "no" / folder / f"{'x' * 250}.png")
    assert main(["prepare", "folders", str(folders), str(tmp_path / "data")]) == 2
    assert "gets a name of 257 bytes in the data set" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["audit", "prepare"])
def test_max_pixels_is_an_option(
    command: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    prepare = ["prepare", "folders", str(folders), str(data), "--near_duplicates", "off"]
    if command == "audit":
        assert main(prepare) == 0
        assert main(["audit", str(data), "--max_pixels", "255"]) == 2
        assert "exceed data.max_pixels=255" in (data / "audit.json").read_text(encoding="utf-8")
    else:
        for path in folders.rglob(f"{STRAY}.png"):  # the captured standard error takes no stray bytes
            path.unlink()
        assert main([*prepare, "--max_pixels", "255"]) == 2
        error = capsys.readouterr().err
        assert "16 x 16 pixels exceed data.max_pixels=255" in error
        assert "in the other commands with --max_pixels" in error
        assert not data.exists()
        assert main([*prepare, "--max_pixels", "256"]) == 0
