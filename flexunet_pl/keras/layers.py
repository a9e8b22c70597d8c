"""FlexUNet as a list of Keras layers: class, name, inputs, options and weights in the order of the original."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.flexunet import GROUP_NORM, FlexUNet

# Far beyond any network that trains; within them no shape overflows.
MAX_LEVELS = 16
MAX_CHANNELS = 2**20
MAX_KERNEL = 1023
# Keras names layers after their class and numbers them from the second on.
PLAIN_NAMES = {
    "InputLayer": "input_layer",
    "Rescaling": "rescaling",
    "Conv2D": "conv2d",
    "BatchNormalization": "batch_normalization",
    "GroupNormalization": "group_normalization",
    "Dropout": "dropout",
    "MaxPooling2D": "max_pooling2d",
    "Conv2DTranspose": "conv2d_transpose",
    "Concatenate": "concatenate",
    # Layers of other networks than FlexUNet.
    "DepthwiseConv2D": "depthwise_conv2d",
    "ZeroPadding2D": "zero_padding2d",
    "UpSampling2D": "up_sampling2d",
    "AveragePooling2D": "average_pooling2d",
    "GlobalAveragePooling2D": "global_average_pooling2d",
    "GlobalMaxPooling2D": "global_max_pooling2d",
    "ReLU": "re_lu",
    "Activation": "activation",
    "Add": "add",
    "Multiply": "multiply",
}
# Keras' names of a layer's weights, in the order in which Keras stores them, and torch's names for the same.
WEIGHTS: dict[str, dict[str, str]] = {
    "Conv2D": {"kernel": "weight", "bias": "bias"},
    "Conv2DTranspose": {"kernel": "weight", "bias": "bias"},
    "GroupNormalization": {"gamma": "weight", "beta": "bias"},
}
WEIGHTS["BatchNormalization"] = WEIGHTS["GroupNormalization"] | {
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# The name is that of tf-keras; Keras 3 says kernel, and goes by the order alone.
WEIGHTS["DepthwiseConv2D"] = {"depthwise_kernel": "weight", "bias": "bias"}
# Kernels are (h, w, in, out) in Keras, transposed ones (h, w, out, in), those of one channel each (h, w, channel, 1).
KERNEL_AXES = {"Conv2D": (2, 3, 1, 0), "Conv2DTranspose": (2, 3, 1, 0), "DepthwiseConv2D": (2, 3, 0, 1)}
# The setting ``normalization`` by the class of the layers that it makes.
NORMALIZATIONS: dict[str, bool | str] = {"BatchNormalization": True, "GroupNormalization": GROUP_NORM}
CONVOLUTION = {"data_format": "channels_last", "use_bias": True}


@dataclass(frozen=True)
class KerasWeight:
    """One weight: Keras' name for it, its shape there, and its key in the network's state dict."""

    name: str
    shape: tuple[int, ...]
    state_key: str


@dataclass(frozen=True)
class KerasLayer:
    """One layer of the Keras model.

    ``options`` are those that decide the layer's result. Its output is (N, H', W', channels), or (N, channels) behind
    a global pooling.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    options: dict[str, object]
    channels: int
    weights: tuple[KerasWeight, ...] = ()


@dataclass
class _Chain:
    """Layers in the making; each new one is named as Keras does: per class, in the order of creation."""

    activation: str
    layers: list[KerasLayer] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        kind: str,
        inputs: tuple[KerasLayer, ...],
        options: dict[str, object],
        channels: int,
        module: tuple[str, nn.Module] | None = None,
    ) -> KerasLayer:
        """Append a layer of class ``kind``; ``module`` is the torch module that holds its weights, with its name."""
        name = numbered_name(kind, self.used[kind])
        self.used[kind] += 1
        weights = () if module is None else keras_weights(kind, *module)
        self.layers.append(KerasLayer(kind, name, tuple(x.name for x in inputs), options, channels, weights))
        return self.layers[-1]

    def convolution(self, x: KerasLayer, name: str, conv: nn.Module, activation: str) -> KerasLayer:
        """Append Conv2D or Conv2DTranspose for the torch module ``conv`` called ``name``."""
        if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            raise TypeError(f"{name} is {type(conv).__name__}, a convolution is needed")
        up = isinstance(conv, nn.ConvTranspose2d)
        options = CONVOLUTION | {
            "filters": conv.out_channels,
            "kernel_size": list(conv.kernel_size),
            "strides": list(conv.stride),
            "dilation_rate": list(conv.dilation),
            "activation": activation,
        }
        if not up:
            # Keras 3 has no groups in Conv2DTranspose and refuses the option.
            options["groups"] = conv.groups
        if not up and conv.kernel_size != (1, 1):
            options["padding"] = "same"
        kind = "Conv2DTranspose" if up else "Conv2D"
        return self.add(kind, (x,), options, conv.out_channels, (name, conv))

    def block(self, x: KerasLayer, name: str, block: nn.Module) -> KerasLayer:
        """Append the layers of one ConvBlock; in Keras the activation is part of the convolution."""
        for index, layer in block.named_children():
            module = f"{name}.{index}"
            if isinstance(layer, nn.Conv2d):
                x = self.convolution(x, module, layer, self.activation)
            elif isinstance(layer, nn.BatchNorm2d):
                options: dict[str, object] = {"axis": -1, "epsilon": layer.eps, "center": True, "scale": True}
                x = self.add("BatchNormalization", (x,), options, x.channels, (module, layer))
            elif isinstance(layer, nn.GroupNorm):
                options = {"groups": layer.num_groups, "axis": -1, "epsilon": layer.eps, "center": True, "scale": True}
                x = self.add("GroupNormalization", (x,), options, x.channels, (module, layer))
            elif isinstance(layer, nn.Dropout):
                x = self.add("Dropout", (x,), {"rate": layer.p}, x.channels)
        return x


