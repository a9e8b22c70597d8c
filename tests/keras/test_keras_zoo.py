"""Networks of segmentation-models-pytorch as Keras files, opened by Keras itself on torch."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from keras_cases import FILE_NAMES, WHOLE_MODELS, write
from torch import Tensor, nn
from torch.nn import functional

from flexunet_pl.core.errors import UserError
from flexunet_pl.export.verify import top_two_margin
from flexunet_pl.keras import write_keras, write_legacy_h5, write_weights_h5
from flexunet_pl.keras.shapes import output_shapes
from flexunet_pl.keras.tracing import traced_layers
from flexunet_pl.keras.writer import verify_keras
from flexunet_pl.nn.zoo import ZooNetwork, ZooSettings

pytestmark = [
    # Keras 3.15 predates numpy 2's copy argument.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

TOLERANCE = 1e-5
SIZES = ((64, 96), (96, 32))
# Encoders of all kinds of layers that have a counterpart: residuals and a padded pooling, ReLU6, squeeze and
# excitation with SiLU, with hard swish; transposed convolutions; no residuals at all.
NETWORKS = [
    pytest.param("unet", "tu-test_resnet", 1, 4),
    pytest.param("unet", "resnet34", 3, 3, marks=pytest.mark.full),
    pytest.param("linknet", "mobilenet_v2", 3, 3, marks=pytest.mark.full),
    pytest.param("linknet", "resnet34", 3, 3, marks=pytest.mark.full),
    pytest.param("unet", "mobilenet_v2", 3, 3, marks=pytest.mark.full),
    pytest.param("unet", "tu-tf_efficientnet_lite1", 3, 3, marks=pytest.mark.full),
    pytest.param("unet", "efficientnet-b0", 2, 3, marks=pytest.mark.full),
    pytest.param("unet", "tu-tf_efficientnetv2_b0", 2, 3, marks=pytest.mark.full),
    pytest.param("unet", "tu-mobilenetv3_large_100", 2, 3, marks=pytest.mark.full),
    pytest.param("unetplusplus", "resnet18", 3, 3, marks=pytest.mark.full),
    pytest.param("unet", "vgg11_bn", 3, 1, marks=pytest.mark.full),
]


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    os.environ["KERAS_BACKEND"] = "torch"
    module: ModuleType = pytest.importorskip("keras", reason="keras is a test dependency: pip install flexunet_pl[dev]")
    assert module.backend.backend() == "torch"
    return module


def vary(network: Any) -> Any:
    """Return ``network`` with biases and statistics that count, and moderate logits, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.8, 1.5, generator=generator)
        elif key.endswith(("bias", "running_mean")):
            tensor.normal_(0.0, 0.1, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def default_network() -> Any:
    """Return the default network with its ImageNet encoder, and a head for the whole image."""
    torch.manual_seed(0)
    network: Any = ZooNetwork("unet", 3, 3, ZooSettings("tu-tf_efficientnet_lite0", "imagenet"))
    nn.init.normal_(network.defect_head.weight, std=0.002)
    nn.init.constant_(network.defect_head.bias, -0.1)  # the gate is somewhat closed
    vary(network.model.decoder).train()
    for module in network.model.decoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    with torch.no_grad():
        network(make_image(network, (64, 96)))  # the decoder's statistics come nearer to those of its features
    return network.eval()


def make_image(network: Any, sides: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, network.in_channels, 4, 4, generator=generator)
    return (255 * functional.interpolate(coarse, sides, mode="bilinear")).round()


def answers(model: Any, image: Tensor) -> list[Tensor]:
    """Return all outputs of the Keras ``model``."""
    with torch.no_grad():
        outputs = model(image.permute(0, 2, 3, 1), training=False)
    return [output.cpu() for output in (outputs if isinstance(outputs, list | tuple) else [outputs])]


def expected_of(network: Any, image: Tensor) -> list[Tensor]:
    """Return probabilities (N, H, W, K) and, with a defect head, the probability of a defect (N, 1), by torch."""
    with torch.no_grad():
        logits = network(image)
        found = [(logits.softmax(1) if network.num_classes > 1 else logits.sigmoid()).permute(0, 2, 3, 1)]
        if getattr(network, "defect_head", None) is not None:
            bottleneck = network.model.encoder((image - network.mean) / network.std)[-1]
            found.append(network.defect_head(bottleneck).flatten(1).max(1, keepdim=True).values.sigmoid())
    return found


def mask_of(probabilities: Tensor) -> Tensor:
    return probabilities[..., 0] > 0.5 if probabilities.shape[-1] == 1 else probabilities.argmax(-1)


def assert_same(network: Any, model: Any, sizes: Any = SIZES) -> None:
    for sides in sizes:
        image = make_image(network, sides)
        expected, found = expected_of(network, image), answers(model, image)
        assert expected[0].flatten(0, 2).std(0).max() > 0.001  # a constant answer would prove nothing
        assert [output.shape for output in found] == [output.shape for output in expected]
        for output, wanted in zip(found, expected, strict=True):
            assert (output - wanted).abs().max() <= TOLERANCE
        decided = torch.from_numpy(top_two_margin(expected[0].numpy()) > 2 * TOLERANCE)
        assert decided.any()
        assert torch.equal(mask_of(found[0])[decided], mask_of(expected[0])[decided])


def assert_agreement(keras: ModuleType, folder: Path, network: Any) -> Any:
    """Assert that Keras agrees with torch on all files of ``network`` and return the model."""
    layers = traced_layers(network)
    write_keras(folder / "model.keras", network, layers=layers)
    write_weights_h5(folder / "model.weights.h5", network, layers)
    write_legacy_h5(folder / "model.h5", network, layers=layers)
    model = keras.models.load_model(folder / "model.keras")
    assert_same(network, model)
    for name in ("model.weights.h5", "model.h5"):
        for variable in model.weights:
            variable.assign(np.zeros(variable.shape, np.float32))
        model.load_weights(folder / name)
        assert_same(network, model, SIZES[1:])
    return model


def test_keras_opens_the_default_network_and_agrees(keras: ModuleType, tmp_path: Path, default_network: Any) -> None:
    image = make_image(default_network, (64, 96))
    gate, default_network.defect_gate = default_network.defect_gate, None
    ungated = default_network(image)
    default_network.defect_gate = gate
    assert (ungated - default_network(image)).abs().max() > 0.1, "the gate takes part"
    model = assert_agreement(keras, tmp_path, default_network)
    assert model.output_names == ["probabilities", "defect_probability"]
    kinds = {type(layer).__name__ for layer in model.layers}
    assert kinds >= {"DepthwiseConv2D", "ReLU", "ZeroPadding2D", "Add", "UpSampling2D", "Rescaling"}


@pytest.mark.full
def test_keras_agrees_without_a_defect_head(
    keras: ModuleType, tmp_path: Path, default_network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_network, "defect_head", None)
    assert assert_agreement(keras, tmp_path, default_network).output_names == ["probabilities"]


@pytest.mark.parametrize(("name", "encoder", "num_classes", "in_channels"), NETWORKS)
def test_keras_opens_other_networks_and_agrees(
    keras: ModuleType, tmp_path: Path, name: str, encoder: str, num_classes: int, in_channels: int
) -> None:
    torch.manual_seed(0)
    network: Any = ZooNetwork(name, num_classes, in_channels, ZooSettings(encoder, "random"))
    network.defect_head = None
    with torch.no_grad():  # of random weights, logits are so large that torch itself rounds by more than 1e-5
        network.model.segmentation_head[0].weight.mul_(0.3)
    assert assert_agreement(keras, tmp_path, vary(network)).output_names == ["probabilities"]


class Small(nn.Module):
    """Stands for a ZooNetwork: what the writer needs of it, around the layers to be tested."""

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        self.in_channels, self.num_classes, self.size_multiple = len(mean), 2, 4

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model((image - self.mean) / self.std)
        return logits


def small(*layers: nn.Module, mean: tuple[float, ...] = (100.0, 120.0, 140.0)) -> Any:
    """Return a network of ``layers``, which take three channels and return two."""
    torch.manual_seed(0)
    return vary(Small(nn.Sequential(*layers), list(mean), [50.0, 60.0, 70.0][: len(mean)]))


class Apply(nn.Module):
    """A layer that applies a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def change_in_place(x: Tensor) -> Tensor:
    """Return twice the ReLU of ``x``, which is itself changed."""
    changed = functional.relu_(x)
    return x + changed


SMALL_CASES = [
    pytest.param([nn.Conv2d(3, 2, 5, 2, padding=(1, 2)), nn.ReLU6(), nn.Upsample(scale_factor=2)], id="stride 2"),
    pytest.param([Apply(lambda x: functional.pad(x, (0, 1, 2, 3))), nn.Conv2d(3, 2, (4, 2))], id="asymmetric padding"),
    pytest.param(
        [nn.Conv2d(3, 3, (3, 5), padding=(1, 2), groups=3, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)],
        id="depthwise, not square",
    ),
    pytest.param([nn.Conv2d(3, 6, 3, padding=2, dilation=2, groups=3), nn.Conv2d(6, 2, 1)], id="groups, dilation"),
    pytest.param([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False, eps=1e-2), nn.Conv2d(4, 2, 1)], id="not affine"),
    pytest.param([nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(3, 2, 1)], id="averages"),
    pytest.param([nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.ConvTranspose2d(3, 2, 4, 2, 1)], id="pooling, transposed"),
    pytest.param([nn.Hardswish(), nn.Conv2d(3, 2, 1), nn.Hardsigmoid()], id="hard swish, an activation at the end"),
    pytest.param([nn.SiLU(), nn.Dropout(0.5), nn.Conv2d(3, 2, 1), nn.Sigmoid()], id="silu, sigmoid"),
    pytest.param([nn.Conv2d(3, 2, 1), Apply(change_in_place), nn.Conv2d(2, 2, 1)], id="changed in place"),
    pytest.param([Apply(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), nn.Conv2d(3, 2, 1)], id="attention"),
]


@pytest.mark.parametrize("layers", SMALL_CASES)
def test_each_layer_computes_in_keras_what_it_does_in_torch(
    keras: ModuleType, tmp_path: Path, layers: list[nn.Module]
) -> None:
    network = small(*layers)
    model = keras.models.load_model(write(tmp_path / "model.keras", network))
    assert_same(network, model, ((8, 12), (16, 4)))


REFUSED = [
    pytest.param([nn.Upsample(scale_factor=2, mode="bilinear")], r"upsample_bilinear2d: no layer", id="bilinear"),
    pytest.param([nn.GroupNorm(1, 3)], r"layer model\.0 \(GroupNorm\) computes group_norm: no layer", id="GroupNorm"),
    pytest.param([nn.MaxPool2d(3, 2, 1)], "the same only behind a ReLU", id="zeros are not minus infinity"),
    pytest.param([nn.MaxPool2d(3, 2, ceil_mode=True)], "it rounds sides up", id="ceil_mode"),
    pytest.param([nn.Upsample(scale_factor=1.5)], r"it resizes by 1\.5", id="no whole factor"),
    pytest.param(
        [nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(8, 12))], "it resizes by 8, 12", id="factors of this very size"
    ),
    pytest.param([nn.AvgPool2d(3, 1, 1, count_include_pad=False)], "divides by the size", id="uneven windows"),
    pytest.param([nn.AdaptiveAvgPool2d(2)], "other parts than the whole image", id="pooling to four cells"),
    pytest.param([nn.Conv2d(3, 3, 3, stride=2, dilation=2)], r"no stride \[2, 2\] with dilation \[2, 2\]", id="both"),
    pytest.param([nn.ConvTranspose2d(3, 3, 3, 2, 1, output_padding=1)], "no transposed kernel", id="output_padding"),
    pytest.param([nn.BatchNorm2d(3, track_running_stats=False)], "the statistics of each batch", id="batch statistics"),
    pytest.param([Apply(lambda x: functional.dropout(x, 0.5))], "it drops values in evaluation", id="dropout at work"),
    pytest.param([Apply(lambda x: torch.cat([x, x], 2))], "else than the channels", id="images side by side"),
    pytest.param([Apply(lambda x: x * torch.ones(1, 3, 1, 1))], "ones: no layer", id="a constant tensor"),
    pytest.param([Apply(lambda x: x + 1)], "other is a constant or a weight", id="a constant"),
    pytest.param([Apply(lambda x: functional.pad(x, (1, 1), value=1.0))], "Keras pads with zeros", id="ones"),
    pytest.param([Apply(lambda x: x if x.sum() > 0 else -x)], "torch cannot record", id="control flow"),
]


@pytest.mark.parametrize(("layers", "message"), REFUSED)
def test_what_keras_cannot_compute_is_refused_by_the_name_of_the_layer(
    tmp_path: Path, layers: list[nn.Module], message: str
) -> None:
    with pytest.raises(UserError, match=rf"{message}.*; use --formats onnx"):
        write(tmp_path / "model.keras", small(*layers))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def network() -> Any:
    """A small network of a convolution behind an asymmetric padding."""
    pad = Apply(lambda x: functional.pad(x, (0, 1, 0, 1)))
    return small(pad, nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 1))


def test_shapes_are_those_of_keras(keras: ModuleType, tmp_path: Path, network: Any) -> None:
    model = keras.models.load_model(write(tmp_path / "model.keras", network, (8, 16)))
    shapes = output_shapes(traced_layers(network), (8, 16))
    assert [layer.name for layer in model.layers] == list(shapes)
    assert [list(layer.output.shape) for layer in model.layers] == list(shapes.values())


def test_one_scale_for_all_channels_is_one_number() -> None:
    options = [
        traced_layers(small(nn.Conv2d(channels, 2, 1), mean=mean))[1].options
        for channels, mean in ((1, (100.0,)), (3, (100.0, 120.0, 140.0)))
    ]
    assert options[0] == {"scale": 1 / 50, "offset": -2.0}
    assert options[1] == {"scale": [1 / 50, 1 / 60, 1 / 70], "offset": [-2.0, -2.0, -2.0]}


@pytest.mark.parametrize("name", FILE_NAMES)
def test_files_of_the_same_network_are_the_same_bytes(tmp_path: Path, name: str, network: Any) -> None:
    (tmp_path / "again").mkdir()
    first, second = (write(folder / name, network) for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_a_size_that_keras_cannot_halve_is_refused(tmp_path: Path, name: str, network: Any) -> None:
    with pytest.raises(UserError, match=r"image_size=\[8, 10\].*multiples of 4; try \[8, 12\]"):
        write(tmp_path / name, network, (8, 10))


def test_the_network_is_left_as_it_was(tmp_path: Path, network: Any) -> None:
    network.train()
    network.model[1].eval()
    write(tmp_path / "model.keras", network)
    assert [module for module in network.modules() if not module.training] == [network.model[1]]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_diverged_network_is_not_written(tmp_path: Path, name: str, network: Any) -> None:
    network.state_dict()["model.1.bias"][1] = torch.nan
    with pytest.raises(UserError, match=r"model\.1\.bias holds NaN"):
        write(tmp_path / name, network)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_file_that_reads_back_otherwise_never_appears(
    tmp_path: Path, name: str, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_with_a_flipped_bit(*arguments: Any, **options: Any) -> Any:
        values = fromfile(*arguments, **options)
        values.view(np.uint32)[-1] ^= 1
        return values

    fromfile = np.fromfile
    monkeypatch.setattr(np, "fromfile", read_with_a_flipped_bit)
    with pytest.raises(UserError, match=r"model\.1\.weight was read back with other values"):
        write(tmp_path / name, network)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_file_of_another_network_is_not_verified(tmp_path: Path, name: str, network: Any) -> None:
    path = write(tmp_path / name, network, (8, 8))
    verify_keras(path, network, (8, 8))
    if name in WHOLE_MODELS:
        with pytest.raises(UserError, match="configuration was read back otherwise"):
            verify_keras(path, network, (8, 12))
    wider = small(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(UserError, match=r"read back otherwise|other layers with weights"):
        verify_keras(path, wider, (8, 8))
