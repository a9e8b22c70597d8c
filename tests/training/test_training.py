"""Runs as a whole: scores that hold, resuming after a kill, two processes, flat memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Run
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.data.synthetic.dataset import write_dataset
from flexunet_pl.training.task import SegmentationTask

AUGMENT = '{"hflip": 0.5, "right_angle": 0.5, "brightness": 0.5}'


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return content


def scores_of(run_dir: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((run_dir / "test_scores.json").read_text())
    return scores


def test_a_checkpoint_is_plain_data_and_tells_what_it_needs(tiny_checkpoint: Path) -> None:
    facts = torch.load(tiny_checkpoint, weights_only=True)["hyper_parameters"]
    assert facts["palette"]["crack"] == [0, 0, 255]
    assert (facts["num_classes"], facts["image_size"], facts["resize"]) == (6, [32, 32], "stretch")
    assert (facts["network"]["base_filters"], facts["network"]["activation"], facts["version"]) == (4, "relu", "0.1.0")


def test_test_scores_equal_what_numpy_makes_of_the_predicted_masks(
    tiny_run: Path, tiny_config: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = ["--ckpt_path", str(tiny_run / "checkpoints" / "last.ckpt")]
    # A working size that is not the images' own: the masks have to come back to 32x32.
    common = ["--config", str(tiny_config), *checkpoint, "--data.image_size", "24", "--data.batch_size", "3"]
    assert main(["test", *common, "--run_dir", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run" / "test_scores.json")
    out = tmp_path / "masks"
    assert main(["predict", *common, "--data.predict_dir", str(tiny_data / "test" / "images"), "--out", str(out)]) == 0

    colors = list(yaml.safe_load((tiny_data / "palette.yaml").read_text()).values())
    hits, truths, guesses = np.zeros(6, int), np.zeros(6, int), np.zeros(6, int)
    for path in sorted((tiny_data / "test" / "masks").iterdir()):
        truth_rgb = np.asarray(Image.open(path).convert("RGB"))
        guess = np.asarray(Image.open(out / path.name))
        for k, color in enumerate(colors):
            truth = (truth_rgb == color).all(axis=2)
            hits[k] += (truth & (guess == k)).sum()
            truths[k] += truth.sum()
            guesses[k] += (guess == k).sum()
    scores = scores_of(tmp_path / "run")
    for k, found in enumerate(scores["classes"].values()):
        assert found["support"] == truths[k]
        assert found["dice"] == pytest.approx(2 * hits[k] / (truths[k] + guesses[k]))
        assert found["iou"] == pytest.approx(hits[k] / (truths[k] + guesses[k] - hits[k]))
        assert found["recall"] == pytest.approx(hits[k] / truths[k])
        assert found["precision"] == pytest.approx(hits[k] / guesses[k] if guesses[k] else 0)
    dice = [2 * hits[k] / (truths[k] + guesses[k]) for k in range(1, 6)]
    assert scores["mean_foreground_dice"] == pytest.approx(np.mean(dice))
    assert scores["pixel_accuracy"] == pytest.approx(hits.sum() / truths.sum())
    assert scores["images"] == len(list((tiny_data / "test" / "masks").iterdir()))
    assert scores.keys() >= {"mean_foreground_iou", "dice_coef_multiclass", "loss"}


def test_predicted_masks_are_index_pngs_with_the_palette_and_overlays_lie_apart(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for size in ((20, 44), (64, 10)):
        Image.new("RGB", size, "gray").save(images / f"of.{size[0]}.bmp")
    arguments = [
        "predict",
        "--ckpt_path",
        str(tiny_checkpoint),
        "--data.predict_dir",
        str(images),
        "--data.num_workers",
        "0",
    ]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    written = ["decisions.json", "of.20.png", "of.64.png", "overlays", "summary.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written
    with Image.open(tmp_path / "out" / "of.20.png") as mask:
        assert (mask.size, mask.mode) == ((20, 44), "P")
        assert mask.getpalette()[3:6] == [0, 0, 255]  # type: ignore[index]  # a P image has a palette
    with Image.open(tmp_path / "out" / "overlays" / "of.64.png") as overlay:
        assert (overlay.size, overlay.mode) == ((64, 10), "RGB")
    assert main([*arguments, "--out", str(tmp_path / "both"), "--overlays", "both"]) == 0
    with Image.open(tmp_path / "both" / "overlays" / "of.64.png") as overlay:
        assert overlay.size == (2 * 64, 10), "filled and outlines, side by side"
    assert main([*arguments, "--out", str(tmp_path / "none"), "--overlays", "none"]) == 0
    assert not (tmp_path / "none" / "overlays").exists()
    assert main([*arguments, "--out", str(tmp_path / "out"), "--overlays", "outline"]) == 2
    assert "--overlays outline: choose from filled, outlines, both, none; did you mean" in capsys.readouterr().err


AVERAGE = [
    *("--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging"),
    *("--trainer.callbacks.decay", "0.8"),
]


@pytest.mark.parametrize(
    ("schedule", "more"), [("plateau", []), ("one_cycle", []), ("cosine", [*AVERAGE, "--trainer.max_steps", "1000"])]
)
def test_a_killed_run_resumes_to_the_same_weights(
    schedule: str, more: list[str], tiny_config: Path, tmp_path: Path, run_command: Run
) -> None:
    settings = [
        *("--config", str(tiny_config), "--trainer.max_epochs", "4", "--data.augment", AUGMENT),
        *("--model.schedule", schedule, "--model.plateau_patience", "1", "--model.learning_rate", "0.01"),
        *("--trainer.callbacks+", "flexunet_pl.training.callbacks.Curves"),
        *more,
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["fit", *settings, "--run_dir", str(whole)]) == 0
    kill = ["--trainer.callbacks+", "killer.Killer", "--trainer.callbacks.epoch", "2"]
    process = run_command("fit", *settings, *kill, "--run_dir", str(killed), PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert main(["fit", *settings, "--run_dir", str(killed), "--ckpt_path", "last"]) == 0

    expected, found = weights(whole / "checkpoints" / "last.ckpt"), weights(killed / "checkpoints" / "last.ckpt")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    # The logs go on where they were: the same rows, once each.
    assert (killed / "curves" / "scores.csv").read_text() == (whole / "curves" / "scores.csv").read_text()


def test_two_processes_count_what_one_counts(
    tiny_config: Path, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, run_command: Run
) -> None:
    images = tiny_data / "test" / "images"
    assert len(list(images.iterdir())) % 2 == 1, "an odd number of images is what makes this hard"
    common = ["--config", str(tiny_config), "--ckpt_path", str(tiny_checkpoint), "--data.batch_size", "2"]
    assert main(["test", *common, "--run_dir", str(tmp_path / "one")]) == 0
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--run_dir", str(tmp_path / "two")]
    process = run_command("test", *common, *two, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    assert scores_of(tmp_path / "two") == scores_of(tmp_path / "one")


def test_two_processes_train_and_predict(tiny_config: Path, tiny_data: Path, tmp_path: Path, run_command: Run) -> None:
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--run_dir", str(tmp_path / "run")]
    curves = ["--trainer.callbacks+", "flexunet_pl.training.callbacks.Curves"]
    process = run_command("fit", "--config", str(tiny_config), *two, *curves, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "curves" / "losses.png").is_file()
    images = tiny_data / "test" / "images"
    predict = ["--data.predict_dir", str(images), "--out", str(tmp_path / "masks")]
    process = run_command("predict", "--config", str(tiny_config), *two, *predict, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    assert {path.name for path in (tmp_path / "masks").glob("*.png")} == {path.name for path in images.iterdir()}


def test_a_faulty_data_set_ends_two_processes_with_one_report(
    tiny_config: Path, tmp_path: Path, run_command: Run
) -> None:
    write_dataset(tmp_path / "data", 9, (32, 32), 0)
    first = next((tmp_path / "data" / "train" / "masks").iterdir())
    first.unlink()
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.root", str(tmp_path / "data")]
    process = run_command("fit", "--config", str(tiny_config), *two)
    assert process.returncode == 2
    assert f"no mask with the stem '{first.stem}'" in process.stderr
    assert "Traceback" not in process.stderr


def test_two_runs_with_one_seed_are_the_same(tiny_config: Path, tmp_path: Path) -> None:
    augment = ["--data.augment", AUGMENT]
    for name, workers in (("one", "0"), ("other", "2")):
        arguments = ["fit", "--config", str(tiny_config), *augment, "--data.num_workers", workers]
        assert main([*arguments, "--run_dir", str(tmp_path / name)]) == 0
    one, other = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("one", "other"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    arguments = ["fit", "--config", str(tiny_config), *augment, "--seed_everything", "2"]
    assert main([*arguments, "--run_dir", str(tmp_path / "third")]) == 0
    third = weights(tmp_path / "third" / "checkpoints" / "last.ckpt")
    assert not all(torch.equal(one[key], third[key]) for key in one)


def test_running_statistics_follow_at_the_pace_asked_for() -> None:
    palette = {"background": [0, 0, 0], "crack": [0, 0, 255]}
    for momentum, expected in ((None, 0.01), (0.25, 0.25)):
        network = {"name": "flexunet", "base_filters": 2, "num_layers": 2, "normalization": True}
        task = SegmentationTask(palette, network=network, batchnorm_momentum=momentum)
        layers = [layer for layer in task.network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        assert [layer.momentum for layer in layers] == [expected] * 6


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("algorithm", ["value", "norm"])
def test_gradients_are_clipped_in_mixed_precision_too(
    optimizer: str, algorithm: str, tiny_config: Path, tmp_path: Path
) -> None:
    steps = ["--trainer.precision", "bf16-mixed", "--trainer.limit_train_batches", "2", "--model.optimizer", optimizer]
    clip = ["--trainer.gradient_clip_algorithm", algorithm, "--trainer.gradient_clip_val"]
    for name, limit in (("free", "1e9"), ("clipped", "1e-9")):
        arguments = ["fit", "--config", str(tiny_config), *steps, *clip, limit, "--run_dir", str(tmp_path / name)]
        assert main(arguments) == 0
    first, second = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("free", "clipped"))
    # Adam divides by the size of the gradients, so that they have to fall below its eps to change anything.
    assert not torch.equal(first["network.head.weight"], second["network.head.weight"])


@pytest.mark.parametrize("resize", ["letterbox", "none"])
def test_images_of_many_sizes_train_test_and_predict(resize: str, tiny_config: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        for index, size in enumerate([(40, 52), (33, 70), (61, 35)]):
            mask_index = np.zeros(size, dtype=np.uint8)
            mask_index[8:20, 8:20] = 1
            image = rng.integers(0, 100, (*size, 3), dtype=np.uint8) + 100 * mask_index[..., None]
            for kind, pixels in (("images", image), ("masks", mask_index)):
                folder = tmp_path / "data" / split / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    palette = '{"background": [0, 0, 0], "hole": [255, 0, 0]}'
    data = ["--data.root", str(tmp_path / "data"), "--data.palette", palette, "--data.resize", resize]
    common = ["--config", str(tiny_config), *data, "--run_dir", str(tmp_path / "run"), "--model.num_classes", "1"]
    crop = [
        "--data.crop_size",
        "32",
        "--data.image_size",
        "64",
        "--model.loss",
        '{"binary_cross_entropy": 1, "dice": 1}',
    ]
    assert main(["fit", *common, *crop, "--trainer.max_epochs", "2"]) == 0
    checkpoint = ["--ckpt_path", str(tmp_path / "run" / "checkpoints" / "last.ckpt")]
    assert main(["test", *common, *checkpoint]) == 0
    scores = scores_of(tmp_path / "run")
    assert list(scores["classes"]) == ["background", "hole"]
    assert scores["classes"]["hole"]["support"] == 3 * 12 * 12
    images = ["--data.predict_dir", str(tmp_path / "data" / "test" / "images")]
    assert main(["predict", *common, *checkpoint, *images, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "1.png") as mask:
        assert mask.size == (70, 33)


@pytest.mark.full
def test_memory_is_flat_in_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    for images in (50, 500):
        arguments = [
            *("--config", str(ROOT / "configs" / "tile.yaml"), "--data.root", str(tmp_path / str(images))),
            *("--data.synthetic_images", str(images), "--data.image_size", "64", "--trainer.max_epochs", "1"),
            *("--trainer.enable_progress_bar", "false", "--trainer.callbacks", "[]"),
        ]
        code = f"""
import resource, sys
sys.argv = ["flexunet_pl"]
from flexunet_pl.cli.main import main
code = main({["fit", *arguments]!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""
        process = run_python(code, tmp_path)
        peaks.append(int(process.splitlines()[-1]))
    assert peaks[1] < 3 * 1024
    assert peaks[1] - peaks[0] < 100, peaks


def run_python(code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return process.stdout