def keras_layers(network: FlexUNet) -> list[KerasLayer]:
    """Return the Keras layers of ``network`` from the input to the head, in the order of the original."""
    settings = network.arguments
    chain = _Chain(settings["activation"])
    x = chain.add("InputLayer", (), {}, settings["in_channels"])
    if settings["input_normalize"]:
        x = chain.add("Rescaling", (x,), {"scale": 1 / 255, "offset": 0.0}, x.channels)
    skips = []
    for level, down in enumerate(network.encoder):
        x = chain.block(x, f"encoder.{level}", down)
        skips.append(x)
        pooling: dict[str, object] = {"pool_size": [2, 2], "strides": [2, 2], "data_format": "channels_last"}
        x = chain.add("MaxPooling2D", (x,), pooling, x.channels)
    x = chain.block(x, "bridge", network.bridge)
    for index, (up, skip) in enumerate(zip(network.decoder, reversed(skips), strict=True)):
        x = chain.convolution(x, f"decoder.{index}.upsample", up.get_submodule("upsample"), "linear")
        x = chain.add("Concatenate", (x, skip), {"axis": -1}, x.channels + skip.channels)
        x = chain.block(x, f"decoder.{index}.block", up.get_submodule("block"))
    chain.convolution(x, "head", network.head, "softmax" if settings["num_classes"] > 1 else "sigmoid")
    return chain.layers


def normalization_of(kinds: Iterable[str]) -> bool | str:
    """Return the setting ``normalization`` of a model with layers of these classes."""
    return next((NORMALIZATIONS[kind] for kind in kinds if kind in NORMALIZATIONS), False)


def keras_weights(kind: str, module_name: str, module: nn.Module) -> tuple[KerasWeight, ...]:
    """Return Keras' description of the weights in the torch ``module`` called ``module_name``."""
    state = module.state_dict()
    return tuple(
        KerasWeight(name, keras_shape(kind, state[key].shape), f"{module_name}.{key}")
        for name, key in WEIGHTS[kind].items()
    )


def blank_network(settings: Mapping[str, Any], origin: Path) -> FlexUNet:
    """Return the FlexUNet of ``settings`` on torch's meta device: shapes, but no memory for weights.

    Raises:
        UserError: If the settings, found in the file ``origin``, make no network.
    """
    widest = settings["base_filters"] * 2 ** min(settings["num_layers"] - 1, MAX_LEVELS)
    counts = {
        "num_layers": (settings["num_layers"], MAX_LEVELS),
        "filters of the bridge": (widest, MAX_CHANNELS),
        "in_channels": (settings["in_channels"], MAX_CHANNELS),
        "num_classes": (settings["num_classes"], MAX_CHANNELS),
        "base_kernel": (settings["base_kernel"], MAX_KERNEL),
    }
    for name, (value, limit) in counts.items():
        if value > limit:
            raise UserError(f"{origin}: {name} is {value}, at most {limit} can be read")
    try:
        with torch.device("meta"):
            return FlexUNet.from_arguments(settings)
    except UserError as error:
        raise UserError(f"{origin} describes no FlexUNet: {error}") from error


def keras_shape(kind: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape in Keras of a weight of ``shape`` in torch, in a layer of class ``kind``."""
    return tuple(shape[axis] for axis in KERNEL_AXES[kind]) if len(shape) == 4 else tuple(shape)


def to_keras(tensor: Tensor, kind: str = "Conv2D") -> npt.NDArray[np.float32]:
    """Return ``tensor``, a weight of a layer of class ``kind``, as Keras stores it, float32."""
    ordered = tensor.permute(KERNEL_AXES[kind]) if tensor.ndim == 4 else tensor
    return np.ascontiguousarray(ordered.detach().to("cpu", torch.float32).numpy())


def to_torch(array: npt.NDArray[np.float32]) -> Tensor:
    """Return Keras' ``array`` as torch stores it, float32; no flip, only another order of the axes."""
    tensor = torch.from_numpy(array)
    return tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor


def all_finite(tensor: Tensor) -> bool:
    """Return whether ``tensor`` is free of NaN and infinities; both propagate to the extremes, which take one pass."""
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def count_levels(kernels: int) -> int | None:
    """Return the number of levels of the FlexUNet with ``kernels`` convolutions of any kind, None if there is none."""
    # Two in each of 2n - 1 blocks, n - 1 transposed ones, the head: 5n - 2.
    levels, rest = divmod(kernels + 2, 5)
    return levels if rest == 0 and levels >= 1 else None


def numbered_name(kind: str, index: int) -> str:
    """Return Keras' name for the layer of class ``kind`` that was created as number ``index``."""
    return f"{PLAIN_NAMES[kind]}_{index}" if index else PLAIN_NAMES[kind]
