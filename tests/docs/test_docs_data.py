"""Every command of docs/data.md runs, in the order of the page, on made-up folders of the kinds it names."""

import csv
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from curation_data import PALETTE, spot, surface, write_image, write_magnets, write_mvtec, write_pair
from doc_commands import commands_in
from test_docs import run, smaller

from flexunet_pl.data.manifest import read_manifest

PAGE = ROOT / "docs" / "data.md"
MAGNETS = {"MT_Blowhole": 3, "MT_Break": 3, "MT_Crack": 3, "MT_Fray": 3, "MT_Uneven": 3, "MT_Free": 4}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder with the configs, and with data as the page takes them for granted."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    smaller(tmp_path / "configs" / "tile.yaml")
    write_mvtec(tmp_path / "mvtec_ad" / "tile", {"crack": 6, "glue_strip": 5}, good=3)
    write_mvtec(tmp_path / "mvtec_ad" / "wood", {"hole": 3}, good=1)
    magnet_of = write_magnets(tmp_path / "magnetic-tile", MAGNETS, exposures=2)
    with (tmp_path / "magnetic-tile" / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "group"], *magnet_of.items()])
    for number in range(4):
        write_image(tmp_path / "parts" / "dent" / f"{number}.jpg", surface(number))
        write_image(tmp_path / "parts" / "dent" / f"{number}_mask.png", spot().astype("uint8"))
        write_pair(tmp_path / "TILE", "train", f"crack_{number}", number, 1)
        write_pair(tmp_path / "TILE", "valid", f"hflipped_crack_{number}", number + 9, 1)
    PALETTE.save(tmp_path / "tile_palette.yaml")
    return tmp_path


@pytest.mark.full
def test_commands_of_the_data_page_run(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands_in(PAGE):
        if "benchmarks" not in words[1]:
            run(words, desk, monkeypatch)
    sets = {path.name for path in (desk / "dataset").iterdir() if (path / "manifest.csv").is_file()}
    assert sets == {
        *("tile", "all", "parts", "magnets", "tile-anew", "made-up", "tile-more", "made-up-more", "tile-64"),
        "tile-folds",
    }
    for name in sets:
        splits_of_group: dict[str, set[str]] = {}
        for row in read_manifest(desk / "dataset" / name):
            splits_of_group.setdefault(row.group, set()).add(row.split)
        assert all(len(splits) == 1 for splits in splits_of_group.values()), name
    more = {row.name for row in read_manifest(desk / "dataset" / "tile-more")}
    assert any(name.startswith("sheared_0.1_") for name in more)
    config = yaml.safe_load((desk / "runs" / "tile-4" / "config.yaml").read_text())
    assert config["data"]["sampler"] == "class_balanced"
    assert len(config["model"]["class_weights"]) == 3
    assert (desk / "reports" / "magnets" / "audit.html").is_file()
