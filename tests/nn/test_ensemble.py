"""The ensemble: its probabilities are the mean of its members', with mirror images and for whole images too."""

from typing import Any

import pytest
import torch
from torch import nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.defect_head import image_logit, logits_and_cells
from flexunet_pl.nn.ensemble import Ensemble, flipped, logits_of_mean
from flexunet_pl.nn.networks import MOST_MEMBERS, Network, build_network, flat_settings, nested_settings
from flexunet_pl.nn.tta import FlipTTA
from flexunet_pl.nn.zoo import ZooNetwork

SMALL = {"name": "flexunet", "base_filters": 2, "num_layers": 3, "dropout": 0.0}
ZOO = {"name": "unet", "encoder": "mobilenet_v2", "encoder_weights": "random", "defect_head": True}


def network(seed: int, num_classes: int = 3, settings: dict[str, Any] = SMALL) -> Network:
    torch.manual_seed(seed)
    built, _ = build_network(settings, num_classes, 3)
    if isinstance(built, ZooNetwork) and built.defect_head is not None:
        assert built.defect_head.bias is not None
        nn.init.normal_(built.defect_head.bias)  # new heads all say the same
    return built.eval()


def images(height: int = 40, width: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


@pytest.mark.parametrize(
    ("each", "mean"),
    [
        pytest.param([[0.9, 0.1], [0.5, 0.5]], [0.7, 0.3], id="two classes: (0.9 + 0.5) / 2, (0.1 + 0.5) / 2"),
        pytest.param([[0.9], [0.5]], [0.7], id="one sigmoid channel: (0.9 + 0.5) / 2"),
        pytest.param(
            [[0.6, 0.2, 0.2], [0.3, 0.6, 0.1], [0.3, 0.1, 0.6]], [0.4, 0.3, 0.3], id="two of three vote against"
        ),
        pytest.param([[1.0, 0.0], [1.0, 0.0]], [1.0, 0.0], id="certain in all of them"),
    ],
)
def test_the_mean_is_that_of_probabilities(each: list[list[float]], mean: list[float]) -> None:
    tensors = [torch.tensor(one).view(1, -1, 1, 1) for one in each]
    found = logits_of_mean([one.log() if one.shape[1] > 1 else one.logit() for one in tensors])
    assert found.isfinite().all()
    torch.testing.assert_close(probabilities(found).flatten(), torch.tensor(mean))


def test_logits_of_a_coarser_type_are_averaged_in_float32() -> None:
    logits = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1)
    assert logits_of_mean([logits.bfloat16()]).dtype == torch.float32
    assert logits_of_mean([logits.double()]).dtype == torch.float64


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("settings", [SMALL, ZOO], ids=["flexunet", "with a defect head"])
def test_an_ensemble_of_one_network_twice_is_that_network(num_classes: int, settings: dict[str, Any]) -> None:
    one = network(0, num_classes, settings)
    (expected, cells), (found, cell) = (logits_and_cells(each, images()) for each in (one, Ensemble([one, one])))
    torch.testing.assert_close(probabilities(found), probabilities(expected), atol=1e-6, rtol=0)
    assert (cell is None) == (cells is None)
    if cells is not None and cell is not None:
        torch.testing.assert_close(image_logit(cell), image_logit(cells), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tta", [False, True], ids=["plain", "with mirror images"])
def test_pixels_and_images_have_the_mean_probability_of_the_members(tta: bool) -> None:
    members = [network(seed, settings=ZOO) for seed in range(3)]
    ensemble = Ensemble(members)
    whole = flipped(ensemble) if tta else ensemble
    single = [logits_and_cells(FlipTTA(member) if tta else member, images()) for member in members]
    logits, cell = logits_and_cells(whole, images())
    torch.testing.assert_close(probabilities(logits), sum(probabilities(one) for one, _ in single) / 3)
    assert cell is not None
    says = [image_logit(cells).sigmoid() for _, cells in single if cells is not None]
    assert len({round(one[0].item(), 6) for one in says}) == 3
    torch.testing.assert_close(image_logit(cell).sigmoid(), sum(says) / 3)


def test_a_head_counts_only_if_all_members_have_one() -> None:
    ensemble = Ensemble([network(0, settings=ZOO), network(0)])
    assert ensemble.defect_head is None
    assert ensemble.logits_and_cells(images())[1] is None
    assert ensemble.size_multiple == 32  # the least common multiple of 32 and 4


def test_the_settings_build_the_ensemble_again() -> None:
    first, settings = build_network({"name": "ensemble", "members": [SMALL, {**SMALL, "base_filters": 3}]}, 3, 3)
    again, same = build_network(settings, 3, 3)
    assert same == settings
    again.load_state_dict(first.state_dict())
    assert torch.equal(again.eval()(images()), first.eval()(images()))
    # The flat keys of a command line cannot hold it, so it stays a map.
    flat = flat_settings({"network": settings})
    assert flat["network"] == settings
    assert flat["base_filters"] is None
    assert nested_settings(flat) == {"network": settings}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "ensemble"}, "model.network='ensemble'; choose from flexunet, unet"),
        ({"name": "ensemble", "members": []}, "a list of 1 to 32 maps"),
        ({"name": "ensemble", "members": [SMALL] * (MOST_MEMBERS + 1)}, "a list of 1 to 32 maps"),
        ({"name": "ensemble", "members": ["unet"]}, "a list of 1 to 32 maps"),
        ({"name": "ensemble", "members": [SMALL], "dropout": 0.1}, "must have members alone"),
        ({"name": "ensemble", "members": [{"name": "ensemble", "members": [SMALL]}]}, "is an ensemble itself"),
        ({"name": "ensemble", "members": [{"name": "unett"}]}, "did you mean 'unet'"),
    ],
)
def test_settings_of_no_ensemble_are_one_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(settings, 3, 3)
