"""Describe a FlexUNet as the model configuration from which Keras 3 or tf-keras builds it."""

from flexunet_pl.keras.layers import KerasLayer

ImageSize = tuple[int, int] | None

# Options that do not change a layer's result but complete its description: initialisers for training from scratch, and
# paddings that make no difference where the sides are multiples of 2**(num_layers - 1).
HE_NORMAL = {"module": "keras.initializers", "class_name": "HeNormal", "config": {"seed": None}}
GLOROT_UNIFORM = {"module": "keras.initializers", "class_name": "GlorotUniform", "config": {"seed": None}}
EXTRAS: dict[str, dict[str, object]] = {
    "Conv2D": {"kernel_initializer": HE_NORMAL},
    "Conv2DTranspose": {"kernel_initializer": GLOROT_UNIFORM, "padding": "same"},
    "BatchNormalization": {"momentum": 0.99},
    "MaxPooling2D": {"padding": "valid"},
}
HEAD_EXTRAS: dict[str, object] = {"kernel_initializer": GLOROT_UNIFORM, "padding": "valid"}
# tf-keras calls the input and the model by other names than Keras 3.
LEGACY_INPUT_NAME = "input_1"


def keras3_config(layers: list[KerasLayer], image_size: ImageSize) -> dict[str, object]:
    """Return the content of config.json in a .keras file: a Functional model, not compiled.

    The input has the height and width ``image_size``; None leaves both variable.
    """
    layer_of = {layer.name: layer for layer in layers}

    def tensor(name: str) -> dict[str, object]:
        shape = output_shape(layer_of[name], image_size)
        history = {"shape": shape, "dtype": "float32", "keras_history": [name, 0, 0]}
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
        "config": _model("functional", described),
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

    return {"class_name": "Functional", "config": _model("model", [describe(layer) for layer in layers])}


def legacy_name(name: str, layers: list[KerasLayer]) -> str:
    """Return tf-keras' name for the layer called ``name`` in Keras 3; only the input's differs."""
    return LEGACY_INPUT_NAME if name == layers[0].name else name


def output_shape(layer: KerasLayer, image_size: ImageSize) -> list[int | None]:
    """Return the shape [None, height, width, channels] of the layer's output; None where it is variable."""
    sides = (None, None) if image_size is None else tuple(side >> layer.level for side in image_size)
    return [None, *sides, layer.channels]


def _model(name: str, described: list[dict[str, object]]) -> dict[str, object]:
    return {
        "name": name,
        "trainable": True,
        "layers": described,
        "input_layers": [[described[0]["name"], 0, 0]],
        "output_layers": [[described[-1]["name"], 0, 0]],
    }


def _options(
    layer: KerasLayer, name: str, shape_key: str, layers: list[KerasLayer], image_size: ImageSize
) -> dict[str, object]:
    if layer.kind == "InputLayer":
        return {"name": name, shape_key: output_shape(layer, image_size), "dtype": "float32"}
    extras = HEAD_EXTRAS if layer is layers[-1] else EXTRAS.get(layer.kind, {})
    return {"name": name, "trainable": True, "dtype": "float32"} | extras | layer.options
