"""The network follows the rules of the original."""

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.flexunet import ACTIVATIONS, FlexUNet, FlexUNetSettings, pad_to_multiple


def convolutions(network: FlexUNet) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def test_levels_taper_and_grow_as_the_original() -> None:
    network = FlexUNet(
        6, settings=FlexUNetSettings(base_filters=2, base_kernel=9, num_layers=5, dropout=0.04, dilation=3)
    )
    blocks = convolutions(network)[:10:2]  # the first convolution of each encoder level and of the bridge
    assert [conv.out_channels for conv in blocks] == [2, 4, 8, 16, 32]
    assert [conv.kernel_size[0] for conv in blocks] == [9, 7, 5, 3, 3]
    assert [conv.dilation[0] for conv in blocks] == [3, 2, 1, 1, 1]
    dropouts = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert dropouts == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.12, 0.08, 0.04, 0])


def test_order_inside_a_block() -> None:
    block = FlexUNet(2, settings=FlexUNetSettings(num_layers=2, normalization=True)).bridge
    kinds = [type(layer).__name__ for layer in block]
    assert kinds == ["Conv2d", "ReLU", "BatchNorm2d", "Dropout", "Conv2d", "ReLU", "BatchNorm2d"]
    norm = block[2]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.eps == 1e-3
    assert norm.momentum == 0.01


def test_group_norm_takes_the_place_of_batch_norm_and_looks_at_one_image_alone() -> None:
    network = FlexUNet(2, settings=FlexUNetSettings(base_filters=4, num_layers=3, dropout=0.0, normalization="group"))
    assert [type(layer).__name__ for layer in network.bridge][2] == "GroupNorm"
    groups = {(layer.num_channels, layer.num_groups) for layer in network.modules() if isinstance(layer, nn.GroupNorm)}
    assert groups == {(4, 4), (8, 8), (16, 8)}
    network.eval()
    one, bright = torch.rand(1, 3, 16, 16) * 50, torch.rand(1, 3, 16, 16) * 255
    torch.testing.assert_close(network(torch.cat([one, bright]))[:1], network(one))
    torch.testing.assert_close(network(torch.cat([one, bright])), network.train()(torch.cat([one, bright])))
    with pytest.raises(UserError, match="normalization='layer'; choose from false, true"):
        FlexUNet(2, settings=FlexUNetSettings(normalization="layer"))


def test_the_published_tile_network_has_its_published_number_of_weights() -> None:
    with torch.device("meta"):
        network = FlexUNet(6, settings=FlexUNetSettings(base_filters=16, base_kernel=9, num_layers=8))
    assert sum(parameter.numel() for parameter in network.parameters()) == 124_996_934


@pytest.mark.parametrize("num_layers", [1, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 30), (33, 16)])
def test_any_size_goes_in_and_comes_out(num_layers: int, height: int, width: int) -> None:
    network = FlexUNet(3, settings=FlexUNetSettings(base_filters=2, base_kernel=3, num_layers=num_layers)).eval()
    assert network(torch.zeros(2, 3, height, width, dtype=torch.uint8)).shape == (2, 3, height, width)


def test_padding_repeats_the_last_row_and_column() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    expected = [[1, 2, 2, 2], [3, 4, 4, 4], [5, 6, 6, 6], [5, 6, 6, 6]]
    assert pad_to_multiple(image, 4)[0, 0].tolist() == expected


@pytest.mark.parametrize("in_channels", [1, 3, 4, 7])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_channels_and_activations(in_channels: int, activation: str) -> None:
    network = FlexUNet(
        2, in_channels, settings=FlexUNetSettings(base_filters=2, base_kernel=3, num_layers=2, activation=activation)
    )
    network(torch.rand(1, in_channels, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_input_normalize_divides_by_255() -> None:
    plain = FlexUNet(2, settings=FlexUNetSettings(base_filters=2, num_layers=2)).eval()
    scaling = FlexUNet(2, settings=FlexUNetSettings(base_filters=2, num_layers=2, input_normalize=True)).eval()
    scaling.load_state_dict(plain.state_dict())
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(scaling(image), plain(image.float() / 255))


def test_initialisers_are_those_of_keras() -> None:
    torch.manual_seed(0)
    network = FlexUNet(6, settings=FlexUNetSettings(base_filters=16, base_kernel=9, num_layers=3))
    conv = convolutions(network)[2]
    he = math.sqrt(2 / (16 * 7 * 7))
    assert conv.weight.std().item() == pytest.approx(he, rel=0.02)
    # Truncated at two standard deviations of the normal before truncation, 1/0.8796 of the one after.
    assert conv.weight.abs().max().item() == pytest.approx(2 * he / 0.8796, rel=0.02)
    up = next(layer for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d))
    limit = math.sqrt(6 / (4 * (64 + 32)))
    assert up.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert up.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert network.head.weight.abs().max().item() <= math.sqrt(6 / (16 + 6))
    assert all(layer.bias is not None and not layer.bias.any() for layer in convolutions(network))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"num_classes": 0}, "num_classes=0 must be at least 1", id="no class"),
        pytest.param({"num_layers": 0}, "num_layers=0 must be at least 1", id="no level"),
        pytest.param({"base_filters": 0}, "base_filters=0 must be at least 1", id="no filter"),
        pytest.param({"dilation": 0}, "dilation=0 must be at least 1", id="no dilation"),
        pytest.param(
            {"dropout": 0.2}, r"dropout=0.2 grows to 1 at level 5 .* try 0.18 or less", id="dropout reaches 1"
        ),
        pytest.param({"dropout": -0.1}, "dropout=-0.1", id="negative dropout"),
        pytest.param({"activation": "rellu"}, "did you mean 'relu'", id="unknown activation"),
    ],
)
def test_invalid_settings_fail_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FlexUNet.from_arguments({"num_classes": 6} | settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("A", {"base_kernel": 9, "num_layers": 5}),
        ("B", {"base_kernel": 5, "num_layers": 4, "dilation": 3, "normalization": True}),
    ],
)
def test_forward_parity_with_the_original(shared_dir: Path, name: str, settings: dict[str, Any]) -> None:
    network = FlexUNet(6, settings=FlexUNetSettings(base_filters=8, **settings)).eval()
    copy_weights(shared_dir / "golden" / f"{name}_weights.h5", network)
    images = np.load(shared_dir / "golden" / f"{name}_input.npz")["images"]
    expected = np.load(shared_dir / "golden" / f"{name}_output.npz")["probs"]
    with torch.no_grad():
        probabilities = network(torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(1).permute(0, 2, 3, 1).numpy()
    assert np.abs(probabilities - expected).max() < 5e-6
    assert (probabilities.argmax(-1) == expected.argmax(-1)).all()


def copy_weights(path: Path, network: FlexUNet) -> None:
    """Copy a weights-only .h5 file layer by layer: both sides are in the order of creation."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d)]
    with h5py.File(path) as file:
        groups = [file[name] for name in file.attrs["layer_names"] if len(file[name].attrs["weight_names"])]
        for group, layer in zip(groups, layers, strict=True):
            arrays = [torch.from_numpy(group[name][()]) for name in group.attrs["weight_names"]]
            targets = [layer.weight, layer.bias, *layer.buffers()][: len(arrays)]
            for array, target in zip(arrays, targets, strict=True):
                assert target is not None
                target.data.copy_(array.permute(3, 2, 0, 1) if array.ndim == 4 else array)
