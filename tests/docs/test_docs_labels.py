"""The commands of docs/labels.md run on a made-up data set with folds, and it names its benchmarks."""

import csv
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from doc_commands import commands_in
from test_docs import run

from flexunet_pl.data.synthetic.dataset import write_dataset

PAGE = ROOT / "docs" / "labels.md"


@pytest.mark.full
def test_commands_of_the_page_run(
    folded_data: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folded_data, tmp_path / "dataset" / "tile-folds")
    write_dataset(tmp_path / "made", 30, (32, 32), 5)
    shutil.copytree(tmp_path / "made" / "train" / "images", tmp_path / "new-images")
    for words in commands_in(PAGE):
        small = ["2" if word == "3" else word for word in words]  # the made-up data set has two folds
        run([*small, "--config", str(tiny_config)] if "fit" in words else small, tmp_path, monkeypatch)
    assert (tmp_path / "reports" / "tile-folds" / "label_review.html").is_file()
    with (tmp_path / "runs" / "tile-folds" / "label_next.csv").open(newline="") as file:
        chosen = {Path(row["image"]).name for row in csv.DictReader(file)}
    assert {path.name for path in (tmp_path / "to-label").iterdir()} == chosen
    assert chosen


def test_the_page_names_the_benchmarks() -> None:
    text = PAGE.read_text()
    for name in ("label_errors", "selection"):
        assert f"python benchmarks/{name}.py --data" in text
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()
