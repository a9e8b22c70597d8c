"""Photometric augmentation: worked numbers, any number of channels, and a mask that stays as it is."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flexunet_pl.data.augment import TRANSFORMS, build_augmentation
from flexunet_pl.data.augment.filters import Blur, CoarseDropout, Jpeg, Noise, Sharpen
from flexunet_pl.data.augment.kinds import Color, Filter, Tone
from flexunet_pl.data.augment.photometric import Brightening, Brightness, Contrast, Gamma, Hue, Saturation

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
PHOTOMETRIC = [name for name, kind in TRANSFORMS.items() if issubclass(kind, Tone | Color | Filter)]


class FixedDraws(np.random.Generator):
    """Draws the upper end of every uniform interval."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:  # noqa: ARG002
        return high


def grainy(channels: int, height: int = 40, width: int = 50) -> UInt8Array:
    return np.random.default_rng(0).integers(0, 256, (channels, height, width), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_the_mask_stays_and_the_image_changes(name: str, channels: int) -> None:
    image, mask = grainy(channels), np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
    before = image.copy()
    new_image, new_mask = build_augmentation({name: 1})(image, mask, np.random.default_rng(2))
    np.testing.assert_array_equal(new_mask, mask)
    np.testing.assert_array_equal(image, before)
    assert new_image.shape == image.shape
    assert new_image.dtype == np.uint8
    if issubclass(TRANSFORMS[name], Color) and channels != 3:
        np.testing.assert_array_equal(new_image, image)
    else:
        assert (new_image != image).any()


@pytest.mark.parametrize(
    ("tone", "mean", "level", "expected"),
    [
        pytest.param(Brightness(limit=0.2), 0, 100, 120, id="brightness: 100 * 1.2"),
        pytest.param(Brightening(), 0, 100, 130, id="brightening of the original: 1.2 * 100 + 10"),
        pytest.param(Contrast(limit=0.5), 80, 100, 110, id="contrast: 80 + 1.5 * (100 - 80)"),
        pytest.param(Contrast(limit=0.5), 80, 60, 50, id="contrast: 80 + 1.5 * (60 - 80)"),
        pytest.param(Gamma(exponent=(2, 2)), 0, 51, 10.2, id="gamma: 255 * (51 / 255) ** 2"),
        pytest.param(Gamma(exponent=(0.5, 0.5)), 0, 255, 255, id="gamma: white stays white"),
    ],
)
def test_tones(tone: Tone, mean: float, level: int, expected: float) -> None:
    curve = tone.curve(np.arange(256, dtype=np.float64), mean, FixedDraws())
    assert curve[level] == pytest.approx(expected)


def test_tones_are_composed_before_they_are_rounded_and_cut_off() -> None:
    image = np.full((1, 4, 4), 200, dtype=np.uint8)
    mask = np.zeros((4, 4), dtype=np.uint8)
    # 200 * 2 = 400 is beyond white; the second step brings it back to 400 * 0.5 + 3 instead of 255 * 0.5 + 3.
    brightened = Brightening(alpha=(2, 2), beta=(0, 0)).curve(np.arange(256.0), 0, np.random.default_rng(0))
    assert brightened[200] == 400
    spec = {"brightening": {"p": 1, "alpha": 0.4, "beta": 0.3}, "contrast": {"p": 1, "limit": 0}}
    assert build_augmentation(spec)(image, mask, np.random.default_rng(0))[0].max() == 80


def test_contrast_stretches_about_the_mean_of_the_image() -> None:
    image = np.array([50, 150], dtype=np.uint8).repeat(32).reshape(1, 2, 32).repeat(16, axis=1)
    mask = np.zeros((32, 32), dtype=np.uint8)
    new_image = build_augmentation({"contrast": 1})(image, mask, np.random.default_rng(3))[0]
    low, high = int(new_image.min()), int(new_image.max())
    assert low + high == pytest.approx(200, abs=1)
    assert high - low != 100


def applied(color: Color, rgb: list[float], rng: np.random.Generator) -> FloatArray:
    result: FloatArray = color.matrix(rng) @ np.array(rgb)
    return result


def test_saturation_moves_colours_away_from_their_own_grey() -> None:
    # The luma of (100, 50, 0) is 0.299 * 100 + 0.587 * 50 = 59.25.
    np.testing.assert_allclose(
        applied(Saturation(limit=0.5), [100, 50, 0], FixedDraws()), [120.375, 45.375, -29.625], atol=1e-9
    )
    np.testing.assert_allclose(applied(Saturation(limit=1), [80, 80, 80], FixedDraws()), 80)


def test_hue_turns_colours_and_keeps_grey_and_luma() -> None:
    luma = np.array([0.299, 0.587, 0.114])
    turned = applied(Hue(limit=0.1), [200, 100, 50], FixedDraws())
    assert luma @ turned == pytest.approx(luma @ [200, 100, 50], abs=1e-6)
    assert abs(turned - [200, 100, 50]).max() > 20
    np.testing.assert_allclose(applied(Hue(limit=0.3), [90, 90, 90], FixedDraws()), 90, atol=0.1)
    half_turn = Hue(limit=0.5).matrix(FixedDraws())
    np.testing.assert_allclose(half_turn @ half_turn, np.eye(3), atol=1e-9)


def test_blur_is_a_gaussian_of_its_sigma() -> None:
    image = np.zeros((2, 31, 31), dtype=np.uint8)
    image[:, 15, 15] = 255
    blurred = Blur(sigma=(1.5, 1.5)).filter(image, np.random.default_rng(0))
    # The peak of a Gaussian of sigma 1.5 is 255 / (2 * pi * 1.5 ** 2) = 18.04.
    assert blurred[0, 15, 15] == 18
    assert blurred[1, 15, 17] == round(18.04 * math.exp(-0.5 * (2 / 1.5) ** 2))
    flat = np.full((1, 9, 9), 77, dtype=np.uint8)
    np.testing.assert_array_equal(Blur(sigma=(2, 2)).filter(flat, np.random.default_rng(0)), flat)


def test_sharpen_is_the_kernel_of_the_original() -> None:
    image = np.full((1, 5, 5), 100, dtype=np.uint8)
    image[0, 2, 2] = 110
    sharpened = Sharpen(k=(1, 1)).filter(image, np.random.default_rng(0))
    assert sharpened[0, 2, 2] == 190  # (1 + 8) * 110 - 8 * 100
    assert sharpened[0, 1, 1] == 90  # 9 * 100 - 7 * 100 - 110
    assert sharpened[0, 0, 0] == 100  # untouched, and the edge repeats


def test_noise_has_its_standard_deviation_and_no_bias() -> None:
    image = np.full((3, 200, 200), 128, dtype=np.uint8)
    noise = Noise(sigma=(8, 8)).filter(image, np.random.default_rng(0)).astype(float) - 128
    assert noise.std() == pytest.approx(8, rel=0.02)
    assert abs(noise.mean()) < 0.1
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_of_high_quality_is_close_and_of_low_quality_less_so(channels: int) -> None:
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    image = np.stack([ramp + np.uint8(10 * channel) for channel in range(channels)])
    rng = np.random.default_rng(0)
    error = {
        quality: np.abs(Jpeg(quality=(quality, quality)).filter(image, rng).astype(int) - image).mean()
        for quality in (5, 95)
    }
    assert error[95] < 1.5
    assert error[5] > error[95]


def test_coarse_dropout_covers_its_share_with_the_mean_colour() -> None:
    image = np.arange(100, dtype=np.uint8)[None, :, None].repeat(3, axis=0).repeat(200, axis=2)
    covered = CoarseDropout(holes=(1, 1), size=(0.1, 0.1)).filter(image, np.random.default_rng(0))
    changed = (covered != image).all(axis=0)
    assert changed.sum() in (9 * 20, 10 * 20)  # a row that already has the mean colour does not change
    assert set(covered[:, changed].ravel().tolist()) == {48}  # of the rows 0, 4 .. 96
