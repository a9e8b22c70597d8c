"""Describe a network as the model configuration from which Keras 3 or tf-keras builds it."""

from collections import Counter

from flexunet_pl.keras.layers import KerasLayer, numbered_name
from flexunet_pl.keras.shapes import ImageSize, output_shapes

# Options that do not change a layer's result but complete its description: initialisers for training from scratch, and
# FlexUNet's paddings, which make no difference where the sides are multiples of 2**(num_layers - 1).
HE_NORMAL = {"module": "keras.initializers", "class_name": "HeNormal", "config": {"seed": None}}
GLOROT_UNIFORM = {"module": "keras.initializers", "class_name": "GlorotUniform", "config": {"seed": None}}
EXTRAS: dict[str, dict[str, object]] = {
    "Conv2D": {"kernel_initializer": HE_NORMAL},
    "DepthwiseConv2D": {"depthwise_initializer": HE_NORMAL},
    "Conv2DTranspose": {"kernel_initializer": GLOROT_UNIFORM, "padding": "same"},
    "BatchNormalization": {"momentum": 0.99},
    "MaxPooling2D": {"padding": "valid"},
    "AveragePooling2D": {"padding": "valid"},
}
HEAD_EXTRAS: dict[str, object] = {"kernel_initializer": GLOROT_UNIFORM, "padding": "valid"}
# tf-keras calls the input and the model by other names than Keras 3.
LEGACY_INPUT_NAME = "input_1"


def keras3_config(layers: list[KerasLayer], image_size: ImageSize) -> dict[str, object]:
    """Return the content of config.json in a .keras file: a Functional model, not compiled.

    The input has the height and width ``image_size``; None leaves both variable.
    """
    shapes = output_shapes(layers, image_size)

    def tensor(name: str) -> dict[str, object]:
        history = {"shape": shapes[name], "dtype": "float32", "keras_history": [name, 0, 0]}
        return {"class_name": "__keras_tensor__", "config": history}

    def describe(layer: KerasLayer) -> dict[str, object]:
        tensors = [tensor(name) for name in layer.inputs]
        arguments: list[object] = [tensors] if len(tensors) > 1 else list(tensors)
        return {
            "module": "keras.layers",
            "class_name": layer.kind,
            "config": _options(layer, layer.name, "batch_shape", layers, image_size),
            "registered_name": None,
            "name": layer.name,
            "inbound_nodes": [{"args": arguments, "kwargs": {}}] if tensors else [],
        }

    described = [describe(layer) for layer in layers]
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": _model("functional", described, output_names(layers)),
        "registered_name": "Functional",
    }


def legacy_config(layers: list[KerasLayer], image_size: ImageSize) -> dict[str, object]:
    """Return the content of the attribute model_config in a whole-model .h5 of tf-keras, as for ``keras3_config``."""

    def describe(layer: KerasLayer) -> dict[str, object]:
        name = legacy_name(layer.name, layers)
        return {
            "class_name": layer.kind,
            "config": _options(layer, name, "batch_input_shape", layers, image_size),
            "name": name,
            "inbound_nodes": [[[legacy_name(x, layers), 0, 0, {}] for x in layer.inputs]] if layer.inputs else [],
        }

    described = [describe(layer) for layer in layers]
    return {"class_name": "Functional", "config": _model("model", described, output_names(layers))}


def legacy_name(name: str, layers: list[KerasLayer]) -> str:
    """Return tf-keras' name for the layer called ``name`` in Keras 3; only the input's differs."""
    return LEGACY_INPUT_NAME if name == layers[0].name else name


def numbered_names(layers: list[KerasLayer]) -> list[str]:
    """Return the names by which files of weights know the layers: their class and number, whatever they are called."""
    used: Counter[str] = Counter()
    names = []
    for layer in layers:
        names.append(numbered_name(layer.kind, used[layer.kind]))
        used[layer.kind] += 1
    return names


def output_names(layers: list[KerasLayer]) -> list[str]:
    """Return the names of the layers whose output is the model's: those that feed no other layer."""
    feeding = {name for layer in layers for name in layer.inputs}
    return [layer.name for layer in layers if layer.name not in feeding]


def _model(name: str, described: list[dict[str, object]], outputs: list[str]) -> dict[str, object]:
    return {
        "name": name,
        "trainable": True,
        "layers": described,
        "input_layers": [[described[0]["name"], 0, 0]],
        "output_layers": [[output, 0, 0] for output in outputs],
    }


def _options(
    layer: KerasLayer, name: str, shape_key: str, layers: list[KerasLayer], image_size: ImageSize
) -> dict[str, object]:
    if layer.kind == "InputLayer":
        shape = output_shapes([layer], image_size)[layer.name]
        return {"name": name, shape_key: shape, "dtype": "float32"}
    is_head = layer.kind == "Conv2D" and layer.name in output_names(layers)
    extras = HEAD_EXTRAS if is_head else EXTRAS.get(layer.kind, {})
    return {"name": name, "trainable": True, "dtype": "float32"} | extras | layer.options
