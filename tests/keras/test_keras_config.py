"""Settings out of a model's configuration, and what is no FlexUNet."""

import base64
import copy
import json
import marshal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from keras_cases import WHOLE_MODELS, make_network, write

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras import load_keras, read_keras
from flexunet_pl.keras.config import describe
from flexunet_pl.keras.lambda_layers import Verdict, classify_lambda
from flexunet_pl.keras.layers import keras_layers
from flexunet_pl.keras.model_json import keras3_config, legacy_config

Config = dict[str, Any]
STYLES: dict[str, Callable[..., Config]] = {"keras 3": keras3_config, "tf-keras": legacy_config}
ORIGIN = Path("best_model.h5")
SETTINGS = {"num_layers": 3, "dropout": 0.05, "dilation": 3, "normalization": True, "input_normalize": True}


def config_of(style: str, size: tuple[int, int] | None = (64, 32), **settings: Any) -> Config:
    return STYLES[style](keras_layers(make_network(**{**SETTINGS, **settings})), size)


def layer_of(config: Config, name: str) -> Config:
    layer: Config = next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == name)
    return layer


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_classes": 1, "activation": "silu", "in_channels": 4},
        {"num_classes": 20, "base_kernel": 11, "activation": "mish", "num_layers": 8, "input_normalize": False},
        {"normalization": False, "dropout": 0.0, "dilation": 1},
    ],
)
def test_a_configuration_tells_all_settings(style: str, settings: dict[str, Any]) -> None:
    network = make_network(**{**SETTINGS, **settings})
    description = describe(config_of(style, **settings), {}, ORIGIN)
    assert description.settings == network.arguments
    assert description.image_size == (64, 32)
    assert description.notes == ()


@pytest.mark.parametrize("style", STYLES)
def test_variable_sides_are_no_image_size(style: str) -> None:
    assert describe(config_of(style, None), {}, ORIGIN).image_size is None


def test_names_are_free() -> None:
    config = json.loads(json.dumps(config_of("tf-keras")).replace('"conv2d', '"my_conv'))
    assert describe(config, {}, ORIGIN).settings["num_layers"] == 3


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("conv2d_1", "kernel_size", [5, 3], r"conv2d_1 \(Conv2D\) has kernel_size \[5, 3\], FlexUNet needs \[3, 3\]"),
        ("conv2d_2", "filters", 5, r"conv2d_2 \(Conv2D\) has filters 5, FlexUNet needs 4"),
        ("conv2d_2", "dilation_rate", [1, 1], r"dilation_rate \[1, 1\], FlexUNet needs \[2, 2\]"),
        ("conv2d_1", "activation", "tanh", "has activation 'tanh', FlexUNet needs relu"),
        ("conv2d", "activation", "tanh", "describes no FlexUNet: activation='tanh'; choose from"),
        ("conv2d_1", "padding", "valid", "has padding 'valid', FlexUNet needs same"),
        ("conv2d_1", "use_bias", False, "has use_bias False, FlexUNet needs True"),
        ("conv2d_1", "strides", [2, 2], r"has strides \[2, 2\], FlexUNet needs \[1, 1\]"),
        ("conv2d_1", "groups", 2, "has groups 2, FlexUNet needs 1"),
        ("conv2d_1", "data_format", "channels_first", "data_format 'channels_first', FlexUNet needs channels_last"),
        ("conv2d_10", "activation", "linear", "conv2d_10 .* has activation 'linear', FlexUNet needs softmax"),
        ("batch_normalization", "epsilon", 1e-5, "has epsilon 1e-05, FlexUNet needs 0.001"),
        ("batch_normalization", "axis", 1, "has axis 1, FlexUNet needs -1"),
        ("dropout_2", "rate", 0.5, r"dropout_2 \(Dropout\) has rate 0.5, FlexUNet needs 0.1"),
        ("dropout_1", "rate", 0.9, r"dropout=0.9 grows to 1.8 at level 2"),
        ("dropout_1", "rate", float("nan"), "dropout=nan"),
        ("dropout_1", "rate", "much", "the rate 'much', a number is needed"),
        ("max_pooling2d", "pool_size", [3, 3], r"has pool_size \[3, 3\], FlexUNet needs \[2, 2\]"),
        ("concatenate", "axis", 1, "has axis 1, FlexUNet needs -1"),
        ("rescaling", "scale", 1 / 127.5, "has scale 0.0078"),
        ("rescaling", "offset", -1.0, "has offset -1.0, FlexUNet needs 0.0"),
        ("conv2d", "kernel_size", [5, 3], r"has kernel_size \[5, 3\], FlexUNet needs one whole number"),
        ("conv2d", "filters", 0, "has filters 0, FlexUNet needs one whole number"),
        ("conv2d", "filters", 2.5, r"has filters 2\.5, FlexUNet needs one whole number"),
        ("conv2d", "filters", 2**40, "filters of the bridge is"),
        ("conv2d", "kernel_size", [2**40] * 2, "base_kernel is 1099511627776, at most 1023"),
    ],
)
def test_a_layer_that_differs_is_named(name: str, option: str, value: object, message: str) -> None:
    config = config_of("tf-keras")
    layer_of(config, name)["config"][option] = value
    with pytest.raises(UserError, match=f"best_model.h5.*{message}"):
        describe(config, {}, ORIGIN)


