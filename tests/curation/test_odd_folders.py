"""Folders nobody tidied: upper-case endings, umlauts, hidden files, nested classes, masks of every make."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_data import PALETTE, spot, surface, write_image, write_mvtec, write_pair
from jsonargparse import auto_cli
from PIL import Image

from flexunet_pl.cli.audit import audit
from flexunet_pl.cli.prepare import SOURCES
from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.conversion import read_two_valued
from flexunet_pl.curation.prepare import overview
from flexunet_pl.data.manifest import Row, read_manifest
from flexunet_pl.data.palette import Palette, UInt8Array


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "draw_overview", lambda *_: None)


def prepare(*arguments: object) -> list[Row]:
    """Run a source as the command line does, and return the manifest."""
    sources: dict[str, Any] = dict(SOURCES)
    assert auto_cli(sources, args=[str(argument) for argument in arguments], as_positional=True) == 0
    return read_manifest(Path(str(arguments[2])))


def litter(root: Path) -> None:
    """Put what systems leave behind into every folder."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
            (folder / name).write_bytes(b"\0\1")
    (root / "__MACOSX" / "tile").mkdir(parents=True)
    (root / "__MACOSX" / "tile" / "._000.png").write_bytes(b"\0")


def test_an_untidy_mvtec_category(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "Fliesen grün (neu)", {"großer Riss": 4, "oil.2": 4}, good=4)
    for path in [*root.rglob("*.png")][::2]:
        path.rename(path.with_suffix(".PNG"))
    (root / "test" / "good").rename(root / "test" / "Good")
    litter(root)
    rows = prepare("mvtec", root, tmp_path / "out", "--near_duplicates", "off")
    assert len(rows) == 16
    assert {"großer Riss_000", "oil.2_003", "good_000", "good_train_003"} <= {row.name for row in rows}
    assert Palette.load(tmp_path / "out" / "palette.yaml").names == ("background", "großer Riss", "oil.2")
    litter(tmp_path / "out")
    assert prepare("mvtec", root, tmp_path / "out", "--near_duplicates", "off", "--update", "true") == rows
    assert audit(tmp_path / "out", near_duplicates=False) == 0


def test_masks_of_a_folder_without_images_are_told(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "tile", {"crack": 2})
    (root / "test" / "crack").rename(root / "test" / "cracks")
    with pytest.raises(UserError, match=r"ground_truth/crack: masks without a folder") as caught:
        prepare("mvtec", root, tmp_path / "out")
    assert "000_mask.png is missing" in str(caught.value)


def test_classes_may_be_nested_and_names_may_recur(tmp_path: Path) -> None:
    mask = spot().astype(np.uint8) * np.uint8(255)
    for day in ("Mo", "Di"):
        for number in range(2):
            write_image(tmp_path / "src" / "dent" / day / "Images" / f"{number}.JPG", surface(number + len(day)))
            write_image(tmp_path / "src" / "dent" / day / ("GT" if day == "Mo" else "Masks") / f"{number}.png", mask)
    write_image(tmp_path / "src" / "dent" / "7.jpg", surface(7))
    write_image(tmp_path / "src" / "dent" / "7.png", mask)
    write_image(tmp_path / "src" / "fine" / "8.jpg", surface(8))
    litter(tmp_path / "src")
    options = ["--defect_free", "fine", "--near_duplicates", "off"]
    rows = prepare("folders", tmp_path / "src", tmp_path / "out", *options)
    names = {"dent_Di_0", "dent_Di_1", "dent_Mo_0", "dent_Mo_1", "dent_7", "fine_8"}
    assert {row.name for row in rows} == {row.source for row in rows} == names
    assert {row.pixels["dent"] for row in rows} == {0, 81}


def test_masks_named_by_a_suffix_are_recognised_and_the_option_named(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "src" / "dent" / f"{number}.jpg", surface(number))
        write_image(tmp_path / "src" / "dent" / f"{number}_mask.png", spot().astype(np.uint8))
    with pytest.raises(UserError, match=r"3 files such as 0_mask\.png look like masks; .*--mask_suffix _mask"):
        prepare("folders", tmp_path / "src", tmp_path / "out")
    assert len(prepare("folders", tmp_path / "src", tmp_path / "out", "--mask_suffix", "_mask")) == 3


