"""The torch operations that have an exact counterpart in Keras, each with the layers that it becomes."""

from collections.abc import Callable
from typing import Any, TypeAlias

from flexunet_pl.keras.chain import Call, Chain, NoCounterpart
from flexunet_pl.keras.layers import KerasLayer

RELU: dict[str, object] = {"negative_slope": 0.0, "threshold": 0.0}
Builder: TypeAlias = Callable[[Chain, Call], KerasLayer]


def pair(value: Any) -> list[int]:
    """Return torch's value for both axes as [vertical, horizontal]."""
    values = [*value] if isinstance(value, list | tuple) else [value]
    return values * 2 if len(values) == 1 else values


def convolution(chain: Chain, call: Call) -> KerasLayer:
    """Conv2D or DepthwiseConv2D, behind a ZeroPadding2D unless "valid" or "same" pad as torch does."""
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    stride, padding, dilation = (pair(call[name]) for name in ("stride", "padding", "dilation"))
    filters, kernel = weight.shape[0], list(weight.shape[2:])
    if max(stride) > 1 and max(dilation) > 1:
        raise NoCounterpart(f"Keras has no stride {stride} with dilation {dilation}")
    # At a stride of 1 Keras' "same" pads equally at both ends if the sum is even.
    is_same = stride == [1, 1] and all(
        2 * pad == dilated * (side - 1) for pad, side, dilated in zip(padding, kernel, dilation, strict=True)
    )
    if not is_same:
        x = chain.pad(x, padding[:1] * 2, padding[1:] * 2)
    options = {
        "data_format": "channels_last",
        "use_bias": bias is not None,
        "kernel_size": kernel,
        "strides": stride,
        "dilation_rate": dilation,
        "activation": "linear",
        "padding": "same" if is_same and any(padding) else "valid",
    }
    # Keras has no DepthwiseConv2D with strides that differ.
    if 1 < groups == x.channels == filters and stride[0] == stride[1]:
        return chain.add("DepthwiseConv2D", (x,), options | {"depth_multiplier": 1}, filters, (weight, bias))
    return chain.add("Conv2D", (x,), options | {"filters": filters, "groups": groups}, filters, (weight, bias))


def transposed_convolution(chain: Chain, call: Call) -> KerasLayer:
    """Conv2DTranspose, where the result is ``stride`` times as large, as Keras' "same" makes it."""
    weight, bias = call["weight"], call["bias"]
    stride, padding = pair(call["stride"]), pair(call["padding"])
    kernel = list(weight.shape[2:])
    is_same = all(2 * pad == side - step for pad, side, step in zip(padding, kernel, stride, strict=True))
    if call["groups"] != 1 or max(pair(call["dilation"])) != 1 or any(pair(call["output_padding"])) or not is_same:
        raise NoCounterpart(f"Keras has no transposed kernel {kernel} with stride {stride}, padding {padding} and that")
    options = {
        "data_format": "channels_last",
        "use_bias": bias is not None,
        "filters": weight.shape[1],
        "kernel_size": kernel,
        "strides": stride,
        "dilation_rate": [1, 1],
        "activation": "linear",
    }
    return chain.add("Conv2DTranspose", (call["input"],), options, weight.shape[1], (weight, bias))


def batch_normalization(chain: Chain, call: Call) -> KerasLayer:
    """BatchNormalization; Keras counts momentum the other way round."""
    x, gamma, beta = call["input"], call["weight"], call["bias"]
    if call["training"]:
        raise NoCounterpart("it takes the statistics of each batch, in evaluation too")
    options = {
        "axis": -1,
        "epsilon": call["eps"],
        "momentum": 1 - call["momentum"],
        "center": beta is not None,
        "scale": gamma is not None,
    }
    weights = (gamma, beta, call["running_mean"], call["running_var"])
    return chain.add("BatchNormalization", (x,), options, x.channels, weights)