def _swap_skip(config: Config) -> None:
    layer_of(config, "concatenate")["inbound_nodes"][0].reverse()


def _skip_from_elsewhere(config: Config) -> None:
    layer_of(config, "concatenate_1")["inbound_nodes"][0][1][0] = "conv2d"


def _drop_a_layer(config: Config) -> None:
    config["config"]["layers"] = [layer for layer in config["config"]["layers"] if layer["name"] != "dropout_1"]


def _output_from_elsewhere(config: Config) -> None:
    config["config"]["output_layers"] = [["conv2d_9", 0, 0]]


def _use_a_layer_twice(config: Config) -> None:
    layer_of(config, "conv2d_3")["inbound_nodes"] *= 2


def _repeat_layers(config: Config) -> None:
    config["config"]["layers"] *= 1000


def _another_class(config: Config) -> None:
    config["class_name"] = "Sequential"


def _no_channels(config: Config) -> None:
    layer_of(config, "input_1")["config"]["batch_input_shape"] = [None, 64, 64]


def _more_layers(config: Config) -> None:
    extra = copy.deepcopy(layer_of(config, "conv2d_10"))
    extra["config"]["name"] = "extra"
    config["config"]["layers"].append(extra)


def _no_layers(config: Config) -> None:
    config["config"]["layers"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swap_skip, "concatenate takes batch_normalization_3, conv2d_transpose, FlexUNet needs conv2d_transpose, "),
        (_skip_from_elsewhere, "concatenate_1 takes conv2d_transpose_1, conv2d, FlexUNet needs"),
        (_drop_a_layer, "conv2d_3 is Conv2D, FlexUNet needs Dropout here"),
        (_output_from_elsewhere, "the output is taken from 'conv2d_9', 'conv2d_10' is needed"),
        (_use_a_layer_twice, "a layer is used 2 times"),
        (_repeat_layers, "lists 34000 layers, 1 to 1000 are read"),
        (_another_class, "class 'Sequential', Functional is needed"),
        (_no_channels, r"shape \[None, 64, 64\], \[null, height, width, channels\] is needed"),
        (_more_layers, "has 35 layers, FlexUNet needs 34"),
        (_no_layers, "lists 0 layers"),
    ],
)
def test_another_graph_is_refused(change: Callable[[Config], None], message: str) -> None:
    config = json.loads(json.dumps(config_of("tf-keras")))
    change(config)
    # Of these, open_keras_file makes a UserError; UserError itself is a ValueError.
    with pytest.raises((TypeError, ValueError), match=message):
        describe(config, {}, ORIGIN)


