"""Offline augmentation: the original's files, names that lead back to their source, nothing that depends on order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.augment import PRESETS, Planes
from flexunet_pl.data.augment.offline import offline_name, offline_samples, offline_variants
from flexunet_pl.data.sources import source_of


def pair() -> Planes:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 32, 32), dtype=np.uint8), rng.integers(0, 3, (32, 32), dtype=np.uint8)


def prefixes(spec: dict[str, Any], copies: int = 0) -> list[str]:
    return [variant.prefix for variant in offline_variants(spec, copies)]


def test_the_preset_makes_the_files_of_the_original() -> None:
    assert prefixes({"preset": "flexunet"}) == [
        "rotated_90",
        "rotated_180",
        "rotated_270",
        "shrinked_0.8",
        "barrdistorted_1001_0.5_0.5",
        "pincdistorted_1001_0.5_-0.5",
        "deformed_alpha_1300_sigmoid_8",
        "distorted_0.02_rsigma0.5_sigma40",
        "hflipped",
        "vflipped",
        "brightened_1.2_10",
        "sharpened_1.0",
    ]


def test_the_names_of_the_public_tile_data_come_out() -> None:
    centers = [[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.7, 0.7]]
    spec = {
        "barrdistortion": {"radius": 0.3, "amount": 0.3, "centers": centers},
        "deformation": {"sigmoids": [7]},
        "distortion": {"distortions": [0.03]},
        "shear": {"shears": [0.2, -0.1]},
    }
    names = [offline_name(prefix, "crack_16") for prefix in prefixes(spec)]
    assert names == [
        "sheared_0.2_crack_16",
        "sheared_-0.1_crack_16",
        *(f"barrdistorted_{number}_0.3_0.3_crack_16" for number in range(1001, 1006)),
        "deformed_alpha_1300_sigmoid_7_crack_16",
        "distorted_0.03_rsigma0.5_sigma40_crack_16",
    ]


@pytest.mark.parametrize("source", ["crack_16", "000", "a.b-c", "10_5"])
def test_every_name_leads_back_to_its_source(source: str) -> None:
    spec = {"preset": "flexunet", "shear": {"p": 1, "shears": [0, 0.25, -0.5]}, "sharpen": {"p": 1, "k": 2}}
    for variant in offline_variants(spec, copies=12):
        name = offline_name(variant.prefix, source)
        assert source_of(name) == source
        assert source_of(offline_name("hflipped", name)) == source


def test_names_of_real_files_lead_back_to_the_sources(shared_dir: Path) -> None:
    names = [path.stem for path in (shared_dir / "data" / "mvtec-tile-mini").glob("*/images/*.png")]
    ours = set(prefixes({"barrel": {"radius": 0.3, "amount": 0.3, "centers": [[0.5, 0.5]] * 5}}))
    assert len(names) >= 24
    for name in names:
        assert name.removesuffix(source_of(name)).removesuffix("_") in ours


def test_each_variant_is_one_transform_whatever_its_probability() -> None:
    image, mask = pair()
    variants = offline_variants({"hflip": 0.01, "rotation": {"p": 0.01, "angles": [90, 180]}})
    made = {name: (new_image, new_mask) for name, new_image, new_mask in offline_samples("x", image, mask, variants, 0)}
    assert list(made) == ["rotated_90_x", "rotated_180_x", "hflipped_x"]
    np.testing.assert_array_equal(made["hflipped_x"][1], mask[:, ::-1])
    np.testing.assert_array_equal(made["rotated_90_x"][0], np.rot90(image, axes=(1, 2)))
    np.testing.assert_array_equal(made["rotated_180_x"][1], np.rot90(mask, 2))


def test_each_centre_has_its_own_file() -> None:
    image, mask = pair()
    variants = offline_variants({"barrel": {"radius": 0.3, "centers": [[0.25, 0.25], [0.75, 0.75]]}})
    first, second = (new_image for _, new_image, _ in offline_samples("x", image, mask, variants, 0))
    assert (first[:, :16, :16] != image[:, :16, :16]).any()
    np.testing.assert_array_equal(first[:, 20:, 20:], image[:, 20:, 20:])
    assert (second[:, 16:, 16:] != image[:, 16:, 16:]).any()


def test_copies_get_all_transforms_and_differ() -> None:
    image, mask = pair()
    spec = {"preset": "full", "mosaic": False, "copy_paste": False}
    variants = offline_variants(spec, copies=3)
    copies = [variant for variant in variants if variant.prefix.startswith("augmented_")]
    assert [variant.prefix for variant in copies] == ["augmented_1", "augmented_2", "augmented_3"]
    made = [new_image.tobytes() for _, new_image, _ in offline_samples("x", image, mask, copies, 0)]
    assert len(set(made)) == 3


def test_random_numbers_follow_from_seed_and_name_alone() -> None:
    image, mask = pair()
    variants = offline_variants({"preset": "flexunet"}, copies=2)
    forward = {name: new.tobytes() for name, new, _ in offline_samples("x", image, mask, variants, 1)}
    backward = {name: new.tobytes() for name, new, _ in offline_samples("x", image, mask, variants[::-1], 1)}
    other_seed = {name: new.tobytes() for name, new, _ in offline_samples("x", image, mask, variants, 2)}
    assert forward == backward
    assert forward["deformed_alpha_1300_sigmoid_8_x"] != other_seed["deformed_alpha_1300_sigmoid_8_x"]


@pytest.mark.parametrize(
    ("spec", "copies", "message"),
    [
        pytest.param({"preset": "full"}, 0, "several sources could leak", id="mixing"),
        pytest.param({"hflip": 1, "crop": 0.5}, 0, "keeps the size", id="crop"),
        pytest.param({"gamma": 1}, 0, "none of gamma gives an offline file of its own", id="no name and no copies"),
        pytest.param({"hflip": 1}, -1, "copies=-1", id="negative copies"),
        pytest.param(None, 0, "ask for copies", id="nothing"),
    ],
)
def test_what_cannot_be_made_offline(spec: dict[str, Any] | None, copies: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        offline_variants(spec, copies)


def test_the_preset_has_the_defaults_of_the_original() -> None:
    preset = {
        name: {key: value for key, value in entry.items() if key != "p"} for name, entry in PRESETS["flexunet"].items()
    }
    assert preset == {
        "hflip": {},
        "vflip": {},
        "rotation": {"angles": [90, 180, 270]},
        "shrink": {"shrinks": [0.8]},
        "shear": {"shears": []},
        "elastic": {"alpha": 1300, "sigmoids": [8]},
        "smooth_noise": {"gaussian_filter_rsigma": 40, "gaussian_filter_sigma": 0.5, "distortions": [0.02]},
        "sharpen": {"k": 1.0},
        "brightening": {"alpha": 1.2, "beta": 10},
        "barrel": {"radius": 0.5, "amount": 0.5, "centers": [[0.5, 0.5]]},
        "pincushion": {"radius": 0.5, "amount": -0.5, "centers": [[0.5, 0.5]]},
    }
