"""What is told of a network: by hand-counted layers, by gradients, and on other networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from conftest import ROOT
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from flexunet_pl.cli.main import main
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings
from flexunet_pl.summary.describe import REACH_WIDTH, describe
from flexunet_pl.summary.drawing import draw
from flexunet_pl.summary.text import as_text


@pytest.mark.parametrize(
    ("levels", "parameters", "gflop"),
    [pytest.param(6, 8_332_102, 104, id="6"), pytest.param(8, 124_996_934, 116, id="8")],
)
def test_the_tile_network_costs_what_is_known_of_it(levels: int, parameters: int, gflop: int) -> None:
    with torch.device("meta"):  # drawing 125 million initial weights would take a while
        network = FlexUNet(6, settings=FlexUNetSettings(num_layers=levels))
    found = describe(network, (3, 512, 512))
    assert found.parameters == parameters
    assert round(found.flops / 1e9) == gflop
    assert found.flops == sum(layer.flops for layer in found.layers)
    assert (
        found.parameters == sum(layer.parameters for layer in found.layers) == sum(b.parameters for b in found.blocks)
    )


def test_flops_count_a_multiplication_with_its_addition_as_two() -> None:
    found = describe(nn.Conv2d(3, 5, 3, padding=1, bias=False), (3, 10, 8))
    assert found.flops == 2 * 3 * 3 * 3 * 5 * 80
    assert (found.classes, found.layers[0].kernel, found.layers[0].output) == (5, 3, (5, 10, 8))


def test_memory_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Sigmoid(), nn.Conv2d(4, 3, 1, bias=False))
    found = describe(network, (2, 8, 8), batch_size=3)
    weights, plane = 4 * (8 + 12), 4 * 64
    # At once: a layer's input and output, 4 channels each, while the sigmoid works.
    assert found.inference_bytes == weights + 8 * plane
    # Kept of each image: the image for the first convolution, the sigmoid's result for itself and the second one.
    assert found.training_bytes == 4 * weights + 3 * (2 + 4) * plane


class Zigzag(nn.Module):
    """Has an operation of every kind whose reach is followed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.second = nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.Conv2d(5, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(functional.pad(image, (3, 1, 0, 0), mode="replicate")[..., 2:-2])
        y = functional.avg_pool2d(functional.max_pool2d(self.second(x), 2), 2)
        y = functional.interpolate(functional.interpolate(y, scale_factor=2), scale_factor=2, mode="bilinear")
        up = self.up(x + y)
        joined: Tensor = self.last(torch.cat([up, image, functional.interpolate(y, scale_factor=2, mode="nearest")], 1))
        return joined


@pytest.mark.parametrize(
    ("network", "channels"),
    [
        pytest.param(
            FlexUNet(2, 1, settings=FlexUNetSettings(base_filters=2, base_kernel=3, num_layers=3, dropout=0)),
            1,
            id="FlexUNet",
        ),
        pytest.param(
            FlexUNet(
                2, 1, settings=FlexUNetSettings(base_filters=2, base_kernel=5, num_layers=2, dilation=2, dropout=0)
            ),
            1,
            id="dilated",
        ),
        pytest.param(Zigzag(), 1, id="other operations"),
    ],
)
def test_the_receptive_field_is_what_gradients_reach(network: nn.Module, channels: int) -> None:
    network = network.double()
    for weight in network.parameters():
        weight.data.abs_().add_(0.1)  # so that nothing cancels, and nothing is cut off
    width = 160
    image = torch.rand(1, channels, 8, width, dtype=torch.float64, requires_grad=True)
    output = network(image).sum((0, 1, 2))
    widest = 0
    for column in range(output.shape[0]):
        (gradient,) = torch.autograd.grad(output[column], image, retain_graph=True)
        reached = torch.nonzero(gradient.abs().sum((0, 1, 2)))
        widest = max(widest, int(reached.max() - reached.min()) + 1)
    found = describe(network, (channels, 8, width)).receptive_field
    assert found is not None
    # Of the pixels in a pooling window gradients reach the largest only, so a few at either end may be left out.
    assert widest <= found <= widest + 4
    assert found < width


def test_what_cannot_be_followed_is_not_told() -> None:
    class Attention(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            flat = image.flatten(2)
            return (flat @ (flat.transpose(1, 2) @ flat)).reshape(image.shape)

    found = describe(nn.Sequential(nn.Conv2d(1, 2, 1), Attention()), (1, 8, 8))
    assert found.receptive_field is None
    assert "unknown: the network has operations that mix all pixels" in as_text(found)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        pytest.param(lambda: smp.Unet("resnet18", encoder_weights=None, classes=3), 563, id="Unet"),
        pytest.param(lambda: smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=3), REACH_WIDTH, id="whole"),
    ],
)
def test_other_networks_are_described_and_drawn(build: Any, field: int) -> None:
    network = build()
    found = describe(network, (3, 256, 128), batch_size=2)
    assert found.receptive_field == field
    assert found.parameters == sum(one.numel() for one in network.parameters())
    assert draw(found).shape[2] == 3
    assert next(network.parameters()).device.type == "cpu", "the network itself is left alone"


