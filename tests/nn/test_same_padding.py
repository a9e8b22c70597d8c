"""Constant padding gives what timm's padding by size gives, and can be exported."""

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import nn

from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.export.verify import ZOO_TOLERANCE, verify_onnx
from flexunet_pl.nn.same_padding import fix_same_padding
from flexunet_pl.nn.zoo import ZooNetwork, ZooSettings

FIXED = nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, StdConv2dSame, ScaledStdConv2dSame, CondConv2d


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "expected"),
    [
        pytest.param(1, 2, 1, [0, 0, 0, 0], id="1 pixel: none"),
        pytest.param(2, 1, 1, [0, 1, 0, 1], id="2 - 1 = 1, after the image"),
        pytest.param(3, 2, 1, [0, 1, 0, 1], id="3 - 2 = 1"),
        pytest.param(5, 2, 1, [1, 2, 1, 2], id="5 - 2 = 3"),
        pytest.param(3, 2, 2, [1, 2, 1, 2], id="2 * 2 + 1 - 2 = 3"),
        pytest.param((7, 3), (4, 1), 1, [1, 1, 1, 2], id="7 - 4 = 3 in height, 3 - 1 = 2 in width"),
    ],
)
def test_padding_follows_from_kernel_stride_and_dilation(
    kernel: Any, stride: Any, dilation: int, expected: list[int]
) -> None:
    layer = nn.Sequential(Conv2dSame(3, 4, kernel, stride, dilation=dilation))
    image = torch.rand(2, 3, 24, 16)
    before = layer(image)
    fix_same_padding(layer)
    (hook,) = layer[0]._forward_pre_hooks.values()
    assert isinstance(hook, partial)
    assert hook.keywords["padding"] == expected
    assert torch.equal(layer(image), before)


@pytest.mark.parametrize(
    "build",
    [
        partial(StdConv2dSame, 3, 4, 3, 2),
        partial(ScaledStdConv2dSame, 3, 4, 5, 2),
        partial(MaxPool2dSame, 3, 2),
        partial(AvgPool2dSame, 3, 2),
        partial(CondConv2d, 3, 4, 3, 2, padding="same", num_experts=2),
    ],
    ids=lambda build: build.func.__name__,
)
def test_all_layers_that_pad_so_are_fixed(build: Any) -> None:
    layer = build()
    inputs = (-torch.rand(2, 3, 8, 12), *([torch.rand(2, 2)] if isinstance(layer, CondConv2d) else []))
    before = layer(*inputs)
    fix_same_padding(layer)
    assert layer._forward_pre_hooks
    assert torch.equal(layer(*inputs), before)
    fix_same_padding(layer)
    assert len(layer._forward_pre_hooks) == 1


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_mobilenetv3_small_100", "tf_mixnet_s"])
def test_features_and_names_of_weights_stay(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True).eval()
    fixed = copy.deepcopy(model)
    fix_same_padding(fixed)
    assert fixed.state_dict().keys() == model.state_dict().keys()
    with torch.inference_mode():
        for height, width in ((32, 64), (96, 32), (160, 224)):
            image = torch.randn(1, 3, height, width)
            assert all(map(torch.equal, fixed(image), model(image)))


@pytest.mark.full
@pytest.mark.parametrize("name", timm.list_models(["tf_*", "dm_nfnet*", "efficientnet_*", "mobilenetv5*"]))
def test_layers_get_multiples_of_their_strides(name: str) -> None:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name, features_only=True).eval()

    def check(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        assert all(side % stride == 0 for side, stride in zip(inputs[0].shape[-2:], layer.stride, strict=True))

    fix_same_padding(model)
    for layer in model.modules():
        if isinstance(layer, FIXED) and layer._forward_pre_hooks:
            layer.register_forward_pre_hook(check, prepend=True)
    for height, width in ((32, 96), (64, 32)):
        model(torch.zeros(1, 3, height, width, device="meta"))


def test_a_network_with_such_an_encoder_is_exported_for_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ZooNetwork("fpn", 3, settings=ZooSettings("tu-tf_mobilenetv3_small_minimal_100")).eval()
    facts = {"num_classes": 3, "channels": 3, "size_multiple": network.size_multiple, "fixed_size": None}
    export_onnx(network, facts, tmp_path / "model.onnx")
    picture = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    check = verify_onnx(network, tmp_path / "model.onnx", facts, [picture], ZOO_TOLERANCE)
    assert len(check["batches"]) > 4