def test_a_model_of_another_class_is_a_user_error(tmp_path: Path) -> None:
    path = write(tmp_path / "model.h5", make_network(), (64, 32))
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        _another_class(config)
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UserError, match=r"model\.h5 cannot be read .*class 'Sequential', Functional is needed"):
        read_keras(path)


@pytest.mark.parametrize("config", [None, [], "Functional", 3, {}, {"class_name": "Functional"}])
def test_json_that_is_no_model_is_a_clear_error(tmp_path: Path, config: object) -> None:
    path = write(tmp_path / "model.keras", make_network())
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    if config is None:
        assert "dropout" not in read_keras(path).settings
    else:
        with pytest.raises(UserError, match=r"model\.keras"):
            read_keras(path)


def test_contradictions_show_both_values(tmp_path: Path) -> None:
    path = write(tmp_path / "model.keras", make_network(**SETTINGS), (64, 32))
    given = {
        "num_classes": 5,
        "dropout": 0.04,
        "image_size": [64, 64],
        "dilation": 3,
        "activation": None,
        "loss": "dice",
    }
    with pytest.raises(UserError) as error:
        load_keras(path, given)
    assert "num_classes is 3 in the file and 5 as given" in str(error.value)
    assert "dropout is 0.05 in the file and 0.04 as given" in str(error.value)
    assert "image_size is [64, 32] in the file and [64, 64] as given" in str(error.value)
    assert "dilation" not in str(error.value)


def test_weights_alone_contradict_only_what_shapes_tell(tmp_path: Path) -> None:
    path = write(tmp_path / "model.weights.h5", make_network(**SETTINGS, base_kernel=2))
    given = {"dilation": 3, "dropout": 0.01, "input_normalize": True, "base_kernel": 2, "image_size": (64, 64)}
    network, settings = load_keras(path, given)
    # Kernels of less than 3 are widened to 3, so 2 as given is no contradiction.
    assert network.arguments == {**make_network(**SETTINGS).arguments, "dropout": 0.01, "base_kernel": 3}
    assert settings["image_size"] == (64, 64)
    with pytest.raises(UserError, match="num_layers is 3 in the file and 4 as given"):
        load_keras(path, {"num_layers": 4})


def encode(function: Callable[..., object]) -> str:
    return base64.encodebytes(marshal.dumps(function.__code__)).decode()


def _touch_a_file(x: Any) -> Any:
    Path("canary").touch()
    return x / 255


LAMBDAS: list[tuple[str, Callable[..., object], Verdict]] = [
    ("x / 255", lambda x: x / 255, Verdict.DIVIDES_BY_255),
    ("x / 255.0", lambda x: x / 255.0, Verdict.DIVIDES_BY_255),
    ("image / 255.", lambda image: image / 255.0, Verdict.DIVIDES_BY_255),
    ("x * (1 / 255)", lambda x: x * (1 / 255), Verdict.DIVIDES_BY_255),
    ("x / 127.5 - 1", lambda x: x / 127.5 - 1, Verdict.OTHER),
    ("x / 256", lambda x: x / 256, Verdict.OTHER),
    ("255 - x", lambda x: 255 - x, Verdict.OTHER),
    ("x * 255", lambda x: x * 255, Verdict.OTHER),
    ("x / 255 + 1", lambda x: x / 255 + 1, Verdict.OTHER),
    ("canary", _touch_a_file, Verdict.OTHER),
    ("no number", lambda x: x, Verdict.UNREADABLE),
    ("a function inside", lambda x: (lambda y: y / 255)(x), Verdict.UNREADABLE),
]


