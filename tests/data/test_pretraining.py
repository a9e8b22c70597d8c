"""The made-up surfaces for pretraining: frozen, balanced, and with defects that are where the mask says."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.synthetic.anomalies import KINDS, VISIBLE, paint_defect
from flexunet_pl.data.synthetic.materials import MATERIALS
from flexunet_pl.data.synthetic.pretraining import CLASSES, draw_picture, plan_of
from flexunet_pl.data.synthetic.surface import Scene

SIZE = (96, 96)


def test_256_pictures_show_each_kind_on_each_material_once_and_a_quarter_good() -> None:
    plans = Counter(plan_of(index) for index in range(256))
    assert len(MATERIALS) == 12
    assert len(KINDS) == 16
    assert list(CLASSES) == ["background", *KINDS]
    assert all(plans[material, kind] == 1 for material in MATERIALS for kind in KINDS)
    assert sum(count for (_, kind), count in plans.items() if kind is None) == 64


# Hashes would hold for one version of numpy and one processor alone, since the last digit of a Fourier transform is the
# library's business: so the mean level of a picture, and the pixels of its defects.
FROZEN: list[tuple[int, float, dict[str, int]]] = [
    (0, 115.94, {"darker_line": 93}),
    (1, 138.87, {"brighter_line": 130}),
    (6, 173.93, {"brighter_spot": 28}),
    (9, 155.84, {"retextured_spot": 144, "brighter_patch": 473}),
    (12, 177.04, {"brighter_strip": 290}),
    (14, 75.69, {"retextured_strip": 552}),
    (19, 82.68, {}),
    (20, 109.57, {"brighter_spot": 15, "retextured_patch": 836}),
    (26, 171.80, {"darker_spot": 222, "retextured_spot": 11}),
    (31, 116.57, {}),
    (37, 197.63, {"darker_spot": 79, "darker_patch": 839}),
    (46, 220.67, {"retextured_line": 127, "tinted_patch": 1599}),
]


@pytest.mark.parametrize(("index", "level", "pixels"), FROZEN, ids=[plan_of(index)[0] for index, _, _ in FROZEN])
def test_the_generator_is_frozen(index: int, level: float, pixels: dict[str, int]) -> None:
    image, mask_index = draw_picture(SIZE, index, seed=7)
    found = {
        CLASSES[value]: int(count) for value, count in zip(*np.unique(mask_index, return_counts=True), strict=True)
    }
    del found["background"]
    assert image.mean() == pytest.approx(level, abs=0.2)
    assert found == pytest.approx(pixels, abs=3)


def test_same_numbers_give_the_same_picture_in_whatever_order() -> None:
    first = draw_picture(SIZE, 5, seed=1)
    draw_picture(SIZE, 6, seed=1)
    second = draw_picture(SIZE, 5, seed=1)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], draw_picture(SIZE, 5, seed=2)[0])


def test_good_pictures_have_no_defect_and_nearly_all_others_their_own() -> None:
    shown = []
    for index in range(32):
        image, mask_index = draw_picture((64, 48), index, seed=3)
        assert image.shape == (64, 48, 3)
        assert image.dtype == mask_index.dtype == np.uint8
        if (kind := plan_of(index)[1]) is None:
            assert not mask_index.any()
        else:
            shown.append(CLASSES.index(kind) in mask_index)
    assert np.mean(shown) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_changes_what_its_mask_covers_and_nothing_else(kind: str) -> None:
    scene = Scene(np.random.default_rng(4), np.zeros((*SIZE, 3), dtype=np.float32), *SIZE)
    MATERIALS["concrete"](scene)
    before = scene.surface.copy()
    coverage = paint_defect(scene, kind, np.zeros(SIZE, dtype=np.float32))
    change = np.abs(np.clip(scene.surface, 0, 255) - np.clip(before, 0, 255)).max(-1)
    assert change[coverage > 0.5].mean() >= VISIBLE
    assert change[coverage == 0].max() < 1e-3


def test_a_defect_keeps_off_others() -> None:
    scene = Scene(np.random.default_rng(4), np.full((*SIZE, 3), 100, dtype=np.float32), *SIZE)
    assert not paint_defect(scene, "darker_patch", np.ones(SIZE, dtype=np.float32)).any()
    assert (scene.surface == 100).all()


@pytest.mark.parametrize(
    ("size", "index", "seed", "message"),
    [
        pytest.param((64, 31), 0, 0, r"size=\[64, 31\]", id="too small"),
        pytest.param(SIZE, -1, 0, "index=-1", id="negative index"),
        pytest.param(SIZE, 0, -1, "seed=-1", id="negative seed"),
    ],
)
def test_impossible_numbers_are_refused(size: tuple[int, int], index: int, seed: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw_picture(size, index, seed)


def test_drawing_needs_no_torch() -> None:
    code = "import sys, flexunet_pl.data.synthetic.pretraining; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
