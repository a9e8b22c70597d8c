"""Weights in and out: the golden files of the original, and round trips exact to the bit."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from keras_cases import FILE_NAMES, WHOLE_MODELS, assert_same_bits, make_image, make_network, probabilities, write

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras import load_keras, read_keras
from flexunet_pl.keras import writer as keras_write
from flexunet_pl.nn.flexunet import FlexUNet

GOLDEN_SETTINGS: dict[str, dict[str, Any]] = {
    "A": {"base_kernel": 9, "num_layers": 5, "dilation": 1, "normalization": False},
    "B": {"base_kernel": 5, "num_layers": 4, "dilation": 3, "normalization": True},
}
GOLDEN_FILES = ["_model.h5", "_weights.h5", "_k3.keras", "_k3.weights.h5", "_k3_model.h5"]
BITWISE_CASES = [
    pytest.param({"num_classes": 1, "in_channels": 4, "normalization": True}, id="one class, 4 channels, BatchNorm"),
    pytest.param({"normalization": "group", "num_layers": 3}, id="GroupNorm"),
    pytest.param({"num_layers": 8, "base_filters": 1, "input_normalize": True, "dropout": 0.05}, id="8 levels, /255"),
    pytest.param(
        {"num_classes": 12, "base_kernel": 11, "dilation": 3, "num_layers": 4},
        id="12 classes, dilation 3",
        marks=pytest.mark.full,
    ),
    pytest.param({"num_layers": 1, "activation": "mish"}, id="a bridge alone, mish", marks=pytest.mark.full),
    pytest.param({"base_kernel": 4, "in_channels": 1}, id="even kernel, grey", marks=pytest.mark.full),
]


@pytest.mark.parametrize("name", [set_ + file for set_ in "AB" for file in GOLDEN_FILES] + ["B_model_noopt.h5"])
def test_golden_files_import_and_give_the_probabilities_of_the_original(shared_dir: Path, name: str) -> None:
    golden = shared_dir / "golden"
    known = GOLDEN_SETTINGS[name[0]]
    model = read_keras(golden / name, known)
    assert model.settings["num_classes"] == 6
    assert model.settings["base_filters"] == 8
    if "weights" not in name:
        assert known.items() <= model.settings.items()
        told = {key: model.settings[key] for key in ("dropout", "activation", "input_normalize", "image_size")}
        assert told == {"dropout": 0.04, "activation": "relu", "input_normalize": False, "image_size": [128, 128]}

    settings = {key: value for key, value in {**known, **model.settings}.items() if key != "image_size"}
    network = FlexUNet.from_arguments(settings).eval()
    network.load_state_dict(model.state_dict)
    images = np.load(golden / f"{name[0]}_input.npz")["images"]
    found = probabilities(network, torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    expected = np.load(golden / f"{name[0]}_output.npz")["probs"]
    assert np.abs(found - expected).max() <= 5e-6
    assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize("settings", BITWISE_CASES)
@pytest.mark.parametrize("name", FILE_NAMES)
def test_round_trip_is_exact_to_the_bit(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    network = make_network(**settings)
    network.state_dict()["head.bias"][0] = -0.0
    whole = name in WHOLE_MODELS
    known = {} if whole else {key: network.arguments[key] for key in ("dropout", "dilation", "activation")}
    again, told = load_keras(
        write(tmp_path / name, network, (256, 128)), {**known, "input_normalize": network.arguments["input_normalize"]}
    )
    assert_same_bits(network, again.state_dict())
    # One level has no dropout, whatever the rate, so its file cannot tell.
    assert again.arguments == network.arguments
    assert told == {**network.arguments, **({"image_size": [256, 128]} if whole else {})}


@pytest.mark.parametrize("name", FILE_NAMES)
def test_golden_weights_go_out_and_come_back_exact(shared_dir: Path, tmp_path: Path, name: str) -> None:
    network, _ = load_keras(shared_dir / "golden" / "B_model.h5")
    assert_same_bits(network, read_keras(write(tmp_path / name, network)).state_dict)


def test_order_and_names_of_the_layers_are_those_of_the_original(shared_dir: Path, tmp_path: Path) -> None:
    network, _ = load_keras(shared_dir / "golden" / "B_model.h5")
    path = write(tmp_path / "model.h5", network, (128, 128))
    with h5py.File(path) as ours, h5py.File(shared_dir / "golden" / "B_model.h5") as theirs:
        names = list(theirs["model_weights"].attrs["layer_names"])
        assert list(ours["model_weights"].attrs["layer_names"]) == names
        for name in names:
            places = list(theirs["model_weights"][name].attrs["weight_names"])
            assert list(ours["model_weights"][name].attrs["weight_names"]) == places
            for place in places:
                assert np.array_equal(ours["model_weights"][name][place][()], theirs["model_weights"][name][place][()])


def test_names_count_per_class_in_the_order_of_creation(tmp_path: Path) -> None:
    path = write(tmp_path / "model.h5", make_network(input_normalize=True, normalization=True))
    with h5py.File(path) as file:
        assert list(file["model_weights"].attrs["layer_names"]) == [
            "input_1",
            "rescaling",
            *("conv2d", "batch_normalization", "dropout", "conv2d_1", "batch_normalization_1"),
            "max_pooling2d",
            *("conv2d_2", "batch_normalization_2", "dropout_1", "conv2d_3", "batch_normalization_3"),
            *("conv2d_transpose", "concatenate"),
            *("conv2d_4", "batch_normalization_4", "dropout_2", "conv2d_5", "batch_normalization_5"),
            "conv2d_6",
        ]


def test_kernels_change_only_the_order_of_their_axes(tmp_path: Path) -> None:
    network = make_network()
    with h5py.File(write(tmp_path / "model.weights.h5", network)) as file:
        kernel = file["layers/conv2d/vars/0"][()]
        transposed = file["layers/conv2d_transpose/vars/0"][()]
    assert kernel.shape == (3, 3, 3, 2)
    assert kernel[0, 2, 1, 0] == network.state_dict()["encoder.0.0.weight"][0, 1, 0, 2]
    assert transposed.shape == (2, 2, 2, 4)
    assert transposed[0, 1, 1, 3] == network.state_dict()["decoder.0.upsample.weight"][3, 1, 0, 1]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_files_of_the_same_network_are_the_same_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / "again").mkdir()
    first, second = (write(folder / name, make_network()) for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    network = make_network(normalization=True).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    write(tmp_path / "model.keras", network)
    assert network.training
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_an_imported_network_can_be_trained(tmp_path: Path) -> None:
    network, _ = load_keras(write(tmp_path / "model.keras", make_network(normalization=True)))
    network.train()
    network(make_image(network, (8, 8))).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert FlexUNet.from_arguments(network.arguments).state_dict().keys() == network.state_dict().keys()


def test_half_precision_weights_are_taken_over_exactly(tmp_path: Path) -> None:
    network = make_network().half().float()
    path = write(tmp_path / "model.weights.h5", network)
    with h5py.File(path, "a") as file:
        values = file["layers/conv2d/vars/0"][()]
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = values.astype(np.float16)
        values = file["layers/conv2d/vars/1"][()]
        del file["layers/conv2d/vars/1"]
        file["layers/conv2d/vars/1"] = values.astype(">f4")
    assert_same_bits(network, read_keras(path).state_dict)


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_a_size_that_keras_cannot_halve_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"image_size=\[64, 100\].*multiples of 16 \(num_layers=5\); try \[64, 112\]"):
        write(tmp_path / name, make_network(num_layers=5), (64, 100))
    assert list(tmp_path.iterdir()) == []


def test_weights_go_only_where_keras_looks_for_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"try best\.weights\.h5"):
        keras_write.write_weights_h5(tmp_path / "best.h5", make_network())


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_diverged_network_is_not_written(tmp_path: Path, name: str) -> None:
    network = make_network()
    network.state_dict()["head.bias"][1] = torch.nan
    (tmp_path / name).write_text("older file")
    with pytest.raises(UserError, match=r"head\.bias holds NaN"):
        write(tmp_path / name, network)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older file"]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_file_that_reads_back_otherwise_never_appears(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_with_a_flipped_bit(path: Path, given: dict[str, object]) -> object:
        model = read_keras(path, given)
        values = model.state_dict["bridge.0.bias"].view(torch.int32)
        values[0] ^= 1
        return dataclasses.replace(model)

    monkeypatch.setattr(keras_write, "read_keras", read_with_a_flipped_bit)
    with pytest.raises(UserError, match=r"bridge\.0\.bias was read back with other values"):
        write(tmp_path / name, make_network())
    assert list(tmp_path.iterdir()) == []
