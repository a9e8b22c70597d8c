"""Small networks with telling weights, and the three kinds of Keras files, for the tests of export/keras*."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexunet_pl.keras import write_keras, write_legacy_h5, write_weights_h5
from flexunet_pl.nn.flexunet import FlexUNet

FILE_NAMES = ("model.keras", "model.weights.h5", "model.h5")
WHOLE_MODELS = ("model.keras", "model.h5")


def make_network(**settings: Any) -> FlexUNet:
    """Return a FlexUNet in which biases and BatchNorm's statistics count too, in evaluation mode."""
    network = FlexUNet.from_arguments(
        {"num_classes": 3, "base_filters": 2, "num_layers": 2, "base_kernel": 3, **settings}
    )
    generator = torch.Generator().manual_seed(7)
    scale = 1.0 if network.settings.input_normalize else 255.0
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif key.endswith(("bias", "running_mean")):
            tensor.normal_(0.0, 0.1, generator=generator)
        elif tensor.ndim == 4:
            # Raw input is 255 times as large; a trained network has small first weights then.
            first = key in ("encoder.0.0.weight", "bridge.0.weight") and tensor.shape[1] == network.in_channels
            spread = (2 / tensor[0].numel()) ** 0.5 / (scale if first else 1)
            tensor.normal_(0.0, spread, generator=generator)
    return network.eval()


def enliven(network: FlexUNet, image: Tensor) -> FlexUNet:
    """Return ``network``, rescaled so that its answers to ``image`` vary from pixel to pixel, whatever its settings.

    Random weights often leave filters dead behind their ReLU, and the answer constant. Here each filter of the top
    level gets a mean of 0 and a deviation of 1 over this image, and each logit a deviation of 1/2.
    """

    def rescale(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        mean, deviation = output.mean((0, 2, 3)), output.std((0, 2, 3)).clamp(min=1e-3)
        deviation = deviation * 2 if layer is network.head else deviation
        weight.div_(deviation[:, None, None, None])
        bias.sub_(mean).div_(deviation)
        return (output - mean[:, None, None]) / deviation[:, None, None]

    top = [*network.encoder[:1].modules(), *network.decoder[-1:].modules(), network.head]
    hooks = [layer.register_forward_hook(rescale) for layer in top if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return network


def write(path: Path, network: FlexUNet, image_size: tuple[int, int] | None = None) -> Path:
    """Write ``network`` to ``path`` as the kind of file that its name says, and return the path."""
    whole: dict[str, Callable[[Path, FlexUNet, tuple[int, int] | None], None]] = {
        ".keras": write_keras,
        ".h5": write_legacy_h5,
    }
    if path.name.endswith(".weights.h5"):
        write_weights_h5(path, network)
    else:
        whole[path.suffix](path, network, image_size)
    return path


def make_image(network: FlexUNet, sides: tuple[int, int]) -> Tensor:
    """Return two images (2, C, H, W), whole numbers 0..255 as float."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (2, network.in_channels, *sides), generator=generator).float()


def probabilities(network: FlexUNet, image: Tensor) -> Tensor:
    """Return what a Keras model answers: (N, H, W, K), softmax, or sigmoid for one class."""
    with torch.no_grad():
        logits: Tensor = network(image)
    return (logits.softmax(1) if network.num_classes > 1 else logits.sigmoid()).permute(0, 2, 3, 1)


def assert_same_bits(network: FlexUNet, state: dict[str, Tensor]) -> None:
    """Assert that ``state`` holds exactly the weights of ``network``; only BatchNorm's count of batches may differ."""
    expected = network.state_dict()
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(tensor.view(torch.int32), state[key].view(torch.int32)), key
