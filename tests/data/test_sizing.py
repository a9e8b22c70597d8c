"""One rule takes an image to the working size and its mask back."""

import numpy as np
import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.sizing import Sizing


def test_stretch_ignores_the_aspect_and_masks_stay_masks() -> None:
    sizing = Sizing(4, 4, "stretch")
    mask_index = np.array([[0, 5], [7, 255], [3, 1]], dtype=np.uint8)
    fitted = sizing.fit_mask(mask_index)
    assert fitted.shape == (4, 4)
    assert set(np.unique(fitted)) <= set(np.unique(mask_index))
    assert sizing.fit_image(np.zeros((3, 2, 3), dtype=np.uint8)).shape == (4, 4, 3)
    assert sizing.restore_mask(fitted, (8, 2)).shape == (8, 2)


def test_stretch_is_bilinear_for_images() -> None:
    image = np.array([[[0], [100]]], dtype=np.uint8)
    assert Sizing(1, 4, "stretch").fit_image(image)[0, :, 0].tolist() == [0, 25, 75, 100]


def test_keep_scales_the_longest_side_and_pads_right_and_bottom() -> None:
    sizing = Sizing(8, 8, "letterbox")
    image = np.full((2, 4, 3), 9, dtype=np.uint8)
    mask_index = np.ones((2, 4), dtype=np.uint8)
    assert sizing.content_size(2, 4) == (4, 8)
    fitted = sizing.fit_mask(mask_index)
    assert (fitted[:4] == 1).all()
    assert (fitted[4:] == 255).all()
    assert (sizing.fit_image(image) == 9).all()  # padded by replication
    assert (sizing.restore_mask(fitted, (2, 4)) == mask_index).all()


def test_none_changes_nothing() -> None:
    image = np.arange(30, dtype=np.uint8).reshape(5, 2, 3)
    assert Sizing(8, 8, "none").fit_image(image) is image


@pytest.mark.parametrize("rule", ["stretch", "letterbox", "none"])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_any_number_of_channels(rule: str, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 9, channels), dtype=np.uint8)
    assert Sizing(6, 6, rule).fit_image(image).shape[2] == channels


def test_the_fourth_channel_is_no_alpha() -> None:
    image = np.full((4, 4, 4), 200, dtype=np.uint8)
    image[..., 3] = 0
    assert (Sizing(2, 2).fit_image(image)[..., :3] == 200).all()


@pytest.mark.parametrize(("arguments", "message"), [((0, 4), "at least 1"), ((4, 4, "crop"), "choose from stretch")])
def test_wrong_settings_are_told(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sizing(*arguments)