def test_two_folders_of_one_class_or_of_no_class_are_refused(tmp_path: Path) -> None:
    for name in ("MT_dent", "dent", "Background"):
        write_image(tmp_path / "src" / name / "0.jpg", surface(1))
        write_image(tmp_path / "src" / name / "0.png", spot().astype(np.uint8))
    with pytest.raises(UserError, match="both give the class 'dent'"):
        prepare("folders", tmp_path / "src", tmp_path / "out", "--strip_prefix", "MT_")
    with pytest.raises(UserError, match="no class of defects can be called 'Background'"):
        prepare("folders", tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_that_marks_nothing_is_no_class(tmp_path: Path) -> None:
    for label, mask in (("dent", np.zeros((64, 64))), ("Free", np.zeros((64, 64)))):
        for number in range(3):
            write_image(tmp_path / "src" / label / f"{number}.jpg", surface(number + len(label)))
            write_image(tmp_path / "src" / label / f"{number}.png", mask.astype(np.uint8))
    with pytest.raises(UserError, match="'Free' marks a pixel; if its images have no defect, give --defect_free Free"):
        prepare("folders", tmp_path / "src", tmp_path / "out", "--near_duplicates", "off")
    assert not (tmp_path / "out").exists()
    for number in range(3):
        write_image(tmp_path / "src" / "dent" / f"{number}.png", spot().astype(np.uint8))
    assert len(prepare("folders", tmp_path / "src", tmp_path / "out", "--defect_free", "Free")) == 6


def test_pairs_with_a_mask_suffix_and_other_names_for_splits(tmp_path: Path) -> None:
    for split, number in (("Train", 0), ("val", 1), ("test", 2)):
        write_pair(tmp_path / "src", split, f"bild {number} ä", number, 1)
        masks = tmp_path / "src" / split / "masks"
        (masks / f"bild {number} ä.png").rename(masks / f"bild {number} ä_mask.PNG")
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    options = ["--mask_suffix", "_mask", "--keep_splits", "true", "--near_duplicates", "off"]
    rows = prepare("pairs", tmp_path / "src", tmp_path / "out", *options)
    assert {row.name: row.split for row in rows} == {"bild 0 ä": "train", "bild 1 ä": "valid", "bild 2 ä": "test"}
    write_pair(tmp_path / "src", "extra", "crack_9", 9, 1)
    with pytest.raises(UserError, match="extra: holds images but is no split"):
        prepare("pairs", tmp_path / "src", tmp_path / "more", *options)


@pytest.mark.parametrize("tree", ["{split}/{part}", "{part}/{split}", "{part}"])
def test_images_and_masks_in_any_order_and_case(tree: str, tmp_path: Path) -> None:
    for number, split in enumerate(("Train", "Valid", "TEST")):
        write_pair(tmp_path / "made", split, f"crack_{number}", number, 1)
        for part, called in (("images", "Images"), ("masks", "Labels")):
            target = tmp_path / "src" / tree.format(split=split, part=called)
            target.mkdir(parents=True, exist_ok=True)
            (tmp_path / "made" / split / part / f"crack_{number}.png").rename(target / f"crack_{number}.png")
    litter(tmp_path / "src")
    PALETTE.save(tmp_path / "palette.yaml")
    rows = prepare("pairs", tmp_path / "src", tmp_path / "out", "--palette", tmp_path / "palette.yaml")
    assert [row.source for row in sorted(rows, key=lambda row: row.name)] == ["crack_0", "crack_1", "crack_2"]


def test_images_without_masks_beside_them_are_told(tmp_path: Path) -> None:
    write_image(tmp_path / "src" / "train" / "images" / "0.png", surface(0))
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    with pytest.raises(UserError, match="train: has no folder masks beside its images"):
        prepare("pairs", tmp_path / "src", tmp_path / "out")


def test_umlauts_in_two_spellings_and_semicolons_in_a_csv(tmp_path: Path) -> None:
    for number in range(6):
        write_pair(tmp_path / "src", "train", unicodedata.normalize("NFD", f"für_{number}"), number, 1)
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    lines = [f"train\\images\\für_{number}.png;teil {number // 2}" for number in range(6)]
    (tmp_path / "groups.csv").write_text("\ufefffile;group\n" + "\n".join(lines), encoding="utf-8")
    options = ["--groups", tmp_path / "groups.csv", "--near_duplicates", "off"]
    rows = prepare("pairs", tmp_path / "src", tmp_path / "out", *options)
    assert {row.group for row in rows} == {"teil 0", "teil 1", "teil 2"}


def test_images_of_16_bits_stay_and_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_mvtec(tmp_path / "tile", {"crack": 4}, good=0)
    for path in (root / "test" / "crack").iterdir():
        with Image.open(path) as image:
            deep = np.asarray(image.convert("L"), dtype=np.uint16) * 257
        Image.fromarray(deep).save(path)
    rows = prepare("mvtec", root, tmp_path / "out")
    assert {row.pixels["crack"] for row in rows} == {81}
    assert "4 images have 16 bits a channel, such as crack_000" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / rows[0].file) as image:
        assert image.mode == "I;16"


