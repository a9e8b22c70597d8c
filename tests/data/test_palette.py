"""What class is what."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import Palette

COLORS = {"background": [0, 0, 0], "crack": [0, 0, 255], "oil": [255, 255, 0], "ignore": [128, 128, 128]}


def test_position_is_class_index_and_ignore_is_255() -> None:
    palette = Palette.from_mapping(COLORS)
    mask_rgb = np.array([[[0, 0, 255], [255, 255, 0]], [[128, 128, 128], [0, 0, 0]]], dtype=np.uint8)
    mask_index, unknown = palette.encode(mask_rgb)
    assert mask_index.tolist() == [[1, 2], [255, 0]]
    assert not unknown.any()
    assert (palette.decode(mask_index) == mask_rgb).all()
    assert len(palette) == 3
    assert palette.flat()[3:6] == [0, 0, 255]
    assert palette.flat()[-3:] == [128, 128, 128]


def test_a_colour_in_no_palette_is_told() -> None:
    mask_rgb = np.array([[[0, 0, 254], [0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    assert Palette.from_mapping(COLORS).encode(mask_rgb)[1].tolist() == [[True, False, True]]


def test_a_palette_survives_its_file(tmp_path: Path) -> None:
    palette = Palette.from_mapping(COLORS)
    palette.save(tmp_path / "palette.yaml")
    assert Palette.load(tmp_path / "palette.yaml") == palette
    assert palette.to_mapping() == COLORS


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        pytest.param({"background": [0, 0, 0]}, "1 classes; a palette has 2 to 255", id="one class"),
        pytest.param({"background": [0, 0, 0], "ignore": [1, 1, 1]}, "1 classes", id="ignore is no class"),
        pytest.param({"a": [0, 0, 0], "b": [0, 0, 0]}, "'b' and 'a' share the colour", id="same colour"),
        pytest.param({"a": [0, 0, 0], "b": [0, 0, 1], "ignore": [0, 0, 1]}, "'ignore' and 'b'", id="ignore is taken"),
        pytest.param({"a": [0, 0, 0], "b": [0, 0, 256]}, r"\[0, 0, 256\]; it must be three whole numbers", id="256"),
        pytest.param({"a": [0, 0, 0], "b": [0, 0]}, "three whole numbers", id="two numbers"),
        pytest.param({"a": [0, 0, 0], "b": "red"}, "'red'", id="a word"),
        pytest.param({"a": [0, 0, 0], "b": [0, 0, True]}, "three whole numbers", id="a bool"),
        pytest.param(["a", "b"], "is not a map", id="a list"),
    ],
)
def test_a_wrong_palette_is_told(mapping: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Palette.from_mapping(mapping)


@pytest.mark.parametrize("content", [b"a: [0, 0", b"\xff\xfe\x00", b"- 1\n- 2\n"])
def test_a_file_that_is_no_palette_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "palette.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"palette\.yaml"):
        Palette.load(path)
    with pytest.raises(UserError, match=r"absent\.yaml"):
        Palette.load(tmp_path / "absent.yaml")


def test_a_config_is_read_as_the_palette_in_it(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "model: {}\ndata: {palette: {background: [0, 0, 0], crack: [0, 0, 255]}, nearest_classes: [background]}\n"
    )
    (tmp_path / "by_name.yaml").write_text("data: {palette: run.yaml}\n")
    for name in ("run.yaml", "by_name.yaml"):
        palette = Palette.load(tmp_path / name)
        assert (palette.names, palette.nearest) == (("background", "crack"), ("background",))
    (tmp_path / "bare.yaml").write_text("data: {root: tiles}\n")
    with pytest.raises(UserError, match=r"bare\.yaml: is a config without data\.palette"):
        Palette.load(tmp_path / "bare.yaml")


@pytest.mark.parametrize(
    "name", ["no", "on", "yes", "off", "null", "1e3", "01", "2024-01-01", "a,b", "caf\udce9", "=x"]
)
def test_class_names_stay_text(name: str, tmp_path: Path) -> None:
    palette = Palette.from_mapping({"background": [0, 0, 0], name: [0, 0, 255]})
    palette.save(tmp_path / "written.yaml")
    assert Palette.load(tmp_path / "written.yaml") == palette
    if name.isascii():
        (tmp_path / "plain.yaml").write_text(f"background: [0, 0, 0]\n{name}: [0, 0, 255]\n")
        assert Palette.load(tmp_path / "plain.yaml") == palette


def test_a_class_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="the class name False is no text; put it in quotes"):
        Palette.from_mapping({"background": [0, 0, 0], False: [0, 0, 255]})  # type: ignore[dict-item]