def test_blocks_know_what_feeds_them() -> None:
    found = describe(FlexUNet(6, settings=FlexUNetSettings(base_filters=4, num_layers=3)), (3, 64, 32))
    assert [(b.channels, b.height, b.width, sorted(b.inputs)) for b in found.blocks] == [
        (4, 64, 32, []),
        (8, 32, 16, [0]),
        (16, 16, 8, [1]),
        (8, 32, 16, [1, 2]),
        (4, 64, 32, [0, 3]),
    ]
    # What a residual block adds is no path of its own: only the skip connections of the decoder are.
    unet = describe(smp.Unet("resnet18", encoder_weights=None, classes=3), (3, 64, 64))
    assert [sorted(block.inputs) for block in unet.blocks] == [
        [], [0], [1], [2], [3], [3, 4], [2, 5], [1, 6], [0, 7], [8]
    ]  # fmt: skip


def test_test_time_augmentation_does_the_work_twice() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    once, twice = (describe(layer, (3, 10, 8), views=views) for views in (1, 2))
    assert twice.flops == 2 * once.flops == 2 * 2 * 3 * 9 * 5 * 80  # views, multiply-add, weights, pixels
    weights = 4 * 3 * 9 * 5
    assert twice.inference_bytes - weights == 2 * (once.inference_bytes - weights)
    assert twice.training_bytes == once.training_bytes, "training sees each image once"


def test_the_command_counts_both_views_of_test_time_augmentation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "model": {"num_layers": 2, "tta": True},
        "data": {"palette": {"a": [0, 0, 0], "b": [1, 1, 1]}, "image_size": 32},
    }
    (tmp_path / "tta.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(config | {"model": {"num_layers": 2}}))
    numbers = []
    for name in ("plain", "tta"):
        assert main(["summary", str(tmp_path / f"{name}.yaml")]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("FLOP"))
        assert ("in 2 views (model.tta)" in line) == (name == "tta")
        numbers.append(float(line.split()[1]))
    assert numbers[1] == pytest.approx(2 * numbers[0], rel=0.01)


def test_the_command_writes_text_and_picture(
    tiny_checkpoint: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary", str(tiny_checkpoint), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    text = (tmp_path / "summary.txt").read_text()
    assert text in shown
    assert "6 output channels from images of 3 x 32 x 32" in text
    assert "parameters        7,494 (30 kB in float32)" in text
    with Image.open(tmp_path / "model.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert main(["summary", str(tiny_run), "--size", "31x40", "--batch_size", "4"]) == 0
    assert "images of 3 x 31 x 40" in capsys.readouterr().out


def test_a_config_is_enough(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["summary", str(ROOT / "configs" / "tile.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "8,332,102" in shown
    assert "104.3 GFLOP forward for one image of 512 x 512; a multiply-add counts as 2" in shown
    config = {"model": {"num_layers": 2}, "data": {"palette": {"a": [0, 0, 0], "b": [1, 1, 1]}, "channels": 1}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    assert main(["summary", str(tmp_path / "small.yaml"), "--size", "64"]) == 0
    assert "2 output channels from images of 1 x 64 x 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["absent.yaml"], "absent.yaml: does not exist", id="absent"),
        pytest.param(["."], "holds no checkpoint", id="folder"),
        pytest.param(["list.yaml"], "needs the section data", id="no config"),
        pytest.param(["wrong.yaml"], "unexpected keyword argument 'base_filtres'", id="unknown key"),
        pytest.param(["wrong.yaml", "--size", "12y"], "--size 12y must be a side in pixels such as 512", id="size"),
        pytest.param(["wrong.yaml", "--batch_size", "0"], "--batch_size 0 must be at least 1", id="batch"),
    ],
)
def test_mistakes_give_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("[1, 2]")
    wrong = {"model": {"base_filtres": 2}, "data": {"palette": {"a": [0, 0, 0], "b": [1, 1, 1]}}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert main(["summary", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_config_without_a_model_has_the_default_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(ROOT / "configs" / "tile_strong.yaml"), "--size", "64"]) == 0
    printed = capsys.readouterr().out
    assert "5,199," in printed, "the parameters of U-Net on EfficientNet-Lite0 with its head"
