"""Distillation: its loss, runs that end like others, exact resuming, and mistakes that are named."""

import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import with_settings

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.training.distillation import check_teacher, softened_divergence
from flexunet_pl.training.student import CALLBACK, Lesson, write_student_config
from flexunet_pl.training.task import SegmentationTask

SMALL = ["base_filters", "2", "base_kernel", "3", "num_layers", "2", "pretrained", "null"]
STUDENT = [f"--model.{word}" if position % 2 == 0 else word for position, word in enumerate(SMALL)]
EACH_STEP = """{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: checkpoints,
  filename: "{step}", every_n_train_steps: 1, save_top_k: -1}}"""
PALETTE = {"background": [0, 0, 0], "crack": [0, 0, 255]}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    path = run_dir / "checkpoints" / "last.ckpt"
    content: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return content


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def pixel(*logits: float) -> torch.Tensor:
    return torch.tensor(logits).view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "temperature", "expected"),
    [
        pytest.param((1.0, 3.0), (1.0, 3.0), 2.0, 0.0, id="equal logits"),
        pytest.param((0.0, 0.0), (0.0, math.log(3)), 1.0, 0.75 * math.log(1.5) - 0.25 * math.log(2), id="1/4 and 3/4"),
        pytest.param(
            (0.0, 0.0), (0.0, 2 * math.log(3)), 2.0, 4 * (0.75 * math.log(1.5) - 0.25 * math.log(2)), id="softened"
        ),
        pytest.param((0.0,), (math.log(3),), 1.0, 0.75 * math.log(1.5) - 0.25 * math.log(2), id="one channel"),
    ],
)
def test_the_divergence_is_that_of_the_teachers_probabilities(
    ours: tuple[float, ...], theirs: tuple[float, ...], temperature: float, expected: float
) -> None:
    found = softened_divergence(pixel(*ours), pixel(*theirs), temperature)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_divergence_is_a_mean_over_pixels() -> None:
    ours, theirs = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    one = softened_divergence(ours, theirs, 2.0)
    torch.testing.assert_close(softened_divergence(ours.repeat(2, 1, 1, 2), theirs.repeat(2, 1, 1, 2), 2.0), one)


