"""Keras files against TensorFlow and tf-keras, which the tests do without: both are large and not dependencies.

Three steps, since torch and TensorFlow may live in two environments:

    python benchmarks/keras_tensorflow_check.py write FOLDER   # flexunet_pl writes networks and what they answer
    python benchmarks/keras_tensorflow_check.py check FOLDER   # TensorFlow and tf-keras open them, and save their own
    python benchmarks/keras_tensorflow_check.py read FOLDER    # flexunet_pl opens those

The second step needs ``pip install tensorflow-cpu tf-keras`` (numpy and Keras 3 come with them) and nothing of
flexunet_pl. Every line printed is the largest difference of a probability; the exit code is 1 if one exceeds 1e-5.
"""

import argparse
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
TOLERANCE = 1e-5
SIDES = (64, 32)
BASIS: dict[str, Any] = {
    "num_classes": 3,
    "in_channels": 3,
    "base_filters": 4,
    "base_kernel": 5,
    "num_layers": 3,
    "dropout": 0.05,
    "dilation": 1,
    "activation": "relu",
    "normalization": False,
    "input_normalize": False,
}
CASES: dict[str, dict[str, Any]] = {
    "raw": {},
    "normalised": {"input_normalize": True},
    "batchnorm_dilation3": {"normalization": True, "dilation": 3, "num_layers": 4},
    "one_class_4_channels": {"num_classes": 1, "in_channels": 4, "input_normalize": True},
    "12_classes_kernel11_6_levels": {"num_classes": 12, "base_kernel": 11, "num_layers": 6, "base_filters": 2},
    "mish": {"activation": "mish", "input_normalize": True, "normalization": True},
}
# Networks of segmentation-models-pytorch: network, encoder, classes, channels, and whether there is a second output for
# the whole image. These are written and checked, but not read: flexunet_pl reads FlexUNet's files alone.
ZOO_CASES: dict[str, tuple[str, str, int, int, bool]] = {
    "unet_lite0": ("unet", "tu-tf_efficientnet_lite0", 3, 3, False),
    "unet_lite0_one_class_4_channels_two_outputs": ("unet", "tu-tf_efficientnet_lite0", 1, 4, True),
    "linknet_mobilenet_v2": ("linknet", "mobilenet_v2", 3, 3, False),
    "unet_mobilenetv3": ("unet", "tu-mobilenetv3_large_100", 3, 3, False),
    "unet_efficientnet_b0": ("unet", "efficientnet-b0", 3, 3, False),
}


def settings_of(case: str) -> dict[str, Any]:
    """Return FlexUNet's settings in ``case``."""
    return {**BASIS, **CASES[case]}


def write(folder: Path) -> Iterator[tuple[str, float]]:
    """Write each case as .keras, .weights.h5 and .h5, with images and the probabilities of torch."""
    import torch

    from flexunet_pl.nn.flexunet import FlexUNet
    from flexunet_pl.nn.zoo import ZooNetwork, ZooSettings

    for case in CASES:
        torch.manual_seed(1)
        write_case(folder / case, FlexUNet.from_arguments(settings_of(case)))
        yield f"{case}: written", 0.0
    for case, (name, encoder, num_classes, in_channels, has_defect_head) in ZOO_CASES.items():
        torch.manual_seed(1)
        network: Any = ZooNetwork(name, num_classes, in_channels, ZooSettings(encoder))
        if has_defect_head:
            network.defect_head = torch.nn.Conv2d(network.model.encoder.out_channels[-1], 1, 1)
        write_case(folder / case, network)
        yield f"{case}: written", 0.0


def write_case(target: Path, network: Any) -> None:
    """Write ``network``, with random biases and statistics, into the folder ``target``, with what it answers."""
    import torch

    from flexunet_pl.keras import write_keras, write_legacy_h5, write_weights_h5

    is_raw = hasattr(network, "input_scale") and network.input_scale == 1
    for key, tensor in network.eval().state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif key.endswith(("bias", "running_mean")):
            tensor.normal_(0.0, 0.1)
        elif key == "encoder.0.0.weight" and is_raw:
            tensor /= 255
    image = torch.randint(0, 256, (2, network.in_channels, *SIDES)).float()
    with torch.no_grad():
        logits = network(image)
        answers = {"image": image, "probabilities": logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()}
        if getattr(network, "defect_head", None) is not None:
            features = network.model.encoder((image - network.mean) / network.std)
            answers["defect_probability"] = network.defect_head(features[-1]).amax((2, 3)).sigmoid()
    write_keras(target / "model.keras", network, SIDES)
    write_keras(target / "variable.keras", network)
    write_weights_h5(target / "model.weights.h5", network)
    write_legacy_h5(target / "model.h5", network, SIDES)
    channels_last = {key: value.movedim(1, -1).numpy() for key, value in answers.items()}
    np.savez(target / "answer.npz", **channels_last)


