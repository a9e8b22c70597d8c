"""The drift score on features small enough to compute by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.drift import (
    POWER,
    DriftScore,
    DriftStatistics,
    chosen_stages,
    greedy_coreset,
    image_distance,
    pooled,
    whitening,
)
from flexunet_pl.nn.ensemble import Ensemble, flipped
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings
from flexunet_pl.nn.networks import build_network
from flexunet_pl.nn.stages import outputs_of
from flexunet_pl.nn.zoo import ZooNetwork

# Two channels, projected by (1, 0), (0, 2), with a bank of the patches (0, 0) and (3, 4), and a border at 2.
TOY = DriftStatistics(
    stages=(0,),
    strides=(1,),
    projection=np.array([[1, 0], [0, 2]], np.float32),
    offset=np.array([1, 0], np.float32),
    bank=np.array([[0, 0], [3, 4]], np.float32),
    threshold=2.0,
)


@pytest.mark.parametrize(
    ("cell", "distance"),
    [
        pytest.param((1, 0), 0.001**0.5, id="the patch (0, 0) is in the bank"),
        pytest.param((4, 2), 0.001**0.5, id="the patch (3, 4) is in the bank"),
        pytest.param((2, 0), 1.0, id="(1, 0) is 1 from (0, 0)"),
        pytest.param((4, 0), 3.0, id="(3, 0) is 3 from (0, 0), 4 from (3, 4)"),
        pytest.param((4, 5), 6.0, id="(3, 10) is 6 from (3, 4)"),
    ],
)
def test_the_distance_to_the_nearest_patch(cell: tuple[float, float], distance: float) -> None:
    stage = torch.tensor(cell, dtype=torch.float32).view(1, 2, 1, 1)
    score = DriftScore(TOY)
    assert score.distances([stage]).tolist() == [[[pytest.approx(distance, abs=1e-3)]]]
    assert score([stage]).tolist() == [pytest.approx(distance / 2, abs=1e-3)]


def test_an_image_lies_between_the_mean_and_the_farthest_patch() -> None:
    # One patch at 2, fifteen at 0: 2 * (1 / 16) ** (1 / 16).
    one = torch.zeros(1, 16)
    one[0, 3] = 2
    assert image_distance(one).item() == pytest.approx(2 * (1 / 16) ** (1 / POWER))
    assert image_distance(torch.full((2, 7), 3.0)).tolist() == [pytest.approx(3.0)] * 2
    assert image_distance(torch.zeros(1, 4)).item() == 0
    assert image_distance(torch.full((1, 4), 1e30)).item() == pytest.approx(1e30), "no power overflows"


def test_a_cell_is_the_mean_of_its_neighbours_and_coarse_cells_are_repeated() -> None:
    fine, coarse = torch.zeros(1, 1, 4, 4), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    fine[0, 0, 0, 0] = 12
    near, repeated = pooled([fine, coarse], (8, 16))
    # A corner has 4 cells in its neighbourhood, an edge 6, an inner cell 9.
    assert near[0, 0, :3, :3].tolist() == [[3, 2, 0], [2, pytest.approx(12 / 9), 0], [0, 0, 0]]
    assert repeated[0, 0].tolist() == [[2.5] * 4] * 4


def test_the_coreset_takes_the_farthest_in_turn() -> None:
    patches = np.array([[0, 0], [1, 0], [10, 0], [9, 0], [5, 0]], np.float32)
    # The mean is 5, from which 0 and 10 are equally far: the first counts. Then 10, then the middle.
    assert greedy_coreset(patches, 3).tolist() == [[0, 0], [10, 0], [5, 0]]
    assert greedy_coreset(patches, 9) is patches


def test_whitened_features_have_unit_variance_but_for_what_is_added() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(5000, 3)) * (10, 1, 0.001) + 7).astype(np.float32)
    projection, mean = whitening(features, 2)
    white = (features - mean) @ projection
    assert projection.shape == (3, 2)
    assert abs(white.mean(0)).max() < 1e-3
    # A tenth of the mean variance of both, (100 + 1) / 2, is added to each: 100 / 105 and 1 / 6.
    assert white.var(0).tolist() == [pytest.approx(100 / 105.05, rel=0.02), pytest.approx(1 / 6.05, rel=0.06)]


def test_stages_with_the_wanted_strides_or_else_the_coarsest() -> None:
    stages = [torch.zeros(1, channels, 64 // stride, 64 // stride) for stride, channels in ((2, 4), (8, 0), (8, 6))]
    assert chosen_stages([*stages, torch.zeros(1, 9, 4, 4)], 64) == ((2, 3), (8, 16))
    assert chosen_stages([*stages[:2], torch.zeros(1, 9, 16, 16)], 64) == ((0, 2), (2, 4))
    with pytest.raises(UserError, match="no features in rows and columns"):
        chosen_stages([], 64)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"threshold": 0.0}, id="no border"),
        pytest.param({"strides": (1, 2)}, id="a stride too many"),
        pytest.param({"bank": np.zeros((0, 2), np.float32)}, id="an empty bank"),
        pytest.param({"bank": np.zeros((3, 5), np.float32)}, id="a bank of another size"),
        pytest.param({"offset": np.array([np.nan, 0], np.float32)}, id="not a number"),
        pytest.param({"stages": (-1,)}, id="a stage before the first"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fit|values|strides"):
        replace(TOY, **changes)  # type: ignore[arg-type]  # wrong on purpose


def test_the_statistics_are_in_no_state_dict() -> None:
    assert DriftScore(TOY).state_dict() == {}


def test_networks_give_the_stages_of_the_image_as_it_is() -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 40, 70), dtype=torch.uint8)
    networks = [
        FlexUNet(3, settings=FlexUNetSettings(base_filters=4, base_kernel=3, num_layers=3)).eval(),
        build_network({"name": "unet", "encoder": "tu-test_resnet", "encoder_weights": "random"}, 3, 3)[0].eval(),
    ]
    with torch.inference_mode():
        for network in networks:
            logits, _, stages = outputs_of(network, image)
            torch.testing.assert_close(network(image), logits)
            mirrored = outputs_of(flipped(network), image).stages
            whole = outputs_of(Ensemble([network, networks[0]]), image).stages
            assert len(stages) > 2
            for stage, mirror, first in zip(stages, mirrored, whole, strict=True):
                torch.testing.assert_close(stage, mirror)
                torch.testing.assert_close(stage, first)


def test_a_network_whose_features_are_tokens_has_no_stages() -> None:
    network, _ = build_network({"name": "unet", "encoder": "tu-test_resnet", "encoder_weights": "random"}, 2, 3)
    assert isinstance(network, ZooNetwork)
    network.has_bottleneck, network.defect_head = False, None  # as dpt
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with torch.inference_mode():
        assert outputs_of(network.eval(), image).stages == []
