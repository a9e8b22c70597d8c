"""The comparison with other programs: what is prepared, which commands run, how masks are scored and shown."""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import compare
import comparison_engines
import comparison_sets
import numpy as np
import pytest
import yaml
from comparison_engines import Job, NnUnet, Planned, Recipe, SmpUnet, Training, write_nnunet_dataset
from comparison_scores import Scores, score
from conftest import ROOT
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.data.sources import source_of

PALETTE = Palette.from_mapping({"background": [0, 0, 0], "scratch": [255, 0, 0], "hole": [0, 0, 255]})
PLAN = yaml.safe_load(compare.PLAN.read_text())


def write_pair(split: Path, name: str, mask_index: list[list[int]], mode: str = "RGB") -> None:
    """Write an image whose values count up, and a colour mask."""
    mask = np.array(mask_index, np.uint8)
    for kind in ("images", "masks"):
        (split / kind).mkdir(parents=True, exist_ok=True)
    channels = 3 if mode == "RGB" else 1
    pixels = np.arange(mask.size * channels, dtype=np.uint8).reshape(*mask.shape, channels)
    Image.fromarray(pixels.squeeze(), mode).save(split / "images" / f"{name}.png")
    Image.fromarray(PALETTE.decode(mask)).save(split / "masks" / f"{name}.png")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a data set of one training image, with scratch, and three held-out ones, of which one is good."""
    data = tmp_path / "small"
    write_pair(data / "train", "scratch_0", [[0, 1, 1], [0, 0, 1]])
    write_pair(data / "valid", "scratch_1", [[0, 1, 1], [0, 1, 1]])
    write_pair(data / "valid", "hole_1.5", [[2, 0, 0], [0, 0, 0]])
    write_pair(data / "valid", "good_1", [[0, 0, 0], [0, 0, 0]])
    PALETTE.save(data / "palette.yaml")
    return data


def job(data: Path, folder: Path, minutes: float = 12, reserve: float = 30) -> Job:
    return Job(data, folder, seed=2, minutes=minutes, reserve=reserve)


def test_the_engines_are_the_recipes_of_the_plan_and_the_competitors() -> None:
    engines = compare.engines_of(PLAN, None, Path("python"))
    assert list(engines) == ["ours", "flexunet", "original", "planned", "smp-resnet34", "smp-lite0", "nnunet"]
    assert list(compare.engines_of(PLAN, ["original", "smp-lite0"], None)) == ["original", "smp-lite0"]


@pytest.mark.parametrize(
    ("plan", "only", "said"),
    [
        (PLAN, None, r"--nnunet_python is not given; .* nnunetv2==2\.8\.1.*: --only ours flexunet original planned"),
        (PLAN, ["unet"], "--only unet: choose from ours, flexunet, "),
        ({"minutes": 1, "runs": {"nnunet": {"config": "x.yaml"}}}, None, "names a run 'nnunet'"),
        ({"minutes": 1, "runs": {}, "seeds": [1]}, None, "the plan has the key 'seeds'"),
    ],
    ids=["no interpreter", "unknown engine", "name taken", "unknown key"],
)
def test_a_faulty_choice_of_engines_is_refused(plan: dict[str, Any], only: list[str] | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        compare.engines_of(plan, only, None)


def test_a_recipe_trains_for_the_time_less_start_and_validation_and_predicts_the_held_out_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    engine = compare.engines_of(PLAN, ["ours"], None)["ours"]
    assert isinstance(engine, Recipe)
    fit, predict = engine.commands(job(Path("data/wood"), tmp_path), tmp_path / "masks")
    assert fit[:5] == ["fit", "--config", "configs/tile_strong.yaml", "--data.root", "data/wood"]
    options = dict(zip(fit[1::2], fit[2::2], strict=True))
    assert options["--trainer.max_time"] == "00:00:11:30"
    assert options["--seed_everything"] == "2"
    options = dict(zip(predict[1::2], predict[2::2], strict=True))
    assert options["--data.predict_dir"] == "data/wood/valid/images"
    assert options["--ckpt_path"] == "last"
    assert options["--run_dir"] == str(tmp_path)
    with pytest.raises(UserError, match=r"--minutes 0\.5: 30 s go for start"):
        engine.commands(job(Path("data"), tmp_path, minutes=0.5), tmp_path)


def test_a_planned_run_has_all_of_the_time_and_no_recipe(tmp_path: Path) -> None:
    fit, predict = Planned().commands(job(Path("data"), tmp_path, minutes=3), tmp_path / "masks")
    assert fit[:4] == ["fit", "data", "--time", "180s"]
    assert fit[fit.index("--seed_everything") + 1] == "2"
    assert not {"--config", "--ckpt_path"} & {*fit}
    assert predict[:3] == ["predict", str(tmp_path), str(Path("data") / "valid" / "images")]
    assert predict[predict.index("--ckpt_path") + 1] == "last"


def test_magnets_train_at_their_own_scale_and_the_other_sets_alike() -> None:
    assert set(PLAN) == {"minutes", "runs"}
    assert all(not key.startswith(("data.root", "data.palette")) for key in PLAN["runs"]["ours"].get("set", {}))
    engines = compare.engines_of(PLAN, ["ours", "flexunet"], None)
    for name, configs in {
        "ours": ("configs/tile_strong.yaml", "configs/magnetic_tile.yaml"),
        "flexunet": ("configs/tile_flexunet.yaml", "configs/magnetic_tile_flexunet.yaml"),
    }.items():
        engine = engines[name]
        assert isinstance(engine, Recipe)
        assert [engine.of_set(data_set).settings()["config"] for data_set in ("wood", "magnets")] == list(configs)
        assert all(yaml.safe_load((ROOT / config).read_text()) for config in configs)


def test_the_competitors_are_called_with_deadline_and_seed(tmp_path: Path) -> None:
    words = SmpUnet("resnet34", "imagenet").command(job(Path("data"), tmp_path), 1234.5)
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert (options["--deadline"], options["--seed"], options["--weights"]) == ("1234.5", "2", "imagenet")
    assert "--weights" not in SmpUnet("resnet34").command(job(Path("data"), tmp_path), 1.0)
    engine = NnUnet(Path("python"), 0.5)
    variables = engine.variables(
        job(tmp_path / "wood", tmp_path / "run"), engine.base(job(tmp_path / "wood", tmp_path))
    )
    assert variables["nnUNet_raw"] == str(tmp_path / "wood-nnunet-0.5" / "raw")
    assert variables["nnUNet_results"] == str(tmp_path / "run" / "results")
    assert variables["OMP_NUM_THREADS"].isdigit()


def test_all_sets_are_prepared_by_source(tmp_path: Path) -> None:
    for name, one in comparison_sets.SETS.items():
        commands = comparison_sets.prepare_commands(name, 1, tmp_path, tmp_path / "out")
        words = commands[-1]
        assert words[0] == "prepare"
        assert str(tmp_path / "out") in words
        assert not any("{" in word for word in words)
        assert ("--folds" in words) == one.folds
        assert [command[0] for command in commands[:-1]] == ["migrate"] * bool(one.class_names)
    words = comparison_sets.prepare_commands("magnets", 1, tmp_path, tmp_path / "out")[-1]
    assert words[words.index("--seed") + 1] == "1"
    assert words[words.index("--groups") + 1] == str(tmp_path / "groups.csv")
    with pytest.raises(UserError, match="--seeds 3: wood has the folds 0 to 2"):
        comparison_sets.prepared_split("wood", 3, tmp_path, tmp_path)
    with pytest.raises(UserError, match="mvtec-tile-mini does not exist; leave tile out with --sets"):
        comparison_sets.prepared_split("tile", 0, tmp_path, tmp_path / "out")


def test_each_seed_holds_out_another_fold_of_sources(
    tmp_path: Path, shared_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "data" / "mvtec-wood-mini"
    noise = np.random.default_rng(0)
    for number in range(6):
        for name in (f"color_{number}", f"hflipped_color_{number}"):
            write_pair(source, name, [[1, 1, 0, 0]] * 2 + [[0, 0, 0, 0]] * 6)
            pixels = noise.integers(0, 256, (8, 4, 3), np.uint8)  # images that are the same would be one source
            Image.fromarray(pixels).save(source / "images" / f"{name}.png")
    (source / "train_eval_infer.config").write_bytes(
        (shared_dir / "data" / "mvtec-wood-mini" / "train_eval_infer.config").read_bytes()
    )
    monkeypatch.setattr(comparison_sets, "flexunet", main)
    out = tmp_path / "out"
    (out / "wood").mkdir(parents=True)
    (out / "wood" / "left-over").touch()  # an interrupted preparation
    held = []
    for seed in range(3):
        data = comparison_sets.prepared_split("wood", seed, tmp_path / "data", out)
        names = {
            split: {source_of(path.stem) for path in (data / split / "images").iterdir()}
            for split in ("train", "valid")
        }
        assert not names["train"] & names["valid"]
        assert len(names["train"] | names["valid"]) == 6
        assert Palette.load(data / "palette.yaml").names[1:3] == ("color", "combined")
        held += sorted(names["valid"])
    assert sorted(held) == [f"color_{number}" for number in range(6)]


@pytest.mark.parametrize(("channels", "names"), [(3, ["R", "G", "B"]), (1, ["grey"])], ids=["colour", "grey"])
def test_a_data_set_gets_the_layout_of_nnunet(small: Path, tmp_path: Path, channels: int, names: list[str]) -> None:
    target = tmp_path / "raw" / "Dataset001_x"
    write_nnunet_dataset(small, target, channels)
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*.*"))
    assert files == [
        "dataset.json",
        "imagesTr/scratch_0_0000.png",
        "imagesTs/good_1_0000.png",
        "imagesTs/hole_1.5_0000.png",
        "imagesTs/scratch_1_0000.png",
        "labelsTr/scratch_0.png",
    ]
    with Image.open(target / "labelsTr" / "scratch_0.png") as label:
        assert label.mode == "L"
        assert np.array(label).tolist() == [[0, 1, 1], [0, 0, 1]]
    with Image.open(small / "train" / "images" / "scratch_0.png") as image:
        expected = np.array(image.convert("L") if channels == 1 else image)
    with Image.open(target / "imagesTr" / "scratch_0_0000.png") as image:
        assert np.array_equal(np.array(image), expected)
    facts = json.loads((target / "dataset.json").read_text())
    assert facts["labels"] == {"background": 0, "scratch": 1, "hole": 2}
    assert list(facts["channel_names"].values()) == names
    assert facts["numTraining"] == 1
    assert facts["file_ending"] == ".png"


def write_masks(folder: Path, masks: dict[str, list[list[int]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask_index in masks.items():
        Image.fromarray(np.array(mask_index, np.uint8)).save(folder / f"{name}.png")  # as nnU-Net writes them
    return folder


PREDICTED = {
    "scratch_1": [[1, 1, 0], [0, 1, 1]],  # three of four, and one more
    "hole_1.5": [[2, 0, 0], [0, 0, 0]],
    "good_1": [[0, 1, 0], [0, 0, 2]],  # two of six pixels
}


def test_scores_are_those_of_a_worked_example(small: Path, tmp_path: Path) -> None:
    found = score(write_masks(tmp_path / "masks", PREDICTED), small)
    assert found == Scores(
        # Scratch: 4 in the truth, 4 + 1 predicted, 3 of them right. Hole is in no training image.
        dice={"scratch": 2 * 3 / (4 + 5), "hole": None},
        mean_foreground_dice=2 / 3,
        untrained=["hole"],
        good_images=1,
        good_with_false_positives=1,
        good_false_positive_share=2 / 6,
    )
    (tmp_path / "masks" / "good_1.png").unlink()
    with pytest.raises(UserError, match=r"1 of 3 images have no predicted mask, first: good_1"):
        score(tmp_path / "masks", small)


class Fake:
    """An engine that predicts the worked example, and counts what is asked of it."""

    def __init__(self, steps: int = 7) -> None:
        self.steps = steps
        self.trained = self.predicted = 0

    def settings(self) -> dict[str, Any]:
        return {"kind": "fake"}

    def train(self, job: Job) -> Training:  # noqa: ARG002  the protocol
        self.trained += 1
        return Training(self.steps, 90.0, {"patch": [3, 2]})

    def predict(self, job: Job, masks: Path) -> None:  # noqa: ARG002  the protocol
        self.predicted += 1
        assert not masks.exists()
        write_masks(masks, PREDICTED)


def test_a_finished_run_is_not_done_again_and_other_settings_are_refused(small: Path, tmp_path: Path) -> None:
    engine, mine = Fake(), job(small, tmp_path / "runs" / "fake-seed2")
    write_masks(mine.folder / "masks.part", {"scratch_1": [[0]]})  # an interrupted prediction
    first = compare.run_job("wood", "fake", engine, mine)
    assert (first.steps, first.minutes, first.wall_minutes, first.facts) == (7, 12, 1.5, {"patch": [3, 2]})
    assert first.scores.good_images == 1
    assert compare.run_job("wood", "fake", engine, mine) == first
    assert (engine.trained, engine.predicted) == (1, 1)
    with pytest.raises(UserError, match="begun with minutes=12, now it is 6; choose another --out"):
        compare.run_job("wood", "fake", engine, replace(mine, minutes=6))
    with pytest.raises(UserError, match="no step in 12 minutes; give more --minutes"):
        compare.run_job("wood", "fake", Fake(steps=0), replace(mine, folder=tmp_path / "other"))


def test_an_interrupted_competitor_begins_anew_and_a_finished_one_does_not(small: Path, tmp_path: Path) -> None:
    mine = job(small, tmp_path)
    (tmp_path / "job.json").touch()
    (tmp_path / "left-over").mkdir()
    started = time.time()

    def command(_: Job, deadline: float) -> list[str]:
        assert deadline == pytest.approx(started + 12 * 60, abs=5)
        facts = {"steps": 3, "ended": started + 60, "batch": 2}
        code = f"import pathlib; pathlib.Path({str(tmp_path / 'steps.json')!r}).write_text({json.dumps(facts)!r})"
        return [sys.executable, "-c", code]

    training = comparison_engines.trained_once(mine, command)
    assert (training.steps, training.facts) == (3, {"batch": 2})
    assert training.seconds == pytest.approx(60, abs=5)
    assert (tmp_path / "job.json").exists()
    assert not (tmp_path / "left-over").exists()
    assert comparison_engines.trained_once(mine, lambda *_: pytest.fail("called")) == training
    (tmp_path / "training.json").unlink()
    with pytest.raises(UserError, match="failed with exit code 3"):
        comparison_engines.trained_once(mine, lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(UserError, match="no-such-python: cannot be run"):
        comparison_engines.trained_once(mine, lambda *_: ["no-such-python"])


def result(engine: str, seed: int, macro: float | None, **dice: float | None) -> compare.Result:
    scores = Scores(dice, macro, [], 10, 3, 0.01)
    return compare.Result("magnets", engine, seed, scores, 100, 12.0, 12.04, {})


def test_the_tables_keep_what_is_not_won_and_say_what_is_not_measured() -> None:
    results = [
        result("ours", 0, 0.5, hole=0.5, rough=None, crack=None),
        result("ours", 1, 0.6, hole=0.7, rough=None, crack=0.5),
        result("nnunet", 0, 0.75, hole=0.75, rough=None, crack=None),
    ]
    engines = ["ours", "nnunet", "original"]
    assert compare.overview(results, engines, ["magnets", "wood"]).splitlines()[2:] == [
        "| ours | 0.550 | not measured yet |",
        "| nnunet | **0.750** | not measured yet |",
        "| original | not measured yet | not measured yet |",
    ]
    text = compare.details(results, engines, "magnets")
    assert text.splitlines()[2].startswith(
        "| engine | seeds | mDice (foreground) | per seed | hole | crack | good images"
    )
    assert text.splitlines()[4:7] == [
        "| ours | 2 | 0.550 | 0.500, 0.600 | 0.600 | 0.500 | 6 of 20 | 1.00% | 100 | 12.0 |",
        "| nnunet | 1 | 0.750 | 0.750 | 0.750 | n/a | 3 of 10 | 1.00% | 100 | 12.0 |",
        "| original | 0 | not measured yet |  |  |  |  |  |  |  |",
    ]
    assert "Not validated, for want of sources: rough." in text
    assert "Longer than" not in text
    results[1] = replace(results[1], wall_minutes=12.7)
    text = compare.details(results, engines, "magnets")
    assert text.endswith(
        "Longer than their 12 minutes, on a machine that is too busy or slow: ours with seed 1 (12.7).\n"
    )


def test_the_command_runs_what_is_left_until_its_time_is_over(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Fake()
    monkeypatch.setattr(compare, "engines_of", lambda *_: {"fake": engine})
    monkeypatch.setattr(compare, "prepared_split", lambda *_: small)
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--sets", "wood"]
    assert compare.main([*words, "--seeds", "1"]) == 0
    assert compare.main([*words, "--seeds", "0", "1", "--stop_after", "0"]) == 0
    assert engine.trained == 1
    said = capsys.readouterr().out
    assert said.endswith("goes on with the 1 runs that are left\n")
    assert (tmp_path / "out" / "table.md").read_text() in said
    assert [one["seed"] for one in json.loads((tmp_path / "out" / "results.json").read_text())] == [1]
    assert compare.main([*words, "--plan", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.full
def test_the_loop_of_smp_trains_until_its_deadline_and_predicts_at_native_size(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import smp_loop

    monkeypatch.setattr(smp_loop, "SIZE", Sizing(64, 64))
    shutil.copytree(tiny_data, tmp_path / "data")
    deadline = str(time.time() + 6)
    words = [
        "smp_loop.py",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--seed",
        "1",
        "--deadline",
        deadline,
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--encoder", "tu-tf_efficientnet_lite0", "--weights", "imagenet"])
    smp_loop.main()
    facts = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert facts["steps"] > 0
    assert facts["ended"] >= float(deadline)
    found = score(tmp_path / "out" / "masks", tmp_path / "data")
    assert found.mean_foreground_dice is not None