def relu(chain: Chain, call: Call) -> KerasLayer:
    """ReLU, limited if torch calls it a hardtanh."""
    x = call["self"]
    if call.arguments.get("min_val", 0) != 0:
        raise NoCounterpart(f"a ReLU begins at 0, not at {call['min_val']}")
    limit = call.arguments.get("max_val")
    return chain.add("ReLU", (x,), RELU | {"max_value": None if limit is None else float(limit)}, x.channels)


def activation(name: str) -> Builder:
    """Return a builder of Keras' activation called ``name``."""

    def build(chain: Chain, call: Call) -> KerasLayer:
        return chain.add("Activation", (call["self"],), {"activation": name}, call["self"].channels)

    return build


def hard_sigmoid(chain: Chain, call: Call) -> KerasLayer:
    """ReLU6(x + 3) / 6, step by step: tf-keras calls another function hard_sigmoid."""
    x = call["self"]
    x = chain.add("Rescaling", (x,), {"scale": 1.0, "offset": 3.0}, x.channels)
    x = chain.add("ReLU", (x,), RELU | {"max_value": 6.0}, x.channels)
    return chain.add("Rescaling", (x,), {"scale": 1 / 6, "offset": 0.0}, x.channels)


def hard_swish(chain: Chain, call: Call) -> KerasLayer:
    """Multiply, of a layer and its hard sigmoid."""
    x = call["self"]
    return chain.add("Multiply", (x, hard_sigmoid(chain, call)), {}, x.channels)


def add(chain: Chain, call: Call) -> KerasLayer:
    """Add, of two layers."""
    if call["alpha"] != 1:
        raise NoCounterpart(f"Keras adds with no factor, here {call['alpha']}")
    return _merged("Add", chain, call)


def multiply(chain: Chain, call: Call) -> KerasLayer:
    """Multiply, of two layers, one of which may have sides of 1."""
    return _merged("Multiply", chain, call)


def _merged(kind: str, chain: Chain, call: Call) -> KerasLayer:
    x, y = call["self"], call["other"]
    if not (isinstance(x, KerasLayer) and isinstance(y, KerasLayer) and x.channels == y.channels):
        raise NoCounterpart(f"Keras' {kind} takes two layers of the same channels")
    return chain.add(kind, (x, y), {}, x.channels)


def concatenate(chain: Chain, call: Call) -> KerasLayer:
    """Concatenate, of channels."""
    tensors = call["tensors"]
    if call["dim"] % 4 != 1 or not all(isinstance(x, KerasLayer) for x in tensors):
        raise NoCounterpart("it joins something else than the channels of layers")
    return chain.add("Concatenate", tensors, {"axis": -1}, sum(x.channels for x in tensors))


def zero_padding(chain: Chain, call: Call) -> KerasLayer:
    """ZeroPadding2D."""
    if call["mode"] != "constant" or call["value"] not in (None, 0):
        raise NoCounterpart(f"it pads with mode={call['mode']}, value={call['value']}; Keras pads with zeros")
    left, right, top, bottom = (*call["pad"], 0, 0)[:4]
    return chain.pad(call["self"], (top, bottom), (left, right))


def max_pooling(chain: Chain, call: Call) -> KerasLayer:
    """MaxPooling2D; padding with zeros instead of minus infinity changes nothing behind a ReLU.

    At a stride of 1, Keras' "same" leaves out what is beyond the edge, as torch does.
    """
    if max(pair(call["dilation"])) != 1:
        raise NoCounterpart("Keras pools without dilation")
    size, padding = pair(call["kernel_size"]), pair(call["padding"])
    if (
        any(padding)
        and pair(call["stride"]) == [1, 1]
        and all(2 * p == s - 1 for p, s in zip(padding, size, strict=True))
    ):
        options: dict[str, object] = {"pool_size": size, "strides": [1, 1], "padding": "same"}
        options["data_format"] = "channels_last"
        return chain.add("MaxPooling2D", (call["self"],), options, call["self"].channels)
    if max(pair(call["padding"])) > 0 and call["self"].kind != "ReLU":
        raise NoCounterpart("it pads, and Keras pads with zeros, which is the same only behind a ReLU")
    return _pooled("MaxPooling2D", chain, call)


