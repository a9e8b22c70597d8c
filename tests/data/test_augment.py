"""The augmentation as a whole: its specification, its determinism, its page and its benchmark."""

import hashlib
import math
import os
import pickle
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.augment import PRESETS, TRANSFORMS, Planes, build_augmentation
from flexunet_pl.data.augment.presets import ORIGINAL_NAMES
from flexunet_pl.data.augment.spec import read_plan

ROOT = Path(__file__).parents[2]


def pair(seed: int, height: int = 64, width: int = 64, channels: int = 3) -> Planes:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (channels, height, width), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1 + seed % 3
    return image, mask


def digest(spec: dict[str, Any], seed: int, crop_size: tuple[int, int] | None = None, samples: int = 20) -> str:
    """Return the hash of augmented samples, each with a generator of its own."""
    augmentation = build_augmentation(spec, crop_size)
    sha = hashlib.sha256()
    for index in range(samples):
        rng = np.random.default_rng([seed, 0, index])

        def partner(rng: np.random.Generator = rng) -> Planes:
            return pair(int(rng.integers(5)))

        image, mask = augmentation(*pair(index), rng, partner)
        sha.update(image.tobytes() + mask.tobytes())
    return sha.hexdigest()


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("crop_size", [None, (40, 48)])
def test_results_follow_from_the_generator_alone(crop_size: tuple[int, int] | None) -> None:
    first = digest({"preset": "full"}, 0, crop_size)
    np.random.seed(1)  # noqa: NPY002  the point is that global state has no say
    torch.manual_seed(1)
    assert digest({"preset": "full"}, 0, crop_size) == first
    assert digest({"preset": "full"}, 1, crop_size) != first


@pytest.mark.usefixtures("threads_restored")
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    # Large enough that torch shares the work out.
    image, mask = pair(0, 512, 512)
    augmentation = build_augmentation(dict.fromkeys(TRANSFORMS, 1))
    results = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        results.append(augmentation(image, mask, np.random.default_rng(0), lambda: (image, mask)))
    for new_image, new_mask in results[1:]:
        np.testing.assert_array_equal(new_image, results[0][0])
        np.testing.assert_array_equal(new_mask, results[0][1])


def test_global_random_state_is_left_alone() -> None:
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    expected = np.random.random(), torch.rand(1).item()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    digest(dict.fromkeys(TRANSFORMS, 1), 0, samples=2)
    assert (np.random.random(), torch.rand(1).item()) == expected  # noqa: NPY002


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (50, 70)])
def test_all_transforms_together_work_on_any_size_and_number_of_channels(channels: int, size: tuple[int, int]) -> None:
    image, mask = pair(0, *size, channels)
    for seed in range(3):
        new_image, new_mask = build_augmentation(dict.fromkeys(TRANSFORMS, 1))(
            image, mask, np.random.default_rng(seed), lambda: pair(1, 20, 30, channels)
        )
        assert new_image.shape == image.shape
        assert new_mask.shape == mask.shape
        assert new_image.flags.c_contiguous
        assert new_mask.flags.c_contiguous
        assert (new_image.dtype, new_mask.dtype) == (np.dtype(np.uint8), np.dtype(np.uint8))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_given_arrays_may_be_read_only_views_and_stay_as_they_are(name: str) -> None:
    image, mask = pair(2)
    picture = np.ascontiguousarray(image.transpose(1, 2, 0))
    picture.setflags(write=False)
    mask.setflags(write=False)
    augmentation = build_augmentation({name: 1})
    from_view = augmentation(picture.transpose(2, 0, 1), mask, np.random.default_rng(0), lambda: pair(3))
    from_array = augmentation(image, mask, np.random.default_rng(0), lambda: pair(3))
    np.testing.assert_array_equal(from_view[0], from_array[0])
    np.testing.assert_array_equal(from_view[1], from_array[1])
    np.testing.assert_array_equal(picture, image.transpose(1, 2, 0))


def test_no_augmentation_returns_the_sample() -> None:
    image, mask = pair(0)
    for spec in (None, {}, {"preset": "none"}, {"preset": "light", "hflip": 0, "vflip": 0, "right_angle": False}):
        plan = {} if spec is None else {**spec, "brightness": 0}
        new_image, new_mask = build_augmentation(plan)(image, mask, np.random.default_rng(0))
        np.testing.assert_array_equal(new_image, image)
        np.testing.assert_array_equal(new_mask, mask)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_each_transform_acts_with_its_probability(probability: float) -> None:
    augmentation = build_augmentation({"hflip": probability})
    image, mask = pair(0)
    rng = np.random.default_rng(0)
    flipped = sum(bool((augmentation(image, mask, rng)[1] != mask).any()) for _ in range(1000))
    assert flipped / 1000 == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / 1000))


