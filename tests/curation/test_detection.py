"""Folders in any layout: recognised, linked, split by source, and kept as they were split when they grow."""

import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from curation_data import PALETTE, spot, surface, write_image, write_magnets, write_mvtec, write_pair
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.prepare import builder
from flexunet_pl.curation.prepare.archives import unpacked
from flexunet_pl.curation.prepare.detection import read_any
from flexunet_pl.curation.prepare.view import view_of
from flexunet_pl.data.layout import PALETTE_FILE, SPLITS
from flexunet_pl.data.manifest import read_manifest
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette


def _mvtec(root: Path) -> None:
    write_mvtec(root, {"crack": 3, "hole": 3})


def _categories(root: Path) -> None:
    write_mvtec(root / "tile", {"crack": 3})
    write_mvtec(root / "wood", {"hole": 3})


def _classes(root: Path) -> None:
    write_magnets(root, {"MT_Blowhole": 3, "MT_Free": 3}, exposures=1)


def _suffixed(root: Path) -> None:
    for label in ("dent", "scratch"):
        for number in range(3):
            image = surface(ord(label[0]) + number)
            write_image(root / label / f"{label}{number}.png", image)
            mask = spot().astype(np.uint8) * np.uint8(255)
            write_image(root / label / f"{label}{number}_mask.png", mask)


def _colored(root: Path) -> None:
    for number in range(4):
        write_pair(root.parent, root.name, f"{'crack' if number % 2 else 'oil'}_{number}", number, 1 + (number + 1) % 2)


def _black_and_white(root: Path) -> None:
    for number in range(4):
        write_image(root / "images" / f"part{number}.png", surface(number))
        write_image(root / "masks" / f"part{number}.png", spot().astype(np.uint8) * np.uint8(255))


def _own_splits(root: Path) -> None:
    for number, split in enumerate(("training", "training", "val", "test")):
        write_pair(root, split, f"crack_{number}", number, 1)


LAYOUTS: list[tuple[Callable[[Path], None], str, list[str]]] = [
    (_mvtec, "MVTec AD", ["background", "crack", "hole"]),
    (_categories, "several categories of MVTec AD", ["background", "tile_crack", "wood_hole"]),
    (_classes, "a folder for each class", ["background", "Blowhole"]),
    (_suffixed, "a folder for each class", ["background", "dent", "scratch"]),
    (_colored, "images and masks", ["background", "crack", "oil"]),
    (_black_and_white, "images and masks", ["background", "defect"]),
    (_own_splits, "splits with images and masks", ["background", "crack"]),
]