def check(folder: Path) -> Iterator[tuple[str, float]]:
    """Open the files of ``write`` with Keras 3 on TensorFlow and with tf-keras; save models of theirs in ``folder``."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    keras, tf_keras = importlib.import_module("keras"), importlib.import_module("tf_keras")
    versions = {name: importlib.import_module(name).__version__ for name in ("tensorflow", "keras", "tf_keras", "h5py")}
    yield ", ".join(f"{name} {version}" for name, version in versions.items()), 0.0
    for case in (*CASES, *ZOO_CASES):
        source = folder / case
        with np.load(source / "answer.npz") as answers:
            image = answers["image"]
            expected = [answers[key] for key in ("probabilities", "defect_probability") if key in answers]

        def difference(model: Any, image: Array = image, expected: list[Array] = expected) -> float:
            found = model.predict(image, verbose=0)
            found = found if isinstance(found, list) else [found]
            return max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True))

        for name in ("model.keras", "variable.keras", "model.h5"):
            model = keras.models.load_model(source / name, compile=False)
            yield f"{case}: Keras 3 load_model({name})", difference(model)
        for name in ("model.weights.h5", "model.h5"):
            model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
            model.load_weights(source / name)
            yield f"{case}: Keras 3 load_weights({name})", difference(model)
        model = tf_keras.models.load_model(source / "model.h5", compile=False)
        yield f"{case}: tf-keras load_model(model.h5)", difference(model)
        if case in ZOO_CASES:
            for name in ("model.h5", "model.weights.h5"):
                model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
                model.load_weights(source / name)
                yield f"{case}: tf-keras load_weights({name})", difference(model)
            continue
        for name in ("model.h5", "model.weights.h5"):
            original = build_like_the_original(tf_keras, settings_of(case))
            original.load_weights(source / name)
            yield f"{case}: tf-keras load_weights({name}) into the original's layers", difference(original)
        save_for_read(folder, case, keras, tf_keras, image)


def save_for_read(folder: Path, case: str, keras: Any, tf_keras: Any, image: Array) -> None:
    """Save models of both libraries, with random weights, in every kind of file, and what they answer."""
    for library, name in ((keras, "keras3"), (tf_keras, "tf_keras")):
        library.utils.set_random_seed(2)
        model = build_like_the_original(library, settings_of(case))
        if not settings_of(case)["input_normalize"]:
            # Raw input is 255 times as large; a trained network has small first weights then.
            first = next(layer for layer in model.layers if layer.weights)
            kernel, bias = first.get_weights()
            first.set_weights([kernel / 255, bias])
        model.compile(library.optimizers.Adam(7e-5, clipvalue=0.4), "categorical_crossentropy")
        target = folder / case / name
        target.mkdir(exist_ok=True)
        for file in ("model.keras", "model.h5"):
            model.save(target / file)
        model.save_weights(target / "model.weights.h5")
        if library is tf_keras:
            model.save_weights(target / "plain.h5")
        np.save(target / "probabilities.npy", model.predict(image, verbose=0))


def build_like_the_original(library: Any, settings: dict[str, Any]) -> Any:
    """Build FlexUNet out of the layers of Keras 3 or tf-keras, with the Lambda layer of the original."""
    layers = library.layers

    def block(x: Any, level: int) -> Any:
        for half in range(2):
            x = layers.Conv2D(
                settings["base_filters"] * 2**level,
                max(3, settings["base_kernel"] - 2 * level),
                padding="same",
                dilation_rate=max(1, settings["dilation"] - level),
                activation=settings["activation"],
                kernel_initializer="he_normal",
                bias_initializer="random_normal",
            )(x)
            if settings["normalization"]:
                x = layers.BatchNormalization(beta_initializer="random_normal")(x)
            if half == 0:
                x = layers.Dropout(settings["dropout"] * level)(x)
        return x

    deepest = settings["num_layers"] - 1
    x = image = library.Input((*SIDES, settings["in_channels"]))
    if settings["input_normalize"]:
        x = layers.Lambda(lambda x: x / 255)(x)
    skips = []
    for level in range(deepest):
        x = block(x, level)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = block(x, deepest)
    for level in reversed(range(deepest)):
        x = layers.Conv2DTranspose(settings["base_filters"] * 2**level, 2, strides=2, padding="same")(x)
        x = block(layers.concatenate([x, skips[level]]), level)
    activation = "softmax" if settings["num_classes"] > 1 else "sigmoid"
    return library.Model(image, layers.Conv2D(settings["num_classes"], 1, activation=activation)(x))


def read(folder: Path) -> Iterator[tuple[str, float]]:
    """Open what ``check`` saved."""
    import torch

    from flexunet_pl.keras import load_keras

    files = {
        "keras3": ("model.keras", "model.h5", "model.weights.h5"),
        "tf_keras": ("model.keras", "model.h5", "model.weights.h5", "plain.h5"),
    }
    for case, library in itertools.product(CASES, files):
        with np.load(folder / case / "answer.npz") as answers:
            image = torch.from_numpy(answers["image"]).permute(0, 3, 1, 2)
        expected = np.load(folder / case / library / "probabilities.npy")
        for name in files[library]:
            only_weights = name in ("model.weights.h5", "plain.h5")
            network, settings = load_keras(folder / case / library / name, settings_of(case) if only_weights else None)
            wanted = settings_of(case) if only_weights else {**settings_of(case), "image_size": list(SIDES)}
            if settings != wanted:
                raise SystemExit(
                    f"{case}/{library}/{name}: {json.dumps(settings)} was read, {json.dumps(wanted)} saved"
                )
            with torch.no_grad():
                logits = network.eval()(image)
            found = (logits.softmax(1) if network.num_classes > 1 else logits.sigmoid()).permute(0, 2, 3, 1).numpy()
            yield f"{case}: {library} {name} into torch", float(np.abs(found - expected).max())


STEPS: dict[str, Callable[[Path], Iterator[tuple[str, float]]]] = {"write": write, "check": check, "read": read}


def main() -> int:
    """Run one step and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    worst = 0.0
    for line, difference in STEPS[arguments.step](arguments.folder):
        print(f"{difference:.1e}  {line}", flush=True)
        worst = max(worst, difference)
    print(f"{worst:.1e}  largest difference; {TOLERANCE:.0e} is allowed")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