def test_an_augmentation_travels_to_worker_processes() -> None:
    assert pickle.dumps(build_augmentation({"preset": "full"}, (32, 32)))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        pytest.param(np.zeros((3, 4, 5), np.uint8), np.zeros((5, 4), np.uint8), id="sizes differ"),
        pytest.param(np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8), id="no channel axis"),
        pytest.param(np.zeros((3, 4, 5), np.float32), np.zeros((4, 5), np.uint8), id="float image"),
        pytest.param(np.zeros((3, 4, 5), np.uint8), np.zeros((4, 5), np.int64), id="wide mask"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(image: Any, mask: Any) -> None:
    with pytest.raises(ValueError, match="they must be uint8"):
        build_augmentation(None)(image, mask, np.random.default_rng(0))


def test_a_bare_number_is_the_probability_and_true_the_defaults() -> None:
    transforms = read_plan({"hflip": 0.25, "vflip": True, "noise": {"sigma": 3}, "blur": False, "hue": 0}).transforms
    assert {name: transform.p for name, transform in transforms.items()} == {"hflip": 0.25, "vflip": 0.5, "noise": 0.5}


def test_further_keys_change_and_extend_a_preset() -> None:
    transforms = read_plan({"preset": "light", "brightness": {"limit": 0.4}, "hflip": 0, "noise": 0.1}).transforms
    assert transforms["brightness"] == TRANSFORMS["brightness"](p=0.5, limit=0.4)  # type: ignore[call-arg]
    assert list(transforms) == ["vflip", "right_angle", "brightness", "noise"]


def test_the_names_of_the_original_mean_ours() -> None:
    ours = read_plan({"preset": "flexunet", "barrel": {"radius": 0.3}}).transforms
    theirs = read_plan({"preset": "flexunet", "barrdistortion": {"radius": 0.3}}).transforms
    assert ours == theirs
    assert set(ORIGINAL_NAMES.values()) <= set(TRANSFORMS)


def test_the_sections_of_an_original_configuration_are_understood() -> None:
    """Every name of the original's [augmentor] and the sections beside it."""
    theirs = {
        "hflip": True,
        "vflip": True,
        "rotation": True,
        "angles": [90, 270],
        "shrinks": [0.8, 0.7],
        "shears": [0.1],
        "deformation": {"alpah": 1200, "sigmoids": [8, 10]},
        "distortion": {"gaussian_filter_rsigma": 30, "gaussian_filter_sigma": 0.5, "distortions": [0.01]},
        "sharpening": {"k": 1.0},
        "brightening": {"alpha": 1.2, "beta": 10},
        "barrdistortion": {"radius": 0.3, "amount": 0.3, "centers": [[0.3, 0.3]]},
        "pincdistortion": {"radius": 0.3, "amount": -0.3, "centers": [[0.7, 0.3]]},
    }
    ours = {
        "hflip": 0.5,
        "vflip": 0.5,
        "rotation": {"angles": [90, 270]},
        "shrink": {"shrinks": [0.8, 0.7]},
        "shear": {"shears": [0.1]},
        "elastic": {"alpha": 1200, "sigmoids": [8, 10]},
        "smooth_noise": theirs["distortion"],
        "sharpen": {"k": 1.0},
        "brightening": theirs["brightening"],
        "barrel": theirs["barrdistortion"],
        "pincushion": theirs["pincdistortion"],
    }
    assert read_plan(theirs).transforms == read_plan(ours).transforms
    assert len(read_plan(theirs).transforms) == len(ours)
    assert list(read_plan({"rotation": True, "angles": [], "shears": [], "hflip": 1}).transforms) == ["hflip"]
    assert read_plan({"rotation": False, "angles": [90]}).transforms == {}


def test_one_number_for_an_interval_is_always_taken() -> None:
    assert read_plan({"noise": {"sigma": 3}}).transforms == read_plan({"noise": {"sigma": [3, 3]}}).transforms


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ([0.5], ["data.augment=[0.5]", "map"]),
        ({"hflp": 0.5}, ["data.augment.hflp", "did you mean 'hflip'?", "choose from mosaic"]),
        ({"barrdistorsion": 0.5}, ["did you mean 'barrdistortion'?"]),
        ({"angles": [90], "rotation": {"angles": [180]}}, ["data.augment.angles: is given as rotation.angles too"]),
        ({"shrinks": 0.8}, ["data.augment.shrink.shrinks=0.8", "a list"]),
        ({"angle": [90]}, ["data.augment.angle", "did you mean 'angles'?"]),
        ({"preset": "lite"}, ["data.augment.preset='lite'", "none, light, full, flexunet", "did you mean 'light'?"]),
        ({"preset": ["light"]}, ["data.augment.preset=['light']"]),
        ({"fill": "black"}, ["data.augment.fill='black'", "mirror, ignore"]),
        ({"hflip": None}, ["data.augment.hflip=None", "{p: 0.5}"]),
        ({"hflip": "often"}, ["data.augment.hflip='often'"]),
        ({"hflip": 1.5}, ["data.augment.hflip.p=1.5", "from 0 to 1"]),
        ({"noise": {"sgma": 3}}, ["data.augment.noise.sgma", "did you mean 'sigma'?", "p, sigma"]),
        ({"noise": {"sigma": [8, 2]}}, ["data.augment.noise.sigma=[8, 2]", "the smaller first", "[2, 8]"]),
        ({"noise": {"sigma": [1, 2, 3]}}, ["two such numbers"]),
        ({"noise": {"sigma": "3"}}, ["data.augment.noise.sigma='3'"]),
        ({"noise": {"sigma": math.nan}}, ["data.augment.noise.sigma=nan"]),
        ({"noise": {"p": True}}, ["data.augment.noise.p=True"]),
        ({"jpeg": {"quality": 70.5}}, ["data.augment.jpeg.quality=70.5", "a whole number from 1 to 100"]),
        ({"elastic": {"sigmoids": []}}, ["at least one number", "[8]"]),
        ({"elastic": {"sigmoids": 8}}, ["data.augment.elastic.sigmoids=8", "a list"]),
        ({"pincushion": {"amount": 0.5}}, ["data.augment.pincushion.amount=0.5", "from -0.95 to -0.01"]),
        ({"barrel": {"centers": [0.5, 0.5]}}, ["data.augment.barrel.centers=[0.5, 0.5]", "[[0.5, 0.5]]"]),
        ({"barrel": {"centers": []}}, ["a list of places"]),
        ({"barrel": {"centers": [[0.5, 1.5]]}}, ["a share from 0 to 1"]),
        ({"barrel": 0.5, "barrdistortion": 0.5}, ["given as barrel too"]),
        ({"crop": {"foreground_share": 0.5}}, ["data.augment.crop", "data.crop_size is not set"]),
        ({"crop": {"class_balanced": 1}}, ["data.augment.crop.class_balanced=1", "true or false", "true"]),
        ({"crop": {"p": 0.5}}, ["data.augment.crop.p", "foreground_share, class_balanced"]),
    ],
)
def test_mistakes_are_named_with_their_repair(spec: Any, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_augmentation(spec)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("crop_size", [(0, 5), (5, -1), (5, 5, 5)])
def test_a_crop_size_that_is_none(crop_size: Any) -> None:
    with pytest.raises(UserError, match=r"data\.crop_size"):
        build_augmentation(None, crop_size)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_the_rules(preset: str) -> None:
    spec = {name: dict(options) for name, options in PRESETS[preset].items()}
    assert read_plan({"preset": preset}).transforms == read_plan(spec).transforms


def test_the_full_preset_has_every_transform_but_the_fixed_one_of_the_original() -> None:
    assert set(TRANSFORMS) - set(read_plan({"preset": "full"}).transforms) == {"brightening"}


def test_the_page_names_every_transform_option_default_and_probability() -> None:
    page = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert [name for name in rows if name in TRANSFORMS] == list(TRANSFORMS)
    for name, kind in TRANSFORMS.items():
        written_defaults = {key: yaml.safe_load(value) for key, value in re.findall(r"`(\w+): ([^`]*)`", rows[name])}
        options = {option.name: option for option in fields(kind) if option.name != "p"}
        assert list(written_defaults) == list(options)
        for key, value in written_defaults.items():
            assert options[key].metadata["rule"].parse(value) == options[key].default
        written_probabilities = [cell.strip() for cell in rows[name].split("|")[-4:-1]]
        entries = [PRESETS[preset].get(name) for preset in ("light", "full", "flexunet")]
        assert written_probabilities == ["" if entry is None else f"{entry['p']:g}" for entry in entries]
    for theirs, ours in ORIGINAL_NAMES.items():
        assert f"`{theirs}`" in rows[ours]


@pytest.mark.usefixtures("threads_restored")
def test_the_benchmark_prints_its_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["augmentation.py", "--size", "32", "--count", "10"])
    runpy.run_path(str(ROOT / "benchmarks" / "augmentation.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    for row in (*(f"preset {name}" for name in PRESETS), *PRESETS["full"]):
        assert any(line.startswith(row) for line in printed)


@pytest.mark.full
def test_presets_are_as_fast_as_promised() -> None:
    """512x512 pairs a second and core, measured in processor time."""
    command = [sys.executable, "benchmarks/augmentation.py", "--count", "300"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.count(": met") == 2, done.stdout