def average_pooling(chain: Chain, call: Call) -> KerasLayer:
    """AveragePooling2D."""
    if call["divisor_override"] or (max(pair(call["padding"])) > 0 and not call["count_include_pad"]):
        raise NoCounterpart("Keras divides by the size of the window")
    return _pooled("AveragePooling2D", chain, call)


def _pooled(kind: str, chain: Chain, call: Call) -> KerasLayer:
    x, size, padding = call["self"], pair(call["kernel_size"]), pair(call["padding"])
    stride = pair(call["stride"]) if call["stride"] else size
    x = chain.pad(x, padding[:1] * 2, padding[1:] * 2)
    # Both traced sides being whole numbers of windows, those of every image are.
    rest = [
        (side - window) % step for side, window, step in zip(chain.sides[x.name], size, stride, strict=True) if side
    ]
    if call["ceil_mode"] and any(rest):
        raise NoCounterpart("it rounds sides up, Keras down")
    options: dict[str, object] = {"pool_size": size, "strides": stride, "data_format": "channels_last"}
    return chain.add(kind, (x,), options, x.channels)


def average_of_all(chain: Chain, call: Call) -> KerasLayer:
    """GlobalAveragePooling2D, as (N, 1, 1, C)."""
    x = call["self"]
    if "output_size" in call.arguments:
        is_global = pair(call["output_size"]) == [1, 1]
    else:
        is_global = sorted(axis % 4 for axis in call["dim"] or ()) == [2, 3] and call["keepdim"]
    if not is_global:
        raise NoCounterpart("it averages other parts than the whole image")
    return chain.add("GlobalAveragePooling2D", (x,), {"keepdims": True, "data_format": "channels_last"}, x.channels)


def maximum_of_all(chain: Chain, call: Call) -> KerasLayer:
    """GlobalMaxPooling2D, as (N, C)."""
    x = call["self"]
    if sorted(axis % 4 for axis in call["dim"]) != [2, 3] or call["keepdim"]:
        raise NoCounterpart("it takes the maximum of other parts than the whole image")
    return chain.add("GlobalMaxPooling2D", (x,), {"keepdims": False, "data_format": "channels_last"}, x.channels)


def nearest_upsampling(chain: Chain, call: Call) -> KerasLayer:
    """UpSampling2D by a whole factor, the same both ways, so that it is no matter of the image's size."""
    x = call["input"]
    factors = {new / old for new, old in zip(call.sides, chain.sides[x.name], strict=True) if new and old}
    factor = int(min(factors))
    if factors != {factor}:
        raise NoCounterpart(f"it resizes by {', '.join(f'{value:g}' for value in sorted(factors))}")
    options: dict[str, object] = {"size": [factor, factor], "interpolation": "nearest"}
    return chain.add("UpSampling2D", (x,), options | {"data_format": "channels_last"}, x.channels)


def identity(_: Chain, call: Call) -> KerasLayer:
    """Nothing: a dropout in evaluation mode."""
    if call["train"]:
        raise NoCounterpart("it drops values in evaluation too")
    layer: KerasLayer = call["input"]
    return layer


# By the name of the operation in torch.ops.aten, without the underscore of those that work in place.
BUILDERS: dict[str, Builder] = {
    "conv2d.default": convolution,
    "conv_transpose2d.input": transposed_convolution,
    "batch_norm.default": batch_normalization,
    "relu.default": relu,
    "hardtanh.default": relu,
    "silu.default": activation("silu"),
    "sigmoid.default": activation("sigmoid"),
    "hardsigmoid.default": hard_sigmoid,
    "hardswish.default": hard_swish,
    "add.Tensor": add,
    "mul.Tensor": multiply,
    "cat.default": concatenate,
    "pad.default": zero_padding,
    "max_pool2d.default": max_pooling,
    "avg_pool2d.default": average_pooling,
    "adaptive_avg_pool2d.default": average_of_all,
    "mean.dim": average_of_all,
    "amax.default": maximum_of_all,
    "upsample_nearest2d.vec": nearest_upsampling,
    "dropout.default": identity,
    "feature_dropout.default": identity,
}
