"""migrate --as-run writes a config that trains on what the original trained on, colours that its map lacks included."""

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY
from original_configs import config_text, value_in
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.palette import Palette

FOUR = ["background", "class_1", "class_2", "class_3"]  # the original's own black, green, red, blue
# One epoch of one step, small enough for a test.
STEP = {
    "trainer": {**TINY["trainer"], "limit_train_batches": 1, "limit_val_batches": 1},  # type: ignore[dict-item]  # TINY is plain YAML
    "model": {"num_layers": 3, "base_filters": 2},
    "data": {"image_size": 32, "num_workers": 0},
}


def fit_one_step(recipe: Path, images: Path, masks: Path, folder: Path) -> int:
    """Train for one step on the same pairs that validate, as a user of a folder without splits would."""
    (folder / "step.yaml").write_text(yaml.safe_dump(STEP))
    folders = {f"--data.{split}_{kind}": path for split in ("train", "valid") for kind, path in _kinds(images, masks)}
    words = [str(word) for pair in folders.items() for word in pair]
    configs = ["--config", str(recipe), "--config", str(folder / "step.yaml")]
    return main(["fit", *configs, *words, "--run_dir", str(folder / "run")])


def _kinds(images: Path, masks: Path) -> tuple[tuple[str, Path], ...]:
    return ("images", images), ("masks", masks)


def _write_pairs(root: Path) -> tuple[Path, Path]:
    """Write pairs whose masks have cyan and yellow, which the original's own four colours lack."""
    rng = np.random.default_rng(0)
    mask_rgb = np.zeros((32, 32, 3), dtype=np.uint8)
    mask_rgb[:4], mask_rgb[4:6], mask_rgb[6:9] = (0, 255, 255), (255, 255, 0), (255, 0, 0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(mask_rgb).save(root / "masks" / f"{number}.png")
    return root / "images", root / "masks"


@pytest.fixture
def screw(tmp_path: Path) -> Path:
    """Return a config as that of SCREW: its colours stand under a wrong name, so that the original took its own."""
    six = "{(0,0,0):0, (0,255,0):1, (255,0,0):2, (0,0,255):3, (0,255,255):4, (255,255,0):5}"
    path = tmp_path / "screw.config"
    path.write_text(config_text({"mask.rgb_map": None, "mask.color_map": six, "model.num_classes": "6"}))
    return path


def test_colours_that_the_original_lacked_go_where_it_put_them_and_are_counted(
    screw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["migrate", str(screw), str(tmp_path), "--as-run"]) == 0
    recipe = tmp_path / "screw.yaml"
    assert value_in(recipe, "data.nearest_classes") == FOUR
    assert value_in(recipe, "data.antialiased_masks") is False
    assert len(value_in(recipe, "data.palette")) == 6
    images, masks = _write_pairs(tmp_path)
    with caplog.at_level(logging.INFO):
        assert fit_one_step(recipe, images, masks, tmp_path) == 0
    counted = [message for message in caplog.messages if "Colours of no class" in message]
    assert counted == [
        f"Colours of no class: {4 * 6 * 32} pixels in 4 files were moved to the nearest of {', '.join(FOUR)}."
    ]
    data = yaml.safe_load(recipe.read_text())["data"]
    kept = {key: data[key] for key in ("palette", "nearest_classes")}
    module = SegmentationDataModule(**kept, train_images=str(images), train_masks=str(masks))
    # Cyan is as far from green as from blue, yellow as far from green as from red: the first in the map wins.
    assert module.count_training_pixels()[0].tolist() == [23 * 32, 6 * 32, 3 * 32, 0, 0, 0]


def test_as_meant_the_colours_are_classes_of_their_own(screw: Path, tmp_path: Path) -> None:
    assert main(["migrate", str(screw), str(tmp_path)]) == 0
    assert value_in(tmp_path / "screw.yaml", "data.nearest_classes") is None
    assert value_in(tmp_path / "screw.yaml", "data.palette.class_4") == [0, 255, 255]


@pytest.mark.parametrize("command", ["prepare", "audit", "masks"])
def test_a_palette_option_takes_the_yaml_of_migrate(command: str, screw: Path, tmp_path: Path) -> None:
    assert main(["migrate", str(screw), str(tmp_path), "--as-run"]) == 0
    _, masks = _write_pairs(tmp_path / "src")
    words = {
        "prepare": ["prepare", "pairs", str(tmp_path / "src"), str(tmp_path / "out")],
        "masks": ["prepare", "masks", str(masks), str(tmp_path / "out")],
        "audit": ["audit", str(tmp_path / "src")],
    }
    assert main([*words[command], "--palette", str(tmp_path / "screw.yaml")]) == 0
    if command == "prepare":
        palette = Palette.load(tmp_path / "out" / "palette.yaml")
        assert palette.names == (*FOUR, "class_4", "class_5")


@pytest.mark.parametrize("options", [[], ["--as-run"]], ids=["as meant", "as run"])
@pytest.mark.parametrize("name", ["screw", "wood"])
def test_real_projects_train_for_a_step(
    name: str, options: list[str], shared_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = shared_dir / "data" / f"mvtec-{name}-mini"
    shutil.copyfile(source / "train_eval_infer.config", tmp_path / "train_eval_infer.config")
    assert main(["migrate", str(tmp_path / "train_eval_infer.config"), str(tmp_path), *options]) == 0
    recipe = tmp_path / "train_eval_infer.yaml"
    with caplog.at_level(logging.INFO):
        assert fit_one_step(recipe, source / "images", source / "masks", tmp_path) == 0
    counted = [
        message for message in caplog.messages if re.match(r"Colours of no class: \d+ pixels in \d+ files", message)
    ]
    assert len(counted) == bool(options)
