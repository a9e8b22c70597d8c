"""Depthwise layers compute their gradients in float32 and are otherwise torch's."""

import torch
from torch import nn
from torch.nn import functional

from flexunet_pl.nn.depthwise import DepthwiseConv, speed_up_depthwise
from flexunet_pl.nn.zoo import ZooNetwork


def test_gradients_under_autocast_are_those_of_float32() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(12, 12, 5, stride=2, padding=2, groups=12)
    image = torch.randn(2, 12, 9, 11, requires_grad=True)
    weight = layer.weight
    expected = functional.conv2d(image, weight, layer.bias, 2, 2, groups=12).square().sum()
    expected_gradients = torch.autograd.grad(expected, [image, weight])
    speed_up_depthwise(layer)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(image)
    assert output.dtype == torch.float32
    for gradient, wanted in zip(
        torch.autograd.grad(output.square().sum(), [image, weight]), expected_gradients, strict=True
    ):
        torch.testing.assert_close(gradient, wanted)


def test_predictions_stay_in_bf16_and_other_layers_stay_torchs() -> None:
    layers = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 1))
    names = list(layers.state_dict())
    speed_up_depthwise(layers)
    assert [type(layer) for layer in layers] == [DepthwiseConv, nn.Conv2d, nn.Conv2d]
    assert list(layers.state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        assert layers.eval()[0](torch.zeros(1, 4, 8, 8)).dtype == torch.bfloat16


def test_the_default_network_has_them() -> None:
    layers = [module for module in ZooNetwork("unet", 3).modules() if isinstance(module, DepthwiseConv)]
    assert len(layers) == 16
    assert {layer.stride for layer in layers} == {(1, 1), (2, 2)}
