"""Keras itself, on torch: it opens our files and agrees; we open its files and agree; training goes the same way."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from keras_cases import enliven, make_image, make_network, probabilities, write
from torch import Tensor

from flexunet_pl.keras import load_keras, read_keras
from flexunet_pl.keras.layers import keras_layers, to_keras
from flexunet_pl.nn.flexunet import ACTIVATIONS, FlexUNet
from flexunet_pl.training.optim import KerasAdam

pytestmark = [
    # Keras 3.15 predates numpy 2's copy argument.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    # Keras says of its own whole-model .h5 that it is a legacy format, which is why it is tested.
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    # torch says that even kernels cost a padded copy; they are legal in the original.
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),
]

TOLERANCE = 1e-5
CASES = [
    pytest.param(True, {"num_layers": 2, "base_kernel": 3}, id="2 levels, kernel 3, raw"),
    pytest.param(
        False,
        {"num_classes": 1, "in_channels": 4, "normalization": True, "dilation": 3, "input_normalize": True},
        id="one class, 4 channels, BatchNorm, dilation 3, /255, variable size",
    ),
    pytest.param(
        True, {"num_classes": 12, "num_layers": 8, "base_filters": 1, "base_kernel": 11}, id="12 classes, 8 levels"
    ),
    pytest.param(True, {"normalization": "group", "num_layers": 4}, id="GroupNorm"),
    pytest.param(False, {"base_kernel": 6, "dilation": 3, "activation": "mish"}, id="kernel 6, mish, variable size"),
]
ALL_CASES = [
    *({"num_layers": levels, "base_kernel": kernel} for levels in range(2, 9) for kernel in range(3, 12)),
    *(
        dict(zip(("input_normalize", "normalization", "dilation", "num_classes", "in_channels"), values, strict=True))
        for values in itertools.product((False, True), (False, True), (1, 3), (1, 12), (3, 4))
    ),
    *({"activation": activation} for activation in ACTIVATIONS),
    *({"normalization": "group", "base_filters": filters} for filters in (1, 4, 12)),
]


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    os.environ["KERAS_BACKEND"] = "torch"
    module: ModuleType = pytest.importorskip("keras", reason="keras is a test dependency: pip install flexunet_pl[dev]")
    assert module.backend.backend() == "torch"
    return module


def answer(model: Any, image: Tensor) -> Tensor:
    """Return what the Keras ``model`` answers to the image (N, C, H, W): (N, H, W, K)."""
    with torch.no_grad():
        answer: Tensor = model(image.permute(0, 2, 3, 1), training=False)
    return answer.cpu()


def forget(model: Any) -> None:
    """Overwrite all weights of the Keras ``model``."""
    for variable in model.weights:
        variable.assign(np.zeros(variable.shape, np.float32))


def assert_varied(answer: Tensor) -> None:
    """Assert that the probabilities (N, H, W, K) vary from pixel to pixel; a constant answer would prove nothing."""
    assert answer.flatten(0, 2).std(0).max() > 0.01


def assert_agreement(keras: ModuleType, folder: Path, fixed_size: bool, settings: dict[str, Any]) -> None:
    network = make_network(**{"num_layers": 3, **settings})
    sides = (max(16, network.size_multiple), max(32, network.size_multiple))
    image = make_image(network, sides)
    expected = probabilities(enliven(network, image), image)
    assert_varied(expected)
    model = keras.models.load_model(write(folder / "model.keras", network, sides if fixed_size else None))
    assert model.input_shape == (None, *(sides if fixed_size else (None, None)), network.in_channels)
    assert (answer(model, image) - expected).abs().max() <= TOLERANCE
    for name in ("model.weights.h5", "model.h5"):
        forget(model)
        assert (answer(model, image) - expected).abs().max() > 0.01
        model.load_weights(write(folder / name, network))
        assert (answer(model, image) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("fixed_size", "settings"), CASES)
def test_keras_opens_our_files_and_agrees(
    keras: ModuleType, tmp_path: Path, fixed_size: bool, settings: dict[str, Any]
) -> None:
    assert_agreement(keras, tmp_path, fixed_size, settings)


@pytest.mark.full
@pytest.mark.parametrize("fixed_size", [True, False])
@pytest.mark.parametrize("settings", ALL_CASES, ids=str)
def test_keras_agrees_in_every_setting(
    keras: ModuleType, tmp_path: Path, fixed_size: bool, settings: dict[str, Any]
) -> None:
    assert_agreement(keras, tmp_path, fixed_size, settings)


@pytest.mark.full
def test_keras_opens_our_legacy_file_as_a_model(keras: ModuleType, tmp_path: Path) -> None:
    network = make_network(normalization=True, input_normalize=True)
    image = make_image(network, (16, 16))
    expected = probabilities(enliven(network, image), image)
    model = keras.models.load_model(write(tmp_path / "model.h5", network, (16, 16)), compile=False)
    assert_varied(expected)
    assert (answer(model, image) - expected).abs().max() <= TOLERANCE


def build_like_the_original(keras: ModuleType, scale: Callable[[Any], Any], **settings: Any) -> Any:
    """Build a FlexUNet out of Keras layers; ``scale`` is what happens to the input first."""
    layers = keras.layers

    def block(x: Any, level: int) -> Any:
        for half in range(2):
            x = layers.Conv2D(
                settings["base_filters"] * 2**level,
                max(3, settings["base_kernel"] - 2 * level),
                padding="same",
                dilation_rate=max(1, settings["dilation"] - level),
                activation=settings["activation"],
                bias_initializer="random_normal",
            )(x)
            if settings["normalization"]:
                x = layers.BatchNormalization()(x)
            if half == 0:
                x = layers.Dropout(settings["dropout"] * level)(x)
        return x

    image = keras.Input((32, 16, settings["in_channels"]))
    x, skips = scale(image), []
    for level in range(settings["num_layers"] - 1):
        x = block(x, level)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = block(x, settings["num_layers"] - 1)
    for level, skip in reversed(list(enumerate(skips))):
        x = layers.Conv2DTranspose(settings["base_filters"] * 2**level, 2, strides=2, padding="same")(x)
        x = block(layers.concatenate([x, skip]), level)
    activation = "softmax" if settings["num_classes"] > 1 else "sigmoid"
    return keras.Model(image, layers.Conv2D(settings["num_classes"], 1, activation=activation)(x))


@pytest.mark.parametrize(
    ("name", "scaling"),
    [
        ("saved.keras", "raw"),
        ("saved.keras", "rescaling"),
        ("saved.keras", "lambda"),
        ("saved.h5", "lambda"),
        ("saved.weights.h5", "rescaling"),
    ],
)
def test_we_open_what_keras_saves_and_agree(keras: ModuleType, tmp_path: Path, name: str, scaling: str) -> None:
    source = make_network(
        num_classes=4, num_layers=3, dilation=3, normalization=True, dropout=0.05, input_normalize=scaling != "raw"
    )
    settings, image = source.arguments, make_image(source, (32, 16))
    scale: dict[str, Callable[[Any], Any]] = {
        "raw": lambda x: x,
        "rescaling": keras.layers.Rescaling(1.0 / 255),
        "lambda": keras.layers.Lambda(lambda x: x / 255),
    }
    model = build_like_the_original(keras, scale[scaling], **settings)
    model.load_weights(write(tmp_path / "source.weights.h5", enliven(source, image)))
    # With its optimizer's state, as a training leaves it.
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    (model.save_weights if "weights" in name else model.save)(tmp_path / name)
    given = dict(settings) if "weights" in name else {}
    network, told = load_keras(tmp_path / name, given)
    assert told == {**settings, **({} if "weights" in name else {"image_size": [32, 16]})}
    notes = read_keras(tmp_path / name, given).notes
    assert len(notes) == (scaling == "lambda" and "weights" not in name)
    expected = answer(model, image)
    assert_varied(expected)
    assert (probabilities(network.eval(), image) - expected).abs().max() <= TOLERANCE


def train(network: FlexUNet, images: Tensor, labels: Tensor, steps: int) -> list[float]:
    """Train as the original does: cross-entropy from logits, gradients clipped by value, Adam in Keras' form."""
    optimizer = KerasAdam(network.parameters(), lr=7e-5)
    losses = []
    network.train()
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_value_(network.parameters(), 0.4)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_goes_as_in_keras(keras: ModuleType, tmp_path: Path) -> None:
    network = make_network(num_layers=3, dilation=2, normalization=True, dropout=0.0)
    image = make_image(network, (16, 16))
    labels = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(5))
    model = keras.models.load_model(write(tmp_path / "model.keras", network, (16, 16)))
    model.compile(keras.optimizers.Adam(7e-5, clipvalue=0.4, epsilon=1e-7), "categorical_crossentropy")
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    expected = [float(model.train_on_batch(image.permute(0, 2, 3, 1), one_hot)) for _ in range(5)]
    assert train(network, image, labels, 5) == pytest.approx(expected, abs=1e-5)
    model.save_weights(tmp_path / "trained.weights.h5")
    trained = read_keras(tmp_path / "trained.weights.h5").state_dict
    # BatchNorm's statistics left out: Keras on torch counts the variance of a batch otherwise than Keras on TensorFlow.
    moved = [(network.state_dict()[key] - trained[key]).flatten() for key, _ in network.named_parameters()]
    assert torch.cat(moved).abs().median() <= 1e-6


