"""FlexUNet: a U-Net with a large first kernel and a dilation that taper, and a dropout that grows with depth."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.ranges import Range, check_fields
from flexunet_pl.nn.dropout import Dropout
from flexunet_pl.nn.stages import Outputs

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    # Keras' default slope, where torch's is 0.01.
    "leaky_relu": lambda: nn.LeakyReLU(negative_slope=0.2),
}

# Standard deviation of a unit normal truncated at +-2: Keras' HeNormal divides by it to keep the asked-for variance.
TRUNCATED_NORMAL_STD = 0.87962566103423978
# What ``normalization`` can be beside a truth value, and the groups of channels it makes at most.
GROUP_NORM = "group"
MAX_GROUPS = 8
# 1 GiB of float32; training takes four times as much.
MOST_WEIGHTS = 2**29


@dataclass(frozen=True)
class FlexUNetSettings:
    """The settings of a FlexUNet.

    Attributes:
        base_filters: Filters of the top level; they double from level to level.
        base_kernel: Kernel side of the top level; it shrinks by 2 a level down to 3.
        num_layers: Number of levels, the bridge included.
        dropout: Dropout rate, multiplied by the level: none at the top.
        dilation: Dilation of the top level; it shrinks by 1 a level down to 1.
        activation: relu, mish, gelu, silu, elu or leaky_relu.
        normalization: true puts a BatchNorm after each activation, group a GroupNorm of up to 8 groups, which needs no
            statistics of other images and so suits images that differ in brightness.
        input_normalize: Whether the network divides its input by 255.

    Raises:
        UserError: If a value is out of its range; the message names the value, the rule and the repair.
    """

    base_filters: Annotated[int, Range(1, 4096)] = 16
    base_kernel: Annotated[int, Range(1, 255)] = 9
    num_layers: Annotated[int, Range(1, 16)] = 6
    dropout: float = 0.04
    dilation: Annotated[int, Range(1, 255)] = 1
    activation: str = "relu"
    normalization: bool | str = False
    input_normalize: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self)
        deepest = self.num_layers - 1
        if not (self.dropout >= 0 and self.dropout * deepest < 1):
            raise UserError(
                f"dropout={self.dropout} grows to {self.dropout * deepest:g} at level {deepest} "
                f"(num_layers={self.num_layers}) and must stay within 0 and below 1 there; "
                f"try {math.floor(100 * 0.9 / max(deepest, 1)) / 100:g} or less"
            )
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"activation={self.activation!r}; choose from {', '.join(ACTIVATIONS)}"
                f"{suggestion(self.activation, ACTIVATIONS)}"
            )
        if self.normalization not in (False, True, GROUP_NORM):
            raise UserError(
                f"normalization={self.normalization!r}; choose from false, true (BatchNorm) and {GROUP_NORM}"
            )


class FlexUNet(nn.Module):
    """Map an image (N, C, H, W), 0..255, to logits (N, K, H, W), any H and W.

    Level i = 0 .. num_layers - 1 (the last is the bridge) has ``base_filters * 2**i`` filters, kernels of
    ``max(3, base_kernel - 2 * i)``, a dilation of ``max(1, dilation - i)`` and a dropout rate of ``dropout * i``.
    Layers, order and initialisers are those of TensorFlowFlexUNet, so that weights carry over both ways.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, settings: FlexUNetSettings | None = None) -> None:
        """Build the layers and initialise them as Keras does.

        Args:
            num_classes: Output channels K, background included; 1 means one sigmoid channel for the second class.
            in_channels: Channels C of the image.
            settings: All else; None for the defaults.

        Raises:
            UserError: If a number of channels is below 1.
        """
        super().__init__()
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        settings = FlexUNetSettings() if settings is None else settings
        self.settings = settings
        self.in_channels = in_channels
        self.num_classes = num_classes
        deepest = settings.num_layers - 1
        if (count := _count_weights(num_classes, in_channels, settings)) > MOST_WEIGHTS:
            sizes = ", ".join(
                f"{name}={getattr(settings, name)}" for name in ("base_filters", "base_kernel", "num_layers")
            )
            raise UserError(
                f"{sizes}, in_channels={in_channels}: a network of {count:,} weights, where at most {MOST_WEIGHTS:,} "
                "are allowed; lower base_filters or num_layers"
            )
        self.size_multiple = 2**deepest
        self.input_scale = 1 / 255 if settings.input_normalize else 1.0
        filters = [settings.base_filters * 2**level for level in range(settings.num_layers)]
        channels = [in_channels, *filters]
        self.encoder = nn.ModuleList(ConvBlock(channels[level], level, settings) for level in range(deepest))
        self.pool = nn.MaxPool2d(2)
        self.bridge = ConvBlock(channels[deepest], deepest, settings)
        self.decoder = nn.ModuleList(
            DecoderLevel(filters[level + 1], filters[level], ConvBlock(2 * filters[level], level, settings))
            for level in reversed(range(deepest))
        )
        self.head = nn.Conv2d(filters[0], num_classes, kernel_size=1)
        self.apply(_initialise_like_keras)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "FlexUNet":
        """Build a network from a flat map of num_classes, in_channels and the settings."""
        settings = dict(arguments)
        num_classes, in_channels = settings.pop("num_classes"), settings.pop("in_channels", 3)
        return cls(num_classes, in_channels, FlexUNetSettings(**settings))

    @property
    def arguments(self) -> dict[str, Any]:
        """The flat map from which :meth:`from_arguments` builds the same network anew."""
        return {"num_classes": self.num_classes, "in_channels": self.in_channels, **asdict(self.settings)}

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W), uint8 or float, 0..255, to logits (N, K, H, W)."""
        return self.outputs(image).logits

    def outputs(self, image: Tensor) -> Outputs:
        """Map an image as ``forward`` does; the stages are those of the encoder, then of the bridge."""
        height, width = image.shape[-2:]
        x = image.to(self.head.weight.dtype)
        if self.input_scale != 1:
            x = x * self.input_scale
        x = pad_to_multiple(x, self.size_multiple)
        skips = []
        for down in self.encoder:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bridge(x)
        stages = [*skips, x]
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            x = up(x, skip)
        return Outputs(self.head(x)[..., :height, :width], None, stages)


class ConvBlock(nn.Sequential):
    """Two convolutions of one level: (N, C_in, H, W) -> (N, C_out, H, W)."""

    def __init__(self, channels_in: int, level: int, settings: FlexUNetSettings) -> None:
        """Stack convolution, activation, normalisation if asked for, dropout (first half only), twice."""
        channels_out = settings.base_filters * 2**level
        kernel, dilation = max(3, settings.base_kernel - 2 * level), max(1, settings.dilation - level)

        def half(channels: int) -> list[nn.Module]:
            convolution = nn.Conv2d(channels, channels_out, kernel, padding="same", dilation=dilation)
            layers = [convolution, ACTIVATIONS[settings.activation]()]
            if settings.normalization == GROUP_NORM:
                layers.append(nn.GroupNorm(math.gcd(MAX_GROUPS, channels_out), channels_out, eps=1e-3))
            elif settings.normalization:
                # Keras counts momentum the other way round: its 0.99 is 0.01 here. Weight parity needs both numbers.
                layers.append(nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01))
            return layers

        super().__init__(*half(channels_in), Dropout(settings.dropout * level), *half(channels_out))


class DecoderLevel(nn.Module):
    """Double the size, join the skip connection, convolve: (N, C_in, H, W) -> (N, C_out, 2H, 2W)."""

    def __init__(self, channels_in: int, channels_out: int, block: ConvBlock) -> None:
        """Build the transposed convolution that feeds ``block``."""
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels_in, channels_out, kernel_size=2, stride=2)
        self.block = block

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map features (N, C_in, H, W) and the skip (N, C_out, 2H, 2W) to (N, C_out, 2H, 2W)."""
        joined: Tensor = self.block(torch.cat([self.upsample(x), skip], dim=1))
        return joined


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad a float image (N, C, H, W) at its right and bottom by replication to multiples of ``multiple``."""
    height, width = image.shape[-2:]
    # Written so that torch.export keeps H and W dynamic; (-width) % multiple does not.
    pad_bottom = ((height + multiple - 1) // multiple) * multiple - height
    pad_right = ((width + multiple - 1) // multiple) * multiple - width
    if not torch.compiler.is_exporting() and pad_bottom == pad_right == 0:
        return image  # padding by nothing would copy
    return functional.pad(image, (0, pad_right, 0, pad_bottom), mode="replicate")


def _count_weights(num_classes: int, in_channels: int, settings: FlexUNetSettings) -> int:
    """Return the number of weights of the convolutions, biases left out."""
    filters = [settings.base_filters << level for level in range(settings.num_layers)]
    areas = [max(3, settings.base_kernel - 2 * level) ** 2 for level in range(settings.num_layers)]
    entering = [in_channels, *filters]
    count: int = filters[0] * num_classes
    for level, (width, area) in enumerate(zip(filters, areas, strict=True)):
        count += area * width * (entering[level] + width)
        if level < settings.num_layers - 1:  # the decoder doubles the size, then joins the skip connection
            count += 4 * 2 * width * width + area * width * (2 * width + width)
    return count


def _initialise_like_keras(layer: nn.Module) -> None:
    """HeNormal for block convolutions, GlorotUniform for transposed ones and the 1x1 head, zero biases."""
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return
    if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
        std = math.sqrt(2 / layer.weight[0].numel()) / TRUNCATED_NORMAL_STD
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