@pytest.mark.parametrize(("function", "verdict"), [case[1:] for case in LAMBDAS], ids=[case[0] for case in LAMBDAS])
def test_code_is_classified_without_running_it(
    function: Callable[..., object], verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = encode(function)
    assert classify_lambda([code, None, None]) is verdict
    assert classify_lambda({"class_name": "__lambda__", "config": {"code": code}}) is verdict
    assert list(tmp_path.iterdir()) == []


# Byte code of ``lambda x: x / 255`` from other versions of Python than the one that runs the tests.
@pytest.mark.parametrize(
    ("counters", "instructions"),
    [
        pytest.param(6, "7c0064011b005300", id="3.8 to 3.10"),
        pytest.param(5, "97007c0064017a0b00005300", id="3.11 and 3.12"),
        pytest.param(5, "9500550053012d0b00002400", id="3.13"),
    ],
)
def test_byte_code_of_other_pythons_is_known(counters: int, instructions: str) -> None:
    code = bytes.fromhex(instructions)
    data = b"\xe3" + bytes(4 * counters) + b"\xf3" + len(code).to_bytes(4, "little") + code
    data += b")\x02N\xe9\xff\x00\x00\x00" + b")\x00"
    assert classify_lambda([base64.b64encode(data).decode(), None, None]) is Verdict.DIVIDES_BY_255


@pytest.mark.parametrize(
    "function",
    [
        None,
        "normalize",
        [],
        ["!!!", None, None],
        [base64.b64encode(b"c").decode()],
        [base64.b64encode(b"c" + bytes(4) + b"s" + b"\xff" * 4).decode()],
        [base64.b64encode(b"c" + bytes(4) + b"s" + bytes(4) + b")\x01" * 3000).decode()],
        ["A" * 1_000_000],
        {"config": None},
    ],
)
def test_what_is_no_code_cannot_be_classified(function: object) -> None:
    assert classify_lambda(function) is Verdict.UNREADABLE


def replace_rescaling(path: Path, function: Callable[..., object] | None) -> None:
    """Put the Lambda layer of the original where our files have a Rescaling layer."""
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        layer = layer_of(config, "rescaling")
        layer["class_name"] = "Lambda"
        code = None if function is None else encode(function)
        layer["config"] = {"name": "rescaling", "function": [code, None, None], "function_type": "lambda"}
        file.attrs["model_config"] = json.dumps(config)


def test_the_division_of_the_original_is_taken_over_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "model.h5", make_network(input_normalize=True), (64, 64))
    replace_rescaling(path, lambda x: x / 255)
    model = read_keras(path)
    assert model.settings["input_normalize"] is True
    assert len(model.notes) == 1
    assert "rescaling was taken for the original's division by 255 from its code" in model.notes[0]


def test_a_lambda_that_cannot_be_classified_needs_input_normalize(tmp_path: Path) -> None:
    path = write(tmp_path / "model.h5", make_network(input_normalize=True), (64, 64))
    replace_rescaling(path, None)
    with pytest.raises(UserError, match=r"Lambda layer rescaling cannot be classified.*give input_normalize=True"):
        read_keras(path)
    assert "because input_normalize=True was given" in read_keras(path, {"input_normalize": True}).notes[0]


def test_a_lambda_that_does_something_else_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "model.h5", make_network(input_normalize=True), (64, 64))
    replace_rescaling(path, _touch_a_file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does something else than dividing by 255"):
        read_keras(path, {"input_normalize": True})
    assert [file.name for file in tmp_path.iterdir()] == ["model.h5"]


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_weights_of_another_layer_are_noticed(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, make_network(num_layers=3), (64, 64))
    if name == "model.h5":
        with h5py.File(path, "a") as file:
            names = list(file["model_weights"].attrs["layer_names"])
            first, second = names.index("conv2d"), names.index("conv2d_1")
            names[first], names[second] = names[second], names[first]
            file["model_weights"].attrs["layer_names"] = names
        with pytest.raises(UserError, match="holds weights of 'conv2d_1', those of 'conv2d' are needed"):
            read_keras(path)
        return
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").replace(b'"conv2d_1"', b'"renamed"')
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights)
    with pytest.raises(UserError, match="holds weights of 'conv2d_1', those of 'renamed' are needed"):
        read_keras(path)