def test_golden_training_steps(shared_dir: Path) -> None:
    golden = np.load(shared_dir / "golden" / "D_train.npz")
    network, _ = load_keras(shared_dir / "golden" / "D_init_weights.h5", {"dilation": 2, "dropout": 0.0})
    images = torch.from_numpy(golden["images"]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(golden["onehot"]).argmax(-1)

    first, _ = load_keras(shared_dir / "golden" / "D_init_weights.h5", {"dilation": 2, "dropout": 0.0})
    train(first, images, labels, 1)
    differences = [
        np.abs(keras_array - golden[f"step1__{name}"]).ravel() for name, keras_array in named_keras_weights(first)
    ]
    assert np.median(np.concatenate(differences)) <= 1e-6
    assert np.concatenate(differences).max() <= 2e-4
    assert train(network, images, labels, 5) == pytest.approx(golden["losses"][:, 0].tolist(), abs=1e-5)


def named_keras_weights(network: FlexUNet) -> list[tuple[str, Any]]:
    """Return the weights by the names in the golden file: conv2d_3__kernel:0."""
    return [
        (f"{layer.name}__{weight.name}:0", to_keras(network.state_dict()[weight.state_key]))
        for layer in keras_layers(network)
        for weight in layer.weights
    ]


@pytest.mark.parametrize("decimal", [1, 3])
def test_adam_steps_are_those_of_keras_formula(decimal: int) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 1e-4], dtype=torch.float64))
    optimizer = KerasAdam([weight], lr=0.1**decimal)
    expected, mean, square = weight.detach().numpy().copy(), np.zeros(3), np.zeros(3)
    for step in range(1, 6):
        gradient = np.array([0.3, -1e-7, 1e-9]) * step
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = 0.1**decimal * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        expected -= rate * mean / (np.sqrt(square) + 1e-7)
        assert weight.detach().numpy() == pytest.approx(expected, abs=1e-12)


TILE = """
import resource, sys, time
from pathlib import Path
import torch
from flexunet_pl.keras import load_keras, write_keras, write_legacy_h5
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings

network = FlexUNet(6, settings=FlexUNetSettings(num_layers=8))
assert sum(parameter.numel() for parameter in network.parameters()) == 124_996_934
seconds = 0.0
for write, name in ((write_keras, "tile.keras"), (write_legacy_h5, "tile.h5")):
    path = Path(sys.argv[1]) / name
    started = time.monotonic()
    write(path, network, (512, 512))
    again, _ = load_keras(path)
    seconds += time.monotonic() - started
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))
    del again
    path.unlink()
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(seconds, sum(peaks) / 2**20)
"""


@pytest.mark.full
def test_the_whole_tile_network_goes_out_and_in(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TILE, str(tmp_path)]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    seconds, gibibytes = map(float, run.stdout.split())
    assert seconds <= 60
    assert gibibytes < 4