@pytest.fixture(scope="module")
def distilled(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a smaller network that the tiny run taught for 2 epochs, with images without masks."""
    run_dir = tmp_path_factory.mktemp("distilled") / "run"
    images = ["--images", str(tiny_data / "test" / "images"), "--images_per_step", "1"]
    own = ["--run_dir", str(run_dir), "--trainer.max_epochs", "2", "--trainer.callbacks+", EACH_STEP, *STUDENT]
    assert main(["distill", str(tiny_run), *images, *own]) == 0
    return run_dir


def test_a_distilled_run_is_a_run_like_others(distilled: Path, tiny_run: Path) -> None:
    content = torch.load(distilled / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["hyper_parameters"]["network"]["base_filters"] == 2
    assert (
        content["state_dict"].keys()
        == SegmentationTask.from_checkpoint(distilled / "checkpoints" / "best.ckpt").state_dict().keys()
    )
    config = yaml.safe_load((distilled / "config.yaml").read_text())
    (callback,) = [one for one in config["trainer"]["callbacks"] if one["class_path"] == CALLBACK]
    assert callback["init_args"]["teacher"] == str(tiny_run / "checkpoints" / "best.ckpt")
    assert main(["test", "--run_dir", str(distilled)]) == 0
    assert (distilled / "test_scores.json").is_file()


@pytest.mark.parametrize("step", [2, 5], ids=["within the first epoch", "within the second"])
def test_a_resumed_run_equals_an_uninterrupted_one(distilled: Path, tmp_path: Path, step: int) -> None:
    middle = distilled / "checkpoints" / f"step={step}.ckpt"
    shutil.copytree(distilled, tmp_path / "run", ignore=shutil.ignore_patterns("*.ckpt"))
    assert main(["fit", "--run_dir", str(tmp_path / "run"), "--ckpt_path", str(middle)]) == 0
    assert are_equal(weights(tmp_path / "run"), weights(distilled))


@pytest.mark.full
@pytest.mark.parametrize("changed", ["--temperature=5", "--images_per_step=2"])
def test_the_teacher_and_the_images_make_a_difference(
    distilled: Path, tiny_run: Path, tiny_data: Path, tmp_path: Path, changed: str
) -> None:
    images = ["--images", str(tiny_data / "test" / "images"), "--images_per_step", "1"]
    own = ["--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "2", *STUDENT]
    assert main(["distill", str(tiny_run), *images, changed, *own]) == 0
    assert not are_equal(weights(tmp_path / "run"), weights(distilled))


def test_without_a_teachers_weight_it_is_plain_training(tiny_run: Path, tmp_path: Path) -> None:
    own = [*STUDENT, "--model.batchnorm_momentum", "0.1", "--trainer.max_epochs", "1"]
    assert main(["distill", str(tiny_run), "--weight", "0", "--run_dir", str(tmp_path / "distilled"), *own]) == 0
    student = ["--model.learning_rate", "0.002", "--model.dropout", "0.02", "--model.normalization", "true"]
    student += ["--model.input_normalize", "true", "--run_dir", str(tmp_path / "plain")]
    assert main(["fit", "--config", str(tiny_run / "config.yaml"), *own, *student]) == 0
    assert are_equal(weights(tmp_path / "plain"), weights(tmp_path / "distilled"))


def test_validation_does_not_know_the_teacher(
    distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(distilled, tmp_path / "run")
    checkpoint = torch.load(distilled / "checkpoints" / "best.ckpt", weights_only=True)
    (state,) = [value for key, value in checkpoint["callbacks"].items() if "'monitor': 'val/loss'" in key]
    assert main(["validate", "--run_dir", str(tmp_path / "run"), "--ckpt_path", "best"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("loss ")]
    # In training it was computed in the precision of the run.
    assert float(line.split()[1]) == pytest.approx(float(state["best_model_score"]), rel=0.01)


def test_the_config_of_a_student(tiny_run: Path, tmp_path: Path) -> None:
    path = write_student_config(tiny_run, Lesson("unet", time="90m", images="photos"), tmp_path)
    config = yaml.safe_load(path.read_text())
    assert path.name == "tiny-unet.yaml"
    assert config["trainer"]["max_time"] == "00:01:30:00"
    assert (config["trainer"]["max_steps"], config["trainer"]["max_epochs"]) == (-1, -1)
    assert config["model"]["network"] == "unet"
    assert "base_filters" not in config["model"]
    assert config["trainer"]["callbacks"][-1]["init_args"]["images"] == str(Path("photos").absolute())


def test_the_student_of_a_student_has_one_teacher(distilled: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(write_student_config(distilled, Lesson(), tmp_path).read_text())
    teachers = [one["init_args"]["teacher"] for one in config["trainer"]["callbacks"] if "Distil" in one["class_path"]]
    assert teachers == [str(distilled / "checkpoints" / "best.ckpt")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--network", "flexnet"], "--network flexnet: choose from flexunet.*did you mean", id="network"),
        pytest.param(["--time", "12"], "--time 12 must be a number with s, m or h", id="time without unit"),
        pytest.param(["--temperature", "0"], "--temperature=0.0 must be at least 0.1", id="temperature"),
        pytest.param(["--images", "nowhere"], "nowhere", id="no images"),
        pytest.param(["--model.base_filter", "2"], "base_filters", id="typo in an option of fit"),
    ],
)
def test_mistakes_are_named(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main(["distill", str(tiny_run), *options, "--run_dir", "run"])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert any(part in capsys.readouterr().err for part in message.split(".*")[:1])


def test_what_is_no_run_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for path in (tmp_path, tiny_checkpoint):
        with pytest.raises(UserError, match="is no run folder"):
            write_student_config(path, Lesson(), tmp_path)


def test_a_teacher_of_other_classes_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    teacher = SegmentationTask.from_checkpoint(tiny_checkpoint)
    network = {"name": "flexunet", "base_filters": 2, "num_layers": 2}
    with pytest.raises(
        UserError, match=r"classes are background, crack, glue_strip.*those of the data are background, crack;"
    ):
        check_teacher(teacher, SegmentationTask(PALETTE, network=network), tiny_checkpoint)
    grey = SegmentationTask(teacher.palette.to_mapping(), network=network, in_channels=1)
    with pytest.raises(UserError, match=r"data\.channels=3, this run 1"):
        check_teacher(teacher, grey, tiny_checkpoint)
    two = SegmentationTask(PALETTE, network=network)
    one = SegmentationTask(PALETTE, network=network, num_classes=1)
    with pytest.raises(UserError, match=r"model\.num_classes=2, this run 1; set --model\.num_classes 2"):
        check_teacher(two, one, with_settings(tiny_checkpoint, tmp_path))