@pytest.mark.parametrize(("write", "layout", "classes"), LAYOUTS, ids=[item[0].__name__[1:] for item in LAYOUTS])
def test_each_layout_is_recognised_and_becomes_a_data_set(
    write: Callable[[Path], None], layout: str, classes: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "parts"
    write(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    contents = read_any(folder)
    assert contents.layout == layout
    view = view_of(folder, contents, tmp_path / "views")
    palette = Palette.load(view.root / PALETTE_FILE)
    assert list(palette.names) == classes
    rows = read_manifest(view.root)
    assert len(rows) == len(contents.found)
    shown = set()
    for row in rows:
        image = view.root / row.file
        assert image.is_symlink()
        assert image.resolve() in before
        mask_index, moved = read_mask(view.root / row.split / "masks" / f"{row.name}.png", palette, antialiased=False)
        assert moved == 0
        shown |= {palette.names[index] for index in np.unique(mask_index)}
    assert shown == set(classes)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_splits_of_the_folder_stay(tmp_path: Path) -> None:
    _own_splits(tmp_path / "parts")
    view = view_of(tmp_path / "parts", read_any(tmp_path / "parts"), tmp_path / "views")
    assert {row.name: row.split for row in read_manifest(view.root)} == {
        "crack_0": "train",
        "crack_1": "train",
        "crack_2": "valid",
        "crack_3": "test",
    }


def test_a_view_is_made_once_and_grows_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tile"
    write_mvtec(folder, {"crack": 6, "hole": 6})
    first = view_of(folder, read_any(folder), tmp_path / "views")
    split_of = {row.name: row.split for row in read_manifest(first.root)}
    assert set(split_of.values()) == set(SPLITS)
    again = view_of(folder, read_any(folder), tmp_path / "views")
    assert (again.root, again.is_new, again.notes) == (first.root, False, first.notes)

    write_image(folder / "test" / "good" / "900.png", surface(900))
    grown = view_of(folder, read_any(folder), tmp_path / "views")
    after = {row.name: row.split for row in read_manifest(grown.root)}
    assert (grown.root, grown.is_new) == (first.root, True)
    assert after.keys() - split_of.keys() == {"good_900"}
    assert {name: after[name] for name in split_of} == split_of


def test_a_changed_mask_gets_a_view_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "tile"
    write_mvtec(folder, {"crack": 4})
    first = view_of(folder, read_any(folder), tmp_path / "views")
    other = spot(top=40, left=40).astype(np.uint8) * np.uint8(255)
    write_image(folder / "ground_truth" / "crack" / "000_mask.png", other)
    write_image(folder / "test" / "good" / "900.png", surface(900))
    before = {path: path.read_bytes() for path in first.root.rglob("*") if path.is_file()}
    second = view_of(folder, read_any(folder), tmp_path / "views")
    assert second.root == first.root.with_name("tile-2")
    assert before == {path: path.read_bytes() for path in first.root.rglob("*") if path.is_file()}
    (folder / "test" / "good" / "000.png").unlink()
    third = view_of(folder, read_any(folder), tmp_path / "views")
    assert "good_000" not in {row.name for row in read_manifest(third.root)}


def test_colors_that_get_other_names_get_a_view_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    _colored(folder)
    first = view_of(folder, read_any(folder), tmp_path / "views")
    names = {"background": [0, 0, 0], "dent": [0, 0, 255], "stain": [255, 255, 0]}
    Palette.from_mapping(names).save(folder / PALETTE_FILE)  # no image or mask has changed
    second = view_of(folder, read_any(folder), tmp_path / "views")
    assert second.root != first.root
    assert Palette.load(second.root / PALETTE_FILE).to_mapping() == names


def test_a_view_that_was_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mvtec(tmp_path / "tile", {"crack": 3})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(builder, "write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            view_of(tmp_path / "tile", read_any(tmp_path / "tile"), tmp_path / "views")
    assert list((tmp_path / "views").iterdir()) == []
    assert view_of(tmp_path / "tile", read_any(tmp_path / "tile"), tmp_path / "views").root.name == "tile"


def test_two_folders_of_one_name_have_two_views(tmp_path: Path) -> None:
    for parent in ("one", "two"):
        write_mvtec(tmp_path / parent / "tile", {"crack": 3})
    roots = [
        view_of(tmp_path / parent / "tile", read_any(tmp_path / parent / "tile"), tmp_path / "views").root.name
        for parent in ("one", "two")
    ]
    assert roots == ["tile", "tile-2"]


def test_a_folder_of_no_layout_says_what_it_should_hold(tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", surface(1))
    with pytest.raises(UserError, match=r"holds no layout .* it should hold test/DEFECT/NNN\.png"):
        read_any(tmp_path)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_is_unpacked_once_beside_itself(suffix: str, tmp_path: Path) -> None:
    write_mvtec(tmp_path / "in" / "tile", {"crack": 2})
    kind = "zip" if suffix == ".zip" else "gztar"
    archive = Path(shutil.make_archive(str(tmp_path / "tile"), kind, tmp_path / "in"))
    folder = unpacked(archive)
    assert folder == tmp_path / "tile"
    assert len(read_any(folder).found) == 14
    archive.write_bytes(b"")
    assert unpacked(archive) == folder  # kept as it is


def test_an_archive_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
    with pytest.raises(UserError, match=r"leads out of the folder"):
        unpacked(tmp_path / "bad.zip")
    with tarfile.open(tmp_path / "worse.tar", "w") as archive_of_tape:
        Image.fromarray(surface(1)).save(tmp_path / "a.png")
        archive_of_tape.add(tmp_path / "a.png", arcname="../a.png")
    with pytest.raises(UserError, match=r"worse\.tar: cannot be unpacked"):
        unpacked(tmp_path / "worse.tar")
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(UserError, match=r"torn\.zip: cannot be unpacked .*download it again"):
        unpacked(tmp_path / "torn.zip")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


def test_good_images_need_no_mask_if_their_names_say_so(tmp_path: Path) -> None:
    _colored(tmp_path / "parts")
    write_image(tmp_path / "parts" / "images" / "good_7.png", surface(7))
    contents = read_any(tmp_path / "parts")
    assert "images without a mask that are good, as their names say: 1" in contents.notes
    view = view_of(tmp_path / "parts", contents, tmp_path / "views")
    assert [row.name for row in read_manifest(view.root) if not row.classes] == ["good_7"]
    write_image(tmp_path / "parts" / "images" / "crack_9.png", surface(9))
    with pytest.raises(UserError, match=r"crack_9\.png: no mask with the stem 'crack_9'"):
        read_any(tmp_path / "parts")


def test_the_palette_of_the_folder_counts(tmp_path: Path) -> None:
    _colored(tmp_path / "parts")
    PALETTE.save(tmp_path / "parts" / PALETTE_FILE)
    assert read_any(tmp_path / "parts").palette_of(None).names == PALETTE.names