def test_many_problems_are_listed_shortly(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "tile", {"crack": 45}, size=(8, 8), good=0)
    for path in (root / "ground_truth" / "crack").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"45 problems, nothing was written:(?s:.*)and 15 more$"):
        prepare("mvtec", root, tmp_path / "out")


def test_a_lossy_mask_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    write_image(tmp_path / "src" / "a.png", PALETTE.decode(spot().astype(np.uint8)))
    write_image(tmp_path / "src" / "b.jpg", PALETTE.decode(spot().astype(np.uint8)))
    PALETTE.save(tmp_path / "palette.yaml")
    sources: dict[str, Any] = dict(SOURCES)
    with pytest.raises(UserError, match=r"b\.jpg: a mask in a lossy format"):
        auto_cli(sources, args=["masks", str(tmp_path / "src"), str(tmp_path / "out")], as_positional=True)


# Masks that mark one class


def _soft(marked: UInt8Array) -> Image.Image:
    grey = marked * np.uint8(255)
    grey[9, 12:21], grey[19, 12:21] = 100, 140  # above and below the square, one dark and one bright row
    return Image.fromarray(grey)


def _transparent(marked: UInt8Array) -> Image.Image:
    return Image.fromarray(np.dstack([np.full((*marked.shape, 3), 255, dtype=np.uint8), marked * np.uint8(255)]))


def _indexed(marked: UInt8Array) -> Image.Image:
    image = Image.fromarray(marked).convert("P")
    image.putpalette([0, 0, 0, 200, 0, 0])
    return image


MASKS: dict[str, tuple[Callable[[UInt8Array], Image.Image], int]] = {
    "0 and 255": (lambda marked: Image.fromarray(marked * np.uint8(255)), 81),
    "0 and 1": (Image.fromarray, 81),
    "0 and 38": (lambda marked: Image.fromarray(marked * np.uint8(38)), 81),
    "one bit": (lambda marked: Image.fromarray(marked * np.uint8(255)).convert("1"), 81),
    "16 bits, 0 and 1": (lambda marked: Image.fromarray(marked.astype(np.uint16)), 81),
    "blue on black": (lambda marked: Image.fromarray(marked[..., None] * np.array([0, 0, 255], dtype=np.uint8)), 81),
    "dark red by a palette": (_indexed, 81),
    "white on transparent": (_transparent, 81),
    "soft edges": (_soft, 81 + 9),
    "nothing": (lambda marked: Image.fromarray(marked * np.uint8(0)), 0),
    "everything": (lambda marked: Image.fromarray(marked * np.uint8(0) + np.uint8(255)), 64 * 64),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_one_class_however_they_are_painted(kind: str, tmp_path: Path) -> None:
    paint, pixels = MASKS[kind]
    paint(spot().astype(np.uint8)).save(tmp_path / "mask.png")
    marked = read_two_valued(tmp_path / "mask.png")
    assert int(marked.sum()) == pixels
    assert set(np.unique(marked)) <= {0, 1}


def test_a_mask_too_dark_to_tell_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "mask.png", spot().astype(np.uint8) * np.uint8(3) + np.uint8(1))
    read_two_valued(path)  # two levels tell
    levels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 5
    write_image(path, levels.astype(np.uint8))
    with pytest.raises(UserError, match="its brightest pixel has 4 of 255"):
        read_two_valued(path)


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_folders_may_be_links(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "tile", {"crack": 3})
    (tmp_path / "link").symlink_to(root)
    assert len(prepare("mvtec", tmp_path / "link", tmp_path / "out")) == 15
