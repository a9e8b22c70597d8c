"""Every command and program of README, tutorial and docs/training.md runs, in the order of the page."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from curation_data import write_mvtec
from doc_commands import commands_in, program_in
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.core.extras import EXTRA_OF, TRAIN_PACKAGES
from flexunet_pl.keras import write_legacy_h5
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings

SMALL = {
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    "data": {"image_size": 32, "num_workers": 0},
}
SMALL_NETWORKS = {
    "flexunet": {"base_filters": 2, "base_kernel": 3, "num_layers": 3},
    "unet": {"encoder": "tu-test_resnet"},
    "deeplabv3plus": {"encoder": "mobilenet_v2"},
}
# Makes the packages of the extras fail to import, as after `pip install flexunet_pl` alone.
WITHOUT_EXTRAS = f"import sys\nsys.modules.update(dict.fromkeys({sorted(TRAIN_PACKAGES | EXTRA_OF.keys())}))\n"
DEFECTS = {"crack": 6, "glue_strip": 6, "gray_stroke": 6, "oil": 6, "rough": 6}


ORIGINAL = """[model]
model = "TensorFlowFlexUNet"
image_width = 512
image_height = 512
image_channels = 3
input_normalize = False
num_classes = 2
base_filters = 2
base_kernels = (3,3)
num_layers = 2
dropout_rate = 0.04
[mask]
mask_file_format = ".png"
rgb_map = {(0,0,0):0, (0,0,255):1}
"""


def smaller(config: Path) -> None:
    """Shrink a shipped config in place so that a test can run it; all other keys stay as shipped."""
    content = yaml.safe_load(config.read_text())
    for part, values in SMALL.items():
        content.setdefault(part, {}).update(values)
    model = content.setdefault("model", {})
    model.update(SMALL_NETWORKS[model.get("network", "flexunet" if "num_layers" in model else "unet")])
    if "crop_size" in content["data"]:
        content["data"]["crop_size"] = 32
    if model.get("network") != "flexunet":
        content["data"]["min_samples_per_epoch"] = 0
    if "max_time" in content["trainer"]:  # an epoch is shorter than any time that could be asked for
        content["trainer"]["max_time"] = None
    content["data"].pop("samples_per_epoch", None)
    config.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a reader has it: the configs, an MVTec AD category, a project of the original."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("tile.yaml", "tile_strong.yaml", "zoo.yaml"):
        smaller(folder / "configs" / name)
    gpus = folder / "configs" / "multi_gpu.yaml"
    gpus.write_text(
        gpus.read_text().replace("accelerator: gpu", "accelerator: cpu").replace("devices: auto", "devices: 2")
    )
    write_mvtec(folder / "mvtec_ad" / "tile", DEFECTS)
    (folder / "train_eval_infer.config").write_text(ORIGINAL)
    (folder / "models").mkdir()
    write_legacy_h5(
        folder / "models" / "best_model.h5",
        FlexUNet(2, settings=FlexUNetSettings(base_filters=2, base_kernel=3, num_layers=2)),
    )
    return folder


def run(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of a page, in this process (which saves importing torch) if it is ours and starts no others."""
    if words[1:3] == ["-m", "flexunet_pl"] and not any("multi_gpu" in word or "devices" in word for word in words):
        monkeypatch.chdir(folder)
        assert main(words[3:]) == 0, " ".join(words)
        return
    run_process(words, folder)


def run_process(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_commands_and_programs_of_the_readme_run(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands_in(ROOT / "README.md"):
        if words[0] != "make":  # .ci/run calls the targets
            run(words, desk, monkeypatch)
    assert (desk / "runs" / "tile-1" / "test_scores.json").is_file()
    assert (desk / "runs" / "tile-1" / "report" / "report.html").is_file()
    assert {path.name for path in (desk / "migrated").iterdir()} == {"train_eval_infer.yaml", "train_eval_infer.ckpt"}
    assert {path.name for path in (desk / "exports" / "tile").iterdir()} >= {"model.onnx", "model.keras", "model.h5"}
    assert len(list((desk / "found" / "overlays").iterdir())) == len(list((desk / "masks").glob("*.png"))) > 0
    Image.new("RGB", (40, 24)).save(desk / "photo.png")
    printed = run_process([sys.executable, "-c", WITHOUT_EXTRAS + program_in(ROOT / "README.md")], desk)
    assert printed.startswith("(24, 40) (24, 40, 6)")


def test_commands_and_programs_of_the_tutorial_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    smaller(tmp_path / "configs" / "demo.yaml")
    for words in commands_in(ROOT / "docs" / "tutorial.md"):
        run(words, tmp_path, monkeypatch)
    assert (tmp_path / "reports" / "tiles" / "report.html").is_file()
    masks = sorted(path.name for path in (tmp_path / "found").glob("*.png"))
    assert masks == sorted(path.name for path in (tmp_path / "found" / "overlays").iterdir())
    printed = run_process([sys.executable, "-c", program_in(ROOT / "docs" / "tutorial.md")], tmp_path).splitlines()
    assert [line.split(" (")[0] for line in printed] == masks[:3]
    assert all("(128, 128)" in line for line in printed)


@pytest.mark.full
def test_commands_of_the_planning_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mvtec(tmp_path / "mvtec_ad" / "tile", DEFECTS)
    for words in commands_in(ROOT / "docs" / "planning.md"):
        run(["20s" if word == "12m" else word for word in words], tmp_path, monkeypatch)
    assert (tmp_path / "runs" / "tile-1" / "report" / "report.html").is_file()
    assert yaml.safe_load((tmp_path / "tile.yaml").read_text())["data"]["crop_size"] == 256


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


@pytest.mark.full
def test_commands_of_the_training_page_run(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    if not Path("dataset").exists():  # the commands of the README make it, if they ran before
        assert main(["prepare", "mvtec", "mvtec_ad/tile", "dataset/MVTEC-TILE"]) == 0
    for words in commands_in(ROOT / "docs" / "training.md"):
        run(words, desk, monkeypatch)
