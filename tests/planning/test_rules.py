"""Which choice follows from which fact."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import Palette
from flexunet_pl.planning.draft import Choice, Draft
from flexunet_pl.planning.facts import Facts
from flexunet_pl.planning.length import Length, trainer_choices
from flexunet_pl.planning.machine import GIBIBYTE, Machine
from flexunet_pl.planning.regions import RegionShape
from flexunet_pl.planning.rules import choose
from flexunet_pl.planning.trial import Trial
from flexunet_pl.training.recipes import AUGMENTATION, PRETRAINED

PALETTE = Palette.from_mapping({"background": [0, 0, 0], "crack": [0, 0, 255], "oil": [255, 255, 0]})
MACHINE = Machine(2, 20 * GIBIBYTE, None, 0, "32-true", "this CPU has neither AMX nor AVX512-BF16")


def region(index: int, width: float = 20.0, length: float = 40.0, angle: float = 0.0) -> RegionShape:
    return RegionShape(index, round(width * length * 0.785), width, length, angle)


def facts(**changes: Any) -> Facts:
    """Return the facts of tiles of 512x512 pixels, with other ones."""
    known: dict[str, Any] = {
        "root": Path("tiles"),
        "palette": PALETTE,
        "images": {"train": 15, "valid": 9},
        "folds": 0,
        "sizes": {(512, 512): 15},
        "channels": 3,
        "brightest": 0,
        "moved": 0,
        "masks": 15,
        "sources": {1: 5, 2: 3},
        "defective": 15,
        "validates": True,
        "shapes": {1: [region(1)] * 5, 2: [region(2)] * 3},
        "direction": 0.0,
    }
    return Facts(**{**known, **changes})


def values(found: Facts, given: Mapping[str, Any] | None = None, machine: Machine = MACHINE) -> dict[str, Any]:
    return {choice.key: choice.value for choice in choose(Draft(found, machine, given or {}))}


def test_tiles_get_the_defaults_of_the_recipe() -> None:
    chosen = values(facts())
    data = {key.removeprefix("data."): value for key, value in chosen.items() if key.startswith("data.")}
    assert {key: data[key] for key in ("crop_size", "batch_size", "sampler", "augment")} == {
        key: PRETRAINED.data[key] for key in ("crop_size", "batch_size", "sampler", "augment")
    }
    assert (data["image_size"], data["resize"], data["channels"]) == ([512, 512], "stretch", 3)
    model = {key.removeprefix("model."): value for key, value in chosen.items() if key.startswith("model.")}
    recipe = {key: value for key, value in PRETRAINED.model.items() if key != "encoder_rate"}
    assert {key: model[key] for key in recipe} == recipe


def test_small_grey_images_of_many_sizes_get_the_recipe_of_the_magnets() -> None:
    small = [region(1, width=8.0, length=11.0)] * 40
    found = facts(sizes={(375, 265): 4, (273, 218): 9}, channels=1, shapes={1: small, 2: [region(2)]}, direction=0.5)
    chosen = values(found)
    assert [chosen[f"data.{key}"] for key in ("resize", "image_size", "crop_size", "batch_size", "channels")] == [
        "none",
        None,
        256,
        4,
        1,
    ]
    assert chosen["model.loss"] == {"cross_entropy": 1.0, "log_dice": {"epsilon": 0.001}}
    assert chosen["data.augment"]["rotation"] == {"p": 0.3, "limit": 10}
    assert not {"right_angle", "hue", "saturation"} & chosen["data.augment"].keys()
    assert chosen["data.augment"]["hflip"] == AUGMENTATION["hflip"]
    assert chosen["model.min_region_area"] == 17  # a quarter of 69 pixels


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [
        pytest.param((3000, 4000), 10.0, [1504, 1984], id="10 pixels of 4,000 keep 5"),
        pytest.param((3000, 4000), 100.0, [384, 512], id="wide defects are seen at 512"),
        pytest.param((1024, 1024), 5.0, [1024, 1024], id="5 pixels are kept"),
        pytest.param((600, 600), 5.0, [600, 600], id="small enough as they are"),
    ],
)
def test_the_working_size_keeps_defects_visible(size: tuple[int, int], width: float, expected: list[int]) -> None:
    found = facts(sizes={size: 40}, shapes={1: [region(1, width=width)] * 9})
    assert values(found)["data.image_size"] == expected


def test_the_working_size_fits_into_the_memory() -> None:
    small = Machine(2, GIBIBYTE, None, 0, "32-true", "")
    found = facts(sizes={(3000, 4000): 40}, shapes={1: [region(1, width=4.0)] * 9})
    height, width = values(found, machine=small)["data.image_size"]
    assert height * width * 1_500 < 0.33 * GIBIBYTE
    assert height / width == pytest.approx(3 / 4, rel=0.1)


def test_one_very_large_image_is_not_validated_at_its_own_size() -> None:
    found = facts(sizes={(600, 800): 20, (6000, 8000): 1})
    assert values(found)["data.resize"] == "letterbox"


def test_small_images_get_small_crops() -> None:
    assert values(facts(sizes={(96, 96): 9}))["data.crop_size"] == 96
    assert values(facts(sizes={(20, 20): 9}))["data.crop_size"] == "none"
    assert "crop" not in values(facts(sizes={(20, 20): 9}))["data.augment"]


@pytest.mark.parametrize(("brightest", "rule"), [(0, None), (65_535, "full_range"), (4_095, "min_max")])
def test_sixteen_bits(brightest: int, rule: str | None) -> None:
    assert values(facts(brightest=brightest))["data.sixteen_bit"] == rule


def test_a_direction_that_decides_the_class_is_kept() -> None:
    bars = {index: [region(index, 4.0, 40.0, angle)] * 6 for index, angle in ((1, 0.6), (2, -0.6))}
    chosen = choose(Draft(facts(shapes=bars), MACHINE, {}))
    augment = next(choice for choice in chosen if choice.key == "data.augment")
    assert not {"hflip", "vflip", "right_angle"} & augment.value.keys()
    assert augment.reason == "no flips, since they turn crack into oil"
    assert next(choice for choice in chosen if choice.key == "model.tta").value is False


def test_a_set_without_defects_is_planned_too() -> None:
    chosen = values(facts(shapes={}, defective=0, sources={}))
    assert chosen["model.loss"] is None
    assert chosen["model.min_region_area"] == 0


def test_a_given_key_stays_and_the_rest_adapts() -> None:
    chosen = values(facts(), {"data.crop_size": 256})
    assert (chosen["data.crop_size"], chosen["data.batch_size"]) == (256, 4)
    flexunet = values(facts(), {"model.network": "flexunet"})
    assert (flexunet["data.crop_size"], flexunet["data.batch_size"]) == (192, 4)
    assert flexunet["model.loss"] == {"cross_entropy": 1.0, "dice": 1.0}
    assert (flexunet["model.learning_rate"], flexunet["model.normalization"]) == (2e-3, True)


def ends(found: Facts, length: Length, trial: Trial, given: Mapping[str, Any] | None = None) -> dict[str, Choice]:
    draft = Draft(found, MACHINE, given or {})
    choose(draft)
    return {choice.key: choice for choice in trainer_choices(draft, length, trial)}


def test_time_and_epochs_end_a_run() -> None:
    trial = Trial(8, 0.5, 10**9, 0)
    timed = ends(facts(), Length(time="12m"), trial)
    # 9 images of 512x512, twice, at a third of the 0.5 s for 131,072 pixels: 6 s.
    assert timed["trainer.max_time"].value == "00:00:11:39"
    assert timed["data.min_samples_per_epoch"].value == 1600
    assert ends(facts(), Length(epochs=3), trial)["trainer.max_epochs"].value == 3
    free = ends(facts(), Length(), trial)["trainer.max_epochs"]
    assert free.value == 10  # epochs of 200 steps
    assert free.reason.startswith("2,000 steps, some 18 minutes here")


def test_the_loss_chooses_where_no_validation_image_shows_a_defect() -> None:
    trial = Trial(8, 0.5, 10**9, 0)
    assert ends(facts(), Length(), trial)["monitor"].value == "val/mean_foreground_dice"
    assert ends(facts(validates=False), Length(), trial)["monitor"].value == "val/loss"


def test_a_long_validation_takes_place_less_often() -> None:
    many = facts(images={"train": 1_600, "valid": 400})
    chosen = ends(many, Length(time="2h"), Trial(8, 0.5, 10**9, 0))
    # 267 s of validation are 15 % of the time of 28,444 crops.
    assert chosen["data.min_samples_per_epoch"].value == pytest.approx(28_444, rel=0.01)


def test_a_validation_of_much_of_the_time_goes_without_tta() -> None:
    many = facts(images={"train": 1_600, "valid": 400})
    chosen = ends(many, Length(time="12m"), Trial(8, 0.5, 10**9, 0))
    assert chosen["model.tta"].value is False
    assert chosen["model.tta"].reason == "a validation would take 37% of the time, which this halves"
    # 12 minutes less 15 s and a validation of 133 s.
    assert chosen["trainer.max_time"].value == "00:00:09:32"
    assert "model.tta" not in ends(many, Length(time="2h"), Trial(8, 0.5, 10**9, 0))


def test_a_batch_that_does_not_fit_is_made_of_smaller_ones() -> None:
    chosen = ends(facts(), Length(), Trial(2, 0.5, 10**9, 2))
    assert chosen["data.batch_size"].value == 2
    assert chosen["trainer.accumulate_grad_batches"].value == 4
    assert chosen["trainer.max_epochs"].value == 10  # as many steps of 8 crops as with enough memory


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ({"time": "12"}, "--time 12 must be a number with s, m or h"),
        ({"epochs": 0}, "--epochs 0 must be 1 to"),
        ({"time": "12m", "epochs": 3}, "both end a run"),
    ],
)
def test_a_length_that_is_none(length: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Length(**length)


def test_time_and_epochs_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"--time and --trainer\.max_epochs both end a run"):
        ends(facts(), Length(time="12m"), Trial(8, 0.5, 10**9, 0), {"trainer.max_epochs": 3})
