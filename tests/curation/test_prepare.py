"""From folders as people have them to data sets one can trust: nothing lost, nothing mixed, nothing overwritten."""

import csv
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_data import PALETTE, surface, write_image, write_magnets, write_mvtec, write_pair
from jsonargparse import auto_cli
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.cli.prepare import SOURCES
from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.palette_detection import grown_palette, infer_palette, with_ignore
from flexunet_pl.curation.prepare import builder as build
from flexunet_pl.curation.prepare import output_folder as target
from flexunet_pl.curation.prepare import overview
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.manifest import Row, fold_members, read_manifest, sha256_of
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, Palette
from flexunet_pl.data.sources import source_of

SPLITS = ("train", "valid", "test")


def prepare(*arguments: object) -> int:
    """Run a source as the command line does."""
    sources: dict[str, Any] = dict(SOURCES)
    return int(auto_cli(sources, args=[str(argument) for argument in arguments], as_positional=True))


@pytest.fixture
def pictures() -> None:
    """Ask for the statistics and sample sheets, which most tests do without to save time."""


@pytest.fixture(autouse=True)
def _without_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(overview, "draw_overview", lambda *_: None)


def checksums(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def check_whole(root: Path) -> list[Row]:
    """Check that files, masks, palette and manifest of a prepared data set agree; return its manifest."""
    rows = read_manifest(root)
    palette = Palette.load(root / "palette.yaml")
    on_disk = {path.relative_to(root).as_posix() for split in SPLITS for path in (root / split).rglob("images/*")}
    assert {row.file for row in rows} == on_disk
    splits_of_group: dict[str, set[str]] = {}
    for row in rows:
        splits_of_group.setdefault(row.group, set()).add(row.split)
        assert row.file.startswith(f"{row.split}/images/")
        assert sha256_of(root / row.file) == row.sha256
        mask_path = root / row.split / "masks" / f"{row.name}.png"
        with Image.open(mask_path) as mask, Image.open(root / row.file) as image:
            assert mask.size == image.size
            assert mask.mode == "RGB"
        mask_index, moved = read_mask(mask_path, palette, antialiased=False)
        assert moved == 0
        counted = np.bincount(mask_index.reshape(-1), minlength=256)
        assert [row.pixels[name] for name in palette.names] == counted[: len(palette)].tolist()
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    return rows


# MVTec AD


@pytest.fixture
def category(tmp_path: Path) -> Path:
    return write_mvtec(tmp_path / "tile", {"crack": 6, "glue_strip": 5})


@pytest.mark.usefixtures("pictures")
def test_an_mvtec_category_becomes_a_data_set(category: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert prepare("mvtec", category, out) == 0
    rows = check_whole(out)
    assert len(rows) == 6 + 5 + 6 + 6
    palette = Palette.load(out / "palette.yaml").to_mapping()
    assert palette == {"background": [0, 0, 0], "crack": [213, 94, 0], "glue_strip": [86, 180, 233]}
    for row in rows:
        assert row.classes == (() if row.name.startswith("good") else (row.source.rsplit("_", 1)[0],))
    for split in SPLITS:
        assert {label for row in rows if row.split == split for label in row.classes} == {"crack", "glue_strip"}
    by_name = {row.name: row for row in rows}
    row = by_name["crack_003"]
    assert row.pixels == {"background": 64 * 64 - 81, "crack": 81, "glue_strip": 0}
    assert (out / row.file).read_bytes() == (category / "test" / "crack" / "003.png").read_bytes()
    assert {"good_000", "good_train_000"} <= by_name.keys()
    for picture in ("statistics.png", "samples_train.png", "samples_valid.png", "samples_test.png"):
        with Image.open(out / picture) as image:
            assert min(image.size) > 100


def test_from_mvtec_to_fit_in_two_commands(category: Path, tmp_path: Path, tiny_config: Path) -> None:
    out = tmp_path / "data"
    assert prepare("mvtec", category, out) == 0
    arguments = ["fit", "--config", str(tiny_config), "--data.root", str(out), "--run_dir", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_several_categories_get_classes_of_their_own(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "src" / "tile", {"crack": 3}, good=1)
    write_mvtec(tmp_path / "src" / "wood", {"crack": 3, "hole": 3}, good=1)
    assert prepare("mvtec", tmp_path / "src", tmp_path / "out") == 0
    rows = check_whole(tmp_path / "out")
    palette = Palette.load(tmp_path / "out" / "palette.yaml")
    assert palette.names == ("background", "tile_crack", "wood_crack", "wood_hole")
    assert {"tile_crack_000", "wood_crack_000", "wood_good_train_000"} <= {row.name for row in rows}


def test_good_images_are_optional_and_defects_can_be_one_class(category: Path, tmp_path: Path) -> None:
    assert prepare("mvtec", category, tmp_path / "out", "--good", "none", "--merge_defects", "true") == 0
    rows = check_whole(tmp_path / "out")
    assert len(rows) == 11
    assert {row.classes for row in rows} == {("defect",)}
    assert prepare("mvtec", category, tmp_path / "test_good", "--good", "test") == 0
    assert len(read_manifest(tmp_path / "test_good")) == 17


def test_all_problems_of_a_category_are_told_at_once(category: Path, tmp_path: Path) -> None:
    (category / "ground_truth" / "crack" / "001_mask.png").unlink()
    write_image(category / "ground_truth" / "crack" / "077_mask.png", surface(1)[..., 0])
    with pytest.raises(UserError, match="2 problems, nothing was written") as caught:
        prepare("mvtec", category, tmp_path / "out")
    assert "001_mask.png is missing" in str(caught.value)
    assert "a mask without image '077'" in str(caught.value)
    (category / "ground_truth" / "crack" / "077_mask.png").unlink()
    (category / "test" / "crack" / "001.png").unlink()
    (category / "test" / "crack" / "002.png").write_text("no image")
    write_image(category / "ground_truth" / "crack" / "003_mask.png", surface(1, (32, 32))[..., 0])
    with pytest.raises(UserError, match="2 problems, nothing was written") as caught:
        prepare("mvtec", category, tmp_path / "out")
    assert "002.png: cannot be read" in str(caught.value)
    assert "differ in size (height x width: 64 x 64 and 32 x 32)" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_tree_is_no_mvtec(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a category of MVTec AD nor a folder of some"):
        prepare("mvtec", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="does not exist"):
        prepare("mvtec", tmp_path / "none", tmp_path / "out")


# Class folders


@pytest.fixture
def magnets(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Class folders of 17 magnets at four exposures each, and which file shows which magnet."""
    root = tmp_path / "magnets"
    magnet_of = write_magnets(root, {"MT_Break": 5, "MT_Crack": 5, "MT_Free": 7})
    with (root / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "group"], *magnet_of.items()])
    return root, magnet_of


def test_magnets_are_grouped_by_their_csv(magnets: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, magnet_of = magnets
    out = tmp_path / "out"
    options = ["--defect_free", "Free", "--strip_prefix", "MT_", "--groups", root / "groups.csv"]
    assert prepare("folders", root, out, *options, "--near_duplicates", "off") == 0
    rows = check_whole(out)
    assert len(rows) == 68
    assert Palette.load(out / "palette.yaml").names == ("background", "Break", "Crack")
    magnet = {f"{Path(file).parts[0].removeprefix('MT_')}_{Path(file).stem}": name for file, name in magnet_of.items()}
    assert {row.name: row.group for row in rows} == magnet
    assert all(row.file.endswith(".jpg") for row in rows)
    assert all(not row.classes for row in rows if row.name.startswith("Free"))


def test_from_class_folders_to_fit_in_two_commands(
    magnets: tuple[Path, dict[str, str]], tmp_path: Path, tiny_config: Path
) -> None:
    root, _ = magnets
    out = tmp_path / "data"
    options = ["--defect_free", "Free", "--strip_prefix", "MT_", "--groups", root / "groups.csv"]
    assert prepare("folders", root, out, *options) == 0
    balanced = ["--data.sampler", "class_balanced", "--model.class_weights", "effective_number"]
    arguments = ["fit", "--config", str(tiny_config), "--data.root", str(out), "--run_dir", str(tmp_path / "run")]
    assert main([*arguments, *balanced]) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_without_the_csv_exposures_of_a_magnet_are_found_by_their_looks(
    magnets: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, magnet_of = magnets
    out = tmp_path / "out"
    assert prepare("folders", root, out, "--defect_free", "MT_Free") == 0
    rows = check_whole(out)
    magnet = {f"{Path(file).parts[0]}_{Path(file).stem}": name for file, name in magnet_of.items()}
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row.group, set()).add(magnet[row.name])
    assert all(len(magnets) == 1 for magnets in groups.values()), "different magnets were joined"
    joined = _pairs_in_one_group({row.name: row.group for row in rows}, magnet)
    assert joined >= 0.8
    lines = (out / "near_duplicates.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "first,second,likeness"
    assert len(lines) > 30
    before = checksums(out)
    assert prepare("folders", root, out, "--defect_free", "MT_Free", "--update", "true") == 0
    assert checksums(out) == before


def test_samples_show_every_class_even_if_one_group_has_several() -> None:
    def row(name: str, group: str, **pixels: int) -> Row:
        return Row(
            f"train/images/{name}.png", name, group, {"background": 9, "crack": 0, "oil": 0} | pixels, "train", ""
        )

    rows = [row("a", "g", crack=5), row("b", "g", oil=9), row("c", "g", crack=4, oil=4), row("d", "h", crack=1)]
    # crack: most of it, then another group; oil: only images of the known group are left.
    assert [one.name for one in overview.choose_samples(rows, PALETTE)] == ["a", "d", "b", "c"]


def _pairs_in_one_group(group_of: dict[str, str], magnet_of: dict[str, str]) -> float:
    """Return the share of pairs of pictures of one magnet that are in one group."""
    names = sorted(group_of)
    same = [(one, two) for one in names for two in names if one < two and magnet_of[one] == magnet_of[two]]
    return sum(group_of[one] == group_of[two] for one, two in same) / len(same)


def test_masks_are_told_from_images_by_suffix_folder_or_kind(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:8, :8] = 1
    for number in range(3):
        write_image(tmp_path / "a" / "dent" / f"{number}.png", surface(number))
        write_image(tmp_path / "a" / "dent" / f"{number}_mask.png", mask)
        write_image(tmp_path / "b" / "dent" / "images" / f"{number}.png", surface(number))
        write_image(tmp_path / "b" / "dent" / "masks" / f"{number}.png", mask * np.uint8(255))
        write_image(tmp_path / "c" / "dent" / f"{number}.bmp", surface(number))
        write_image(tmp_path / "c" / "dent" / f"{number}.png", mask * np.uint8(200))
    for tree, options in (("a", ["--mask_suffix", "_mask"]), ("b", []), ("c", [])):
        assert prepare("folders", tmp_path / tree, tmp_path / f"out_{tree}", *options) == 0
        assert [row.pixels["dent"] for row in check_whole(tmp_path / f"out_{tree}")] == [64, 64, 64]


def test_class_folders_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "src" / "dent" / "0.jpg", surface(0))
    write_image(tmp_path / "src" / "fine" / "1.jpg", surface(1))
    with pytest.raises(UserError, match="has no mask"):
        prepare("folders", tmp_path / "src", tmp_path / "out", "--defect_free", "fine")
    with pytest.raises(UserError, match=r"defect_free='fin' is no folder .* did you mean 'fine'"):
        prepare("folders", tmp_path / "src", tmp_path / "out", "--defect_free", "fin")
    write_image(tmp_path / "src" / "dent" / "0.png", np.full((64, 64), 255, dtype=np.uint8))
    write_image(tmp_path / "src" / "fine" / "1.png", np.full((64, 64), 255, dtype=np.uint8))
    with pytest.raises(UserError, match="marks 4096 pixels in a folder of images without defect"):
        prepare("folders", tmp_path / "src", tmp_path / "out", "--defect_free", "fine")


@pytest.mark.parametrize("good", ["good", "ok", "Free", "zzz"])
@pytest.mark.parametrize("masks", ["empty", "absent"])
def test_the_defect_free_folder_is_found_by_its_masks(
    good: str, masks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    for number in range(4):
        write_image(tmp_path / "src" / good / f"{number}.jpg", surface(number))
        write_image(tmp_path / "src" / "dent" / f"{number}.jpg", surface(10 + number))
        mask[:8, :8] = 255
        write_image(tmp_path / "src" / "dent" / f"{number}.png", mask)
        if masks == "empty":
            write_image(tmp_path / "src" / good / f"{number}.png", mask * np.uint8(0))
    assert prepare("folders", tmp_path / "src", tmp_path / "out") == 0
    rows = check_whole(tmp_path / "out")
    assert {row.name.split("_")[0]: row.classes for row in rows} == {good: (), "dent": ("dent",)}
    assert Palette.load(tmp_path / "out" / "palette.yaml").names == ("background", "dent")
    reason = {"empty": "no mask in it marks a pixel", "absent": "it is the only folder without masks"}[masks]
    assert f"{tmp_path / 'src' / good}: taken as defect-free, since {reason}" in capsys.readouterr().err


def test_which_of_two_folders_without_masks_is_defect_free_is_asked(tmp_path: Path) -> None:
    mask = np.full((64, 64), 255, dtype=np.uint8)
    write_image(tmp_path / "src" / "dent" / "0.jpg", surface(0))
    write_image(tmp_path / "src" / "dent" / "0.png", mask)
    write_image(tmp_path / "src" / "good" / "1.jpg", surface(1))
    write_image(tmp_path / "src" / "hole" / "2.jpg", surface(2))
    with pytest.raises(UserError, match=r"(?s)2 problems.*--defect_free"):
        prepare("folders", tmp_path / "src", tmp_path / "out")
    # Masks under another name are no reason to take a class for defect-free.
    (tmp_path / "src" / "good" / "1.jpg").unlink()
    (tmp_path / "src" / "good").rmdir()
    write_image(tmp_path / "src" / "hole" / "2_mask.png", mask)
    with pytest.raises(UserError, match=r"1 files such as 2_mask\.png look like masks"):
        prepare("folders", tmp_path / "src", tmp_path / "out")


# Pairs


def _pairs(root: Path) -> Path:
    """Write the original's layout with a leak: three sources, each with variants on both sides."""
    for number, label in ((0, 1), (1, 2), (2, 1), (3, 2), (4, 1), (5, 2), (6, 0), (7, 0)):
        name = f"{('good', 'crack', 'oil')[label]}_{number}"
        write_pair(root, "train", name, number, label)
        write_pair(root, "valid", f"hflipped_{name}", 50 + number, label)
    PALETTE.save(root / "palette.yaml")
    return root


def test_a_leaking_data_set_is_split_anew(tmp_path: Path) -> None:
    assert prepare("pairs", _pairs(tmp_path / "src"), tmp_path / "out", "--near_duplicates", "off") == 0
    rows = check_whole(tmp_path / "out")
    assert {row.name: row.source for row in rows}["hflipped_crack_2"] == "crack_2"
    assert len({row.group for row in rows}) == 8
    assert len(rows) == 16


def test_given_splits_can_be_kept_and_the_leak_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = _pairs(tmp_path / "src")
    assert prepare("pairs", src, tmp_path / "out", "--keep_splits", "true") == 0
    assert {row.name: row.split for row in read_manifest(tmp_path / "out")}["hflipped_oil_1"] == "valid"
    assert "8 groups are in two splits" in capsys.readouterr().out


def test_masks_in_any_form_become_exact_colours(tmp_path: Path) -> None:
    mask_index = np.zeros((64, 64), dtype=np.uint8)
    mask_index[3:9, 4:20] = 2
    for name in ("color", "index", "grey", "array", "soft"):
        write_image(tmp_path / "src" / "images" / f"{name}.png", surface(len(name)))
    masks = tmp_path / "src" / "masks"
    write_image(masks / "color.png", PALETTE.decode(mask_index))
    indexed = Image.fromarray(mask_index).convert("P")
    indexed.putpalette(PALETTE.flat())
    indexed.save(masks / "index.png")
    write_image(masks / "grey.png", mask_index)
    np.savez_compressed(masks / "array.npz", mask=np.eye(3, dtype=np.uint8)[mask_index])
    soft = PALETTE.decode(mask_index)
    soft[2, 4:20] = (40, 40, 0)
    write_image(masks / "soft.png", soft)
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    with pytest.raises(UserError, match=r"16 pixels have a colour in no palette .* or give --antialiased_masks if"):
        prepare("pairs", tmp_path / "src", tmp_path / "out")
    assert prepare("pairs", tmp_path / "src", tmp_path / "out", "--antialiased_masks", "true") == 0
    assert {row.pixels["oil"] for row in check_whole(tmp_path / "out")} == {96}


def test_without_a_palette_the_error_lists_the_colours(tmp_path: Path) -> None:
    src = _pairs(tmp_path / "src")
    (src / "palette.yaml").unlink()
    with pytest.raises(UserError, match=r"--palette FILE\. Colours .*\[0, 0, 0\], .*\[255, 255, 0\]"):
        prepare("pairs", src, tmp_path / "out")


def test_one_name_in_two_splits(tmp_path: Path) -> None:
    write_pair(tmp_path / "src", "train", "crack_1", 1, 1)
    write_pair(tmp_path / "src", "valid", "crack_1", 1, 1)
    write_pair(tmp_path / "src", "train", "crack_2", 2, 1)
    write_pair(tmp_path / "src", "valid", "crack_2", 3, 1)
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    assert prepare("pairs", tmp_path / "src", tmp_path / "out") == 0
    rows = check_whole(tmp_path / "out")
    assert {row.name: row.group for row in rows} == {
        "crack_1": "crack_1",
        "crack_2": "crack_2",
        "crack_2_valid": "crack_2",
    }


# What all sources share


def test_the_seed_decides_the_split_and_nothing_else_does(category: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        assert prepare("mvtec", category, tmp_path / name, "--seed", seed) == 0
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")
    assert read_manifest(tmp_path / "one") != read_manifest(tmp_path / "other")


def test_fractions_and_empty_splits(category: Path, tmp_path: Path) -> None:
    assert prepare("mvtec", category, tmp_path / "out", "--valid", 0.2, "--test", 0) == 0
    splits = [row.split for row in check_whole(tmp_path / "out")]
    assert {split: splits.count(split) for split in set(splits)} == {"train": 19, "valid": 4}
    with pytest.raises(UserError, match="their sum at most 1"):
        prepare("mvtec", category, tmp_path / "none", "--valid", 0.7, "--test", 0.4)
    with pytest.raises(UserError, match="no image is left for the folds"):
        prepare("mvtec", category, tmp_path / "none", "--folds", 3, "--test", 1)


@pytest.mark.parametrize(
    ("valid", "test", "splits"),
    [
        pytest.param(0, 1, {"test"}, id="test alone"),
        pytest.param(1, None, {"valid"}, id="valid alone, which leaves test nothing"),
        pytest.param(0, 0, {"train"}, id="train alone"),
        pytest.param(0.9, 0.1, {"valid", "test"}, id="no train, shares with a rounding error"),
    ],
)
def test_any_split_may_be_empty(
    valid: float,
    test: float | None,
    splits: set[str],
    category: Path,
    tiny_config: Path,
    tiny_checkpoint: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    shares = ["--valid", valid, *([] if test is None else ["--test", test])]
    # The colours that the model was trained with.
    assert prepare("mvtec", category, out, *shares, "--palette", tiny_data / "palette.yaml") == 0
    assert {row.split for row in check_whole(out)} == splits
    assert main(["audit", str(out)]) == 0
    common = ["--config", str(tiny_config), "--data.root", str(out), "--run_dir", str(tmp_path / "run")]
    command = {"test": "test", "valid": "validate"}
    for split in splits & command.keys():
        assert main([command[split], *common, "--ckpt_path", str(tiny_checkpoint)]) == 0
    capsys.readouterr()
    assert main(["fit", *common]) == 2
    error = capsys.readouterr().err
    missing = [split for split in ("train", "valid") if split not in splits]
    assert error.count("has no") == len(missing)
    assert all(f"has no {split} split, only" in error and f"a share for {split}" in error for split in missing)


def test_folds_lie_in_train_and_the_manifest_tells_them_apart(category: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare("mvtec", category, out, "--folds", 3, "--test", 0.2) == 0
    rows = check_whole(out)
    assert {row.split for row in rows} == {"train", "test"}
    assert {row.fold for row in rows if row.split == "test"} == {None}
    training = {row.file for row in rows if row.split == "train"}
    validated: list[str] = []
    for fold in range(3):
        train, valid = fold_members(out, fold)
        assert not set(train) & set(valid)
        assert set(train) | set(valid) == training
        validated += valid
    assert sorted(validated) == sorted(training)
    with pytest.raises(UserError, match="made with --folds 3"):
        prepare("mvtec", category, out, "--update", "true")


def test_fit_trains_on_all_folds_but_one(
    category: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert prepare("mvtec", category, out, "--folds", 3) == 0
    parts = []
    for fold in range(3):
        module = SegmentationDataModule(root=str(out), image_size=32, fold=fold)
        train, valid, test = (
            {pair.image.relative_to(out).as_posix() for pair in module.pairs(split)}
            for split in ("train", "valid", "test")
        )
        assert (sorted(train), sorted(valid)) == fold_members(out, fold)
        assert not test & (train | valid)
        parts.append(valid)
    assert len(set.union(*parts)) == sum(len(part) for part in parts)
    arguments = ["fit", "--config", str(tiny_config), "--data.root", str(out), "--run_dir", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert "choose the fold that validates with --data.fold 0" in capsys.readouterr().err
    assert main([*arguments, "--data.fold", "0"]) == 0
    assert main([*arguments, "--data.fold", "3"]) == 2


@pytest.mark.parametrize("rule", ["stretch", "letterbox"])
def test_resized_images_have_masks_without_new_colours(tmp_path: Path, rule: str) -> None:
    src = write_mvtec(tmp_path / "tile", {"crack": 4}, good=1, size=(60, 100))
    out = tmp_path / "out"
    assert prepare("mvtec", src, out, "--resize", rule, "--size", 50) == 0
    palette = Palette.load(out / "palette.yaml")
    for row in check_whole(out):
        with Image.open(out / row.file) as image:
            assert image.size == (50, 50)
        mask_index, _ = read_mask(out / row.split / "masks" / f"{row.name}.png", palette, antialiased=False)
        if rule == "letterbox":
            assert (mask_index[30:] == IGNORE_INDEX).all()
            assert (mask_index[:30] != IGNORE_INDEX).all()
            assert row.pixels["ignore"] == 20 * 50
        else:
            assert palette.ignore is None


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(category: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    before = checksums(out)
    with pytest.raises(UserError, match=r"is not empty \(it holds thesis.txt\)"):
        prepare("mvtec", category, out)
    with pytest.raises(UserError, match="needs a prepared data set"):
        prepare("mvtec", category, out, "--update", "true")
    with pytest.raises(UserError, match="is a file"):
        prepare("mvtec", category, out / "thesis.txt")
    assert checksums(out) == before


def test_an_update_adds_and_changes_nothing(category: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare("mvtec", category, out) == 0
    before = checksums(out)
    rows_before = read_manifest(out)
    assert prepare("mvtec", category, out, "--update", "true") == 0
    assert checksums(out) == before
    marked = np.zeros((64, 64), dtype=np.uint8)
    marked[5:9, 5:9] = 255
    for number in (7, 8):
        write_image(category / "test" / "scratch" / f"00{number}.png", surface(number))
        write_image(category / "ground_truth" / "scratch" / f"00{number}_mask.png", marked)
    assert prepare("mvtec", category, out, "--update", "true") == 0
    after = checksums(out)
    data = {file: value for file, value in before.items() if "/" in file}
    assert {file: after[file] for file in data} == data
    rows = check_whole(out)
    split_before = {row.name: row.split for row in rows_before}
    assert {row.name: row.split for row in rows if row.name in split_before} == split_before
    assert {row.name for row in rows} - split_before.keys() == {"scratch_007", "scratch_008"}
    assert Palette.load(out / "palette.yaml").names == ("background", "crack", "glue_strip", "scratch")


def test_a_new_variant_follows_its_source(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number in range(8):
        write_pair(src, "train", f"crack_{number}", number, 1)
    PALETTE.save(src / "palette.yaml")
    assert prepare("pairs", src, tmp_path / "out") == 0
    for number in range(8):
        write_pair(src, "train", f"hflipped_crack_{number}", number, 1, surface(number)[:, ::-1])
    assert prepare("pairs", src, tmp_path / "out", "--update", "true") == 0
    split_of = {row.name: row.split for row in check_whole(tmp_path / "out")}
    assert all(split_of[f"hflipped_crack_{number}"] == split_of[f"crack_{number}"] for number in range(8))


def test_another_folder_is_added_without_its_copies_leaking(tmp_path: Path) -> None:
    """The copies of what is in valid and test already, under new names, must not get into train."""
    for number in range(10):
        write_pair(tmp_path / "one", "train", f"crack_{number}", number, 1)
        write_pair(tmp_path / "two", "train", f"copy{number}", number, 1, (surface(number) // 2 + 60).astype(np.uint8))
    PALETTE.save(tmp_path / "one" / "palette.yaml")
    PALETTE.save(tmp_path / "two" / "palette.yaml")
    assert prepare("pairs", tmp_path / "one", tmp_path / "out") == 0
    assert prepare("pairs", tmp_path / "two", tmp_path / "out", "--update", "true") == 0
    rows = check_whole(tmp_path / "out")
    split_of = {row.name: row.split for row in rows}
    assert len(rows) == 20
    assert all(split_of[f"copy{number}"] == split_of[f"crack_{number}"] for number in range(10))


def test_an_interrupted_run_is_finished_by_an_update(
    category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert prepare("mvtec", category, whole) == 0
    written = 0

    def dying(path: Path, content: bytes) -> bool:
        nonlocal written
        written += 1
        if written > 9:
            raise OSError("no space left")
        return target.add_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(build, "add_file", dying)
        with pytest.raises(OSError, match="no space left"):
            prepare("mvtec", category, out)
    assert not (out / "manifest.csv").exists()
    assert not list(out.rglob(".*"))
    with pytest.raises(UserError, match="interrupted run had other options"):
        prepare("mvtec", category, out, "--update", "true", "--seed", 5)
    assert prepare("mvtec", category, out, "--update", "true") == 0
    assert checksums(out) == checksums(whole)


def test_a_picture_that_changed_is_never_overwritten(category: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare("mvtec", category, out) == 0
    before = checksums(out)
    write_image(category / "test" / "crack" / "000.png", surface(99))
    with pytest.raises(UserError, match="is there already with other content"):
        prepare("mvtec", category, out, "--update", "true", "--near_duplicates", "off")
    assert checksums(out) == before


def test_a_stray_file_in_a_split_is_no_update(category: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare("mvtec", category, out) == 0
    write_image(out / "train" / "images" / "stranger.png", surface(5))
    with pytest.raises(UserError, match=r"stranger\.png: this and 0 more files"):
        prepare("mvtec", category, out, "--update", "true")


def test_a_pattern_tells_the_sources(tmp_path: Path) -> None:
    for number in range(12):
        write_pair(tmp_path / "src", "train", f"part{number // 3}_view{number % 3}", number, 1 + number % 2)
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    options = ["--source_pattern", "^(.*)_view", "--near_duplicates", "off"]
    assert prepare("pairs", tmp_path / "src", tmp_path / "out", *options) == 0
    assert {row.group for row in check_whole(tmp_path / "out")} == {"part0", "part1", "part2", "part3"}


# Masks, synthetic, augment


def test_masks_go_through_all_forms_and_come_back(tmp_path: Path) -> None:
    palette = with_ignore(PALETTE)
    rng = np.random.default_rng(0)
    masks = {name: rng.integers(0, 3, (20, 30)).astype(np.uint8) for name in ("a", "b.c")}
    masks["with_ignore"] = masks["a"].copy()
    masks["with_ignore"][3] = IGNORE_INDEX
    for name, mask_index in masks.items():
        write_image(tmp_path / "color" / f"{name}.png", palette.decode(mask_index))
    palette.save(tmp_path / "palette.yaml")
    chain = (("color", "npz"), ("npz", "index"), ("index", "color2"))
    for src, out in chain:
        assert prepare("masks", tmp_path / src, tmp_path / out, "--to", out.rstrip("2")) == 0
        for name, mask_index in masks.items():
            path = tmp_path / out / f"{name}.{'npz' if out == 'npz' else 'png'}"
            assert np.array_equal(read_mask(path, palette, antialiased=False)[0], mask_index)
    with Image.open(tmp_path / "index" / "a.png") as image:
        assert image.mode == "P"
    with np.load(tmp_path / "npz" / "a.npz") as archive:
        assert archive["mask"].shape == (20, 30, 3)
    assert checksums(tmp_path / "color") == checksums(tmp_path / "color2")
    with pytest.raises(UserError, match="is not empty"):
        prepare("masks", tmp_path / "color", tmp_path / "npz", "--to", "npz")
    before = checksums(tmp_path / "npz")
    assert prepare("masks", tmp_path / "color", tmp_path / "npz", "--to", "npz", "--update", "true") == 0
    assert checksums(tmp_path / "npz") == before


def test_nothing_is_converted_if_one_mask_is_wrong(tmp_path: Path) -> None:
    write_image(tmp_path / "src" / "a.png", np.full((4, 4, 3), 255, dtype=np.uint8))
    write_image(tmp_path / "src" / "b.png", np.zeros((4, 4, 3), dtype=np.uint8))
    PALETTE.save(tmp_path / "palette.yaml")
    with pytest.raises(UserError, match=r"1 problem.* nothing was written"):
        prepare("masks", tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("pictures")
def test_the_demo_data_has_manifest_and_pictures(tmp_path: Path) -> None:
    assert prepare("synthetic", tmp_path / "demo", "--images", 27, "--size", 32) == 0
    rows = check_whole(tmp_path / "demo")
    assert len(rows) == 27
    before = checksums(tmp_path / "demo")
    assert prepare("synthetic", tmp_path / "demo", "--images", 27, "--size", 32) == 0
    assert checksums(tmp_path / "demo") == before


def test_offline_variants_stay_with_their_source_and_out_of_validation(tmp_path: Path) -> None:
    assert prepare("synthetic", tmp_path / "demo", "--images", 27, "--size", 64) == 0
    source = {row.name: row for row in read_manifest(tmp_path / "demo")}
    out = tmp_path / "out"
    assert prepare("augment", tmp_path / "demo", out, "--copies", 1, "--seed", 3) == 0
    rows = check_whole(out)
    variants = [row for row in rows if row.name not in source]
    training = [row for row in source.values() if row.split == "train"]
    assert {row.split for row in variants} == {"train"}
    assert len(variants) % len(training) == 0
    assert len(variants) >= 10 * len(training)
    for row in variants:
        assert source_of(row.name) == row.source
        assert source[row.source].group == row.group
    prefixes = {row.name.removesuffix(row.source) for row in variants}
    assert {"hflipped_", "vflipped_", "rotated_90_", "shrinked_0.8_", "augmented_1_"} <= prefixes
    name = training[0].name
    with (
        Image.open(out / "train" / "images" / f"hflipped_{name}.png") as flipped,
        Image.open(tmp_path / "demo" / "train" / "images" / f"{name}.png") as image,
    ):
        assert np.array_equal(np.asarray(flipped), np.asarray(image)[:, ::-1])
    before = checksums(out)
    assert prepare("augment", tmp_path / "demo", out, "--copies", 1, "--seed", 3, "--update", "true") == 0
    assert checksums(out) == before


def test_only_prepared_data_without_folds_is_augmented(category: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no prepared data set"):
        prepare("augment", category, tmp_path / "out")
    assert prepare("mvtec", category, tmp_path / "folds", "--folds", 2) == 0
    with pytest.raises(UserError, match="has folds"):
        prepare("augment", tmp_path / "folds", tmp_path / "out")


# Palettes


def test_a_palette_grows_without_changing() -> None:
    palette = grown_palette(["crack", "glue_strip"])
    grown = grown_palette(["oil", "crack"], palette)
    assert grown.names == ("background", "crack", "glue_strip", "oil")
    assert grown.colors[:3] == palette.colors
    many = grown_palette([f"class_{number}" for number in range(254)])
    assert len(set(many.colors)) == 255
    old = Palette(("background", "crack"), ((0, 0, 0), (0, 0, 255)))
    assert grown_palette(["crack", "oil"], old).colors == (*old.colors, (213, 94, 0)), "no colour of a folder changes"


def test_colours_that_cover_areas_are_classes_and_edges_are_not(tmp_path: Path) -> None:
    mask_rgb = np.zeros((40, 40, 3), dtype=np.uint8)
    mask_rgb[5:20, 5:20] = (255, 0, 0)
    mask_rgb[5:20, 20] = (128, 0, 0)
    mask_rgb[30:36, 3:9] = (0, 255, 0)
    write_image(tmp_path / "a.png", mask_rgb)
    assert infer_palette([tmp_path / "a.png"]).colors == ((0, 0, 0), (255, 0, 0), (0, 255, 0))


# The command line


@pytest.mark.parametrize("source", SOURCES)
def test_help_of_a_source_explains_every_option(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        prepare(source, "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    options = [line for line in text.split("options:")[1].splitlines() if line.startswith("  --")]
    assert len(options) >= 4
    explained = " ".join(text.split())
    for option in ("--seed", "--groups", "--folds") if source in ("mvtec", "folders", "pairs") else ():
        assert f"{option} " in explained


@pytest.mark.parametrize(("command", "missing"), [("prepare", "subcommand"), ("audit", "data")])
def test_a_command_alone_says_what_is_missing(command: str, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command])
    assert caught.value.code == 2
    assert missing in capsys.readouterr().err


def test_the_commands_load_nothing_heavy_before_they_run() -> None:
    code = (
        "import sys, flexunet_pl.cli.prepare, flexunet_pl.cli.audit\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'PIL', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# Real data


def _magnets_of(folder: Path) -> dict[str, str]:
    with (folder / "groups.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row["group"] for row in csv.DictReader(file)}


def _without_good_magnets(folder: Path, root: Path) -> dict[str, str]:
    """Link the five defect classes of magnetic-tile, and return the magnet of each name in the data set."""
    for label in ("Blowhole", "Break", "Crack", "Fray", "Uneven"):
        (root / f"MT_{label}").parent.mkdir(parents=True, exist_ok=True)
        (root / f"MT_{label}").symlink_to(folder / f"MT_{label}")
    names: Callable[[str], str] = lambda file: f"{Path(file).parts[0].removeprefix('MT_')}_{Path(file).stem}"  # noqa: E731
    return {names(file): magnet for file, magnet in _magnets_of(folder).items() if not file.startswith("MT_Free")}


def _options(folder: Path, kind: str) -> list[Any]:
    more: dict[str, list[Any]] = {"csv": ["--groups", folder / "groups.csv"], "neither": ["--near_duplicates", "off"]}
    return ["--strip_prefix", "MT_", *more.get(kind, [])]


def test_real_magnets_stay_whole_with_and_without_their_csv(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "data" / "magnetic-tile"
    magnet_of = _without_good_magnets(folder, tmp_path / "src")
    options = [*_options(folder, "csv"), "--near_duplicates", "off"]
    assert prepare("folders", tmp_path / "src", tmp_path / "csv", *options) == 0
    rows = check_whole(tmp_path / "csv")
    split_of = {row.name: row.split for row in rows}
    for magnet in set(magnet_of.values()):
        assert len({split_of[name] for name in magnet_of if magnet_of[name] == magnet}) == 1
    assert prepare("folders", tmp_path / "src", tmp_path / "looks", *_options(folder, "looks")) == 0
    group_of = {row.name: row.group for row in check_whole(tmp_path / "looks")}
    assert _pairs_in_one_group(group_of, magnet_of) >= 0.8


@pytest.mark.full
def test_all_magnets_and_the_audit_of_a_split_made_without_knowing_them(shared_dir: Path, tmp_path: Path) -> None:
    from flexunet_pl.cli.audit import audit

    folder = shared_dir / "data" / "magnetic-tile"
    names = {
        f"{Path(file).parts[0].removeprefix('MT_')}_{Path(file).stem}": g for file, g in _magnets_of(folder).items()
    }
    free = ["--defect_free", "Free"]
    assert prepare("folders", folder, tmp_path / "looks", *free, *_options(folder, "looks")) == 0
    rows = check_whole(tmp_path / "looks")
    assert _pairs_in_one_group({row.name: row.group for row in rows}, names) >= 0.9
    assert len({row.group for row in rows}) > 150
    assert audit(tmp_path / "looks") == 0
    assert prepare("folders", folder, tmp_path / "neither", *free, *_options(folder, "neither")) == 0
    assert audit(tmp_path / "neither") == 2
