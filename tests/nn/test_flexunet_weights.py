"""Pretrained weights of FlexUNet: all but the head is loaded, and other networks are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings
from flexunet_pl.nn.flexunet_weights import load_pretrained
from flexunet_pl.nn.networks import build_network

SETTINGS = {"base_filters": 4, "base_kernel": 5, "num_layers": 3, "normalization": True, "input_normalize": True}


def network_of(num_classes: int = 3, in_channels: int = 3, seed: int = 0, **changes: Any) -> FlexUNet:
    torch.manual_seed(seed)
    return FlexUNet(num_classes, in_channels, FlexUNetSettings(**{**SETTINGS, **changes}))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Return a file as benchmarks/pretrain.py writes it, of a network with 7 classes."""
    network = network_of(7, seed=1)
    half = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    settings = {key: value for key, value in network.arguments.items() if key != "num_classes"}
    save_file(half, tmp_path / "weights.safetensors", {"network": json.dumps(settings)})
    return tmp_path / "weights.safetensors"


def test_everything_but_the_head_is_loaded(weights: Path) -> None:
    network, source = network_of(3), network_of(7, seed=1).state_dict()
    head = network.head.weight.clone()
    load_pretrained(network, str(weights))
    assert torch.equal(network.head.weight, head)
    for key, value in network.state_dict().items():
        if not key.startswith("head."):
            assert torch.equal(value, source[key].half().to(value.dtype)), key
            assert value.dtype == source[key].dtype


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 6])
def test_grey_images_look_the_same_to_a_network_of_other_channels(weights: Path, channels: int) -> None:
    colour, other = network_of(3).eval(), network_of(3, channels).eval()
    for network in (colour, other):
        load_pretrained(network, str(weights))
    other.head.load_state_dict(colour.head.state_dict())
    grey = torch.randint(0, 256, (1, 1, 32, 32)).float()
    expected, found = colour(grey.expand(1, 3, 32, 32)), other(grey.expand(1, channels, 32, 32))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_checkpoint_is_a_source_too(tiny_checkpoint: Path) -> None:
    settings = {"name": "flexunet", "base_filters": 4, "base_kernel": 3, "num_layers": 3}
    network, _ = build_network({**settings, "pretrained": str(tiny_checkpoint)}, 2, 3)
    source = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(network.state_dict()["bridge.0.weight"], source["network.bridge.0.weight"])


def test_what_builds_the_network_again_names_no_file(weights: Path) -> None:
    network, settings = build_network({"name": "flexunet", **SETTINGS, "pretrained": str(weights)}, 3, 3)
    weights.unlink()
    again, _ = build_network(settings, 3, 3)
    assert isinstance(network, FlexUNet)
    assert "pretrained" not in settings.keys() | network.arguments.keys()
    again.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"base_filters": 8}, "base_filters=8 instead of 4", id="filters"),
        pytest.param({"base_kernel": 3}, "base_kernel=3 instead of 5", id="kernel"),
        pytest.param({"num_layers": 4}, "num_layers=4 instead of 3; use --model.num_layers 3,", id="levels"),
        pytest.param({"normalization": False}, "normalization=false instead of true", id="no normalization"),
        pytest.param({"normalization": "group"}, "normalization=group instead of true", id="other normalization"),
        pytest.param({"activation": "gelu"}, "activation=gelu instead of relu", id="activation"),
        pytest.param({"dilation": 2}, "dilation=2 instead of 1", id="dilation"),
        pytest.param(
            {"input_normalize": False, "base_kernel": 7},
            "use --model.base_kernel 5 --model.input_normalize true, or",
            id="two settings",
        ),
    ],
)
def test_weights_of_other_settings_are_refused_with_the_repair(
    weights: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_pretrained(network_of(**changes), str(weights))
    assert named in str(caught.value)


def test_dropout_may_differ(weights: Path) -> None:
    load_pretrained(network_of(dropout=0.1), str(weights))


def test_without_metadata_the_shapes_tell_the_settings(tmp_path: Path) -> None:
    torch.save(network_of(3, normalization="group").state_dict(), tmp_path / "group.pth")
    load_pretrained(network_of(3, normalization="group"), str(tmp_path / "group.pth"))
    with pytest.raises(UserError, match="normalization=true instead of group"):
        load_pretrained(network_of(3), str(tmp_path / "group.pth"))


@pytest.mark.parametrize(
    ("pretrained", "message"),
    [
        pytest.param("surface", "this file does not exist", id="a name"),
        pytest.param("gone/weights.safetensors", "does not exist", id="no file"),
    ],
)
def test_weights_that_are_not_there(pretrained: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_pretrained(network_of(), pretrained)


def test_files_of_something_else(tmp_path: Path, weights: Path) -> None:
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds no FlexUNet"):
        load_pretrained(network_of(), str(tmp_path / "other.safetensors"))
    (tmp_path / "damaged.safetensors").write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read"):
        load_pretrained(network_of(), str(tmp_path / "damaged.safetensors"))


def test_another_network_has_no_such_key() -> None:
    with pytest.raises(UserError, match=r"model\.pretrained=a\.pth: no setting of model\.network=unet"):
        build_network({"name": "unet", "pretrained": "a.pth"}, 3, 3)
