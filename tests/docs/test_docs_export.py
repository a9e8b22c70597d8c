"""The commands of the pages on exporting and inference run, and so do the benchmarks behind their tables."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from doc_commands import commands_in, program_in

pytestmark = pytest.mark.full

# Each benchmark of the pages, with options that make it end soon.
BENCHMARKS = (
    "inference.py speed exports/demo --ckpt runs/demo-1/checkpoints/best.ckpt --size 32 --turns 1 --seconds 0.01",
    "inference.py options exports/demo --size 32 --turns 1 --seconds 0.01",
    "inference.py files exports/demo --size 32 --turns 1 --count 3",
    "tiles.py overlap exports/demo --size 64 --tile 32 --overlaps 0,8 --count 1 --patch 32",
    "tiles.py large exports/demo --size 300 --tile 64 --overlap 8",
    "decision.py scores runs/demo-1 dataset/demo-tiles --split train",
    "export.py --base_filters 4 --base_kernel 5 --num_layers 2 --size 32 --rounds 1",
)


@pytest.fixture(scope="module")
def desk(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a reader has it after the demo: a run and its data set."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(tiny_run, folder / "runs" / "demo-1")
    shutil.copytree(tiny_data, folder / "dataset" / "demo-tiles")
    return folder


def run(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_commands_of_the_pages_run(desk: Path) -> None:
    for page in ("exporting.md", "inference.md", "serving.md"):
        for words in commands_in(ROOT / "docs" / page):
            # After seconds of training a network is unsure everywhere, and 8 bits may cost it more than is allowed.
            run([*words, "--force"] if "--int8" in words else words, desk)
    assert {path.name for path in (desk / "exports" / "demo-all").iterdir()} >= {"model.int8.onnx", "model.keras"}
    images = {path.name for path in (desk / "dataset" / "demo-tiles" / "test" / "images").iterdir()}
    for out in ("found", "found/overlays", "found-by-torch", "outlined/overlays"):
        assert {path.name for path in (desk / out).glob("*.png")} == images
    assert {path.name for path in (desk / "results" / "masks").iterdir()} == images
    printed = run([sys.executable, "-c", program_in(ROOT / "docs" / "inference.md")], desk)
    assert printed.splitlines()[:2] == ["(32, 32)", "(32, 32, 6)"]


def test_commands_of_the_page_on_decisions_run(desk: Path) -> None:
    page = ROOT / "docs" / "decisions.md"
    rules = re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (desk / "rules.yaml").write_text("".join(rules))
    for words in commands_in(page):
        run(words, desk)
    carried = json.loads((desk / "exports" / "decided" / "labels.json").read_text())["decision"]
    assert carried["wanted_escape_rate"] == 0.1
    pieces = json.loads((desk / "found" / "decisions.json").read_text())["pieces"]
    assert {piece["decision"] for piece in pieces.values()} <= {"OK", "NG"}
    assert len(pieces) == len(list((desk / "dataset" / "demo-tiles" / "test" / "images").iterdir()))


@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmarks_print_their_tables(command: str, desk: Path) -> None:
    script, *arguments = command.split()
    if not (desk / "exports" / "demo").exists():
        run([sys.executable, "-m", "flexunet_pl", "export", "runs/demo-1/checkpoints/best.ckpt", "exports/demo"], desk)
    shown = run([sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / script), *arguments], desk)
    assert "|---|" in shown or "VmHWM" in shown


def test_the_pages_name_the_benchmarks() -> None:
    pages = ("exporting.md", "inference.md", "decisions.md", "serving.md")
    text = "".join((ROOT / "docs" / page).read_text() for page in pages)
    for command in BENCHMARKS:
        assert f"python benchmarks/{' '.join(command.split()[:2])}" in text or "export.py" in command
