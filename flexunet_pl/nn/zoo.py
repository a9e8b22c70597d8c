"""Other architectures, from segmentation-models-pytorch, behind the contract of FlexUNet."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.ranges import check_fields
from flexunet_pl.nn.defect_head import DefectGate, DefectHead
from flexunet_pl.nn.depthwise import speed_up_depthwise
from flexunet_pl.nn.encoder_weights import is_file, load_encoder_weights
from flexunet_pl.nn.flexunet import pad_to_multiple
from flexunet_pl.nn.published_weights import has_package, load_published_weights
from flexunet_pl.nn.same_padding import fix_same_padding
from flexunet_pl.nn.stages import Outputs


class Architecture(NamedTuple):
    """What the package must know about an architecture."""

    class_name: str  # in segmentation_models_pytorch
    encoder: str = "tu-tf_efficientnet_lite0"  # by default
    size_multiple: int = 32  # images are padded to multiples of this
    # Whether an exported graph can take images of any size. Pools to a fixed number of cells and tokens with learnt
    # positions are exported for one size.
    exports_any_size: bool = True
    has_bottleneck: bool = True  # features (N, C, h, w) that the head for whole images can look at


# Values of ``encoder_weights`` beside files and names of published weights.
AUTO_WEIGHTS, RANDOM_WEIGHTS = "auto", "random"


@dataclass(frozen=True)
class ZooSettings:
    """The settings of a network of the zoo.

    Attributes:
        encoder: An encoder of segmentation-models-pytorch, or tu- and the name of a timm model. By default
            tu-tf_efficientnet_lite0, for segformer mit_b0 and for dpt tu-vit_small_patch16_224.
        encoder_weights: A file with weights for the encoder, or the name of published weights (imagenet), which are
            taken from an installed package, or downloaded; random for none. By default imagenet if they come in a
            package (tu-tf_efficientnet_lite0), else random.
        defect_head: Whether the network also tells how likely an image shows any defect (default: true, but for dpt).
        defect_gate: Whether that head suppresses defects where it sees none (default: as defect_head).
    """

    encoder: str | None = None
    encoder_weights: str | None = AUTO_WEIGHTS
    defect_head: bool | None = None
    defect_gate: bool | None = None

    def __post_init__(self) -> None:
        """Check the types."""
        check_fields(self)


ZOO = {
    "unet": Architecture("Unet"),
    "unetplusplus": Architecture("UnetPlusPlus"),
    "deeplabv3plus": Architecture("DeepLabV3Plus"),
    "segformer": Architecture("Segformer", encoder="mit_b0"),
    "upernet": Architecture("UPerNet", exports_any_size=False),
    "manet": Architecture("MAnet"),
    "linknet": Architecture("Linknet"),
    "fpn": Architecture("FPN"),
    "pspnet": Architecture("PSPNet", exports_any_size=False),
    # Its decoder halves the features, a sixteenth of the image, three times more.
    "pan": Architecture("PAN", size_multiple=128),
    "dpt": Architecture("DPT", encoder="tu-vit_small_patch16_224", exports_any_size=False, has_bottleneck=False),
}

# Encoders that attend in windows, whose number torch's exporter takes for constant.
WINDOWED = ("tu-swin", "tu-maxvit", "tu-maxxvit", "tu-coatnet")

# Mean and standard deviation of R, G, B, in 0..1, that pretrained encoders expect; timm knows those of "tu-" encoders.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORMALISATIONS = {
    "dpn": ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
    "inception": HALF,
    "xception": HALF,
}


class ZooNetwork(nn.Module):
    """Map an image (N, C, H, W), 0..255, to logits (N, K, H, W), any H and W.

    Padding to ``size_multiple``, cropping, and the normalisation that the encoder was pretrained with are inside.
    ``encoder`` is the name of the encoder, ``exports_any_size`` that of :class:`Architecture`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, num_classes: int, in_channels: int = 3, settings: ZooSettings | None = None) -> None:
        """Build the network.

        Args:
            name: A key of ``ZOO``.
            num_classes: Output channels K.
            in_channels: Channels of the image.
            settings: Encoder and weights; None for the defaults.

        Raises:
            UserError: If encoder or weights are unknown, out of reach, or do not fit.
        """
        super().__init__()
        # Takes seconds to import; most runs are FlexUNet's.
        import segmentation_models_pytorch as smp

        architecture = ZOO[name]
        settings = ZooSettings() if settings is None else settings
        self.encoder = architecture.encoder if settings.encoder is None else settings.encoder
        self.size_multiple = architecture.size_multiple
        self.has_bottleneck = architecture.has_bottleneck
        self.exports_any_size = architecture.exports_any_size and not self.encoder.startswith(WINDOWED)
        self.in_channels = in_channels
        self.num_classes = num_classes
        _check_encoder(name, self.encoder)
        mean, std = (_per_channel(values, in_channels) for values in _normalisation(self.encoder))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        build = partial(getattr(smp, architecture.class_name), encoder_name=self.encoder, encoder_weights=None)
        try:
            self.model = _built(partial(build, in_channels=in_channels, classes=num_classes), self.encoder)
            fix_same_padding(self.model)  # forward pads images to multiples of the total stride
            speed_up_depthwise(self.model)
            for module in self.model.modules():
                if type(module) is nn.BatchNorm2d:
                    module.__class__ = LoneValueBatchNorm
            self.defect_head = self._new_defect_head(architecture, settings.defect_head)
            self.defect_gate = self._new_defect_gate(settings.defect_gate)
            self._try_out()
        except (ValueError, KeyError, TypeError, RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"model.encoder={self.encoder!r} does not work with model.network={name!r} ({reason}); "
                f"try {architecture.encoder!r}"
            ) from error
        self._load(settings.encoder_weights)

    @property
    def settings(self) -> ZooSettings:
        """The settings that build the same network again; a checkpoint has the weights of the encoder."""
        return ZooSettings(self.encoder, RANDOM_WEIGHTS, self.defect_head is not None, self.defect_gate is not None)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W), uint8 or float, 0..255, to logits (N, K, H, W)."""
        return self.logits_and_cells(image)[0]

    def logits_and_cells(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map an image as ``forward`` does; also return the cells of :class:`DefectHead`, None without that head.

        In evaluation mode the logits went through the gate.
        """
        logits, cells, _ = self.outputs(image)
        return logits, cells

    def outputs(self, image: Tensor) -> Outputs:
        """Map an image as :meth:`logits_and_cells` does; also return the encoder's stages, none of dpt."""
        height, width = image.shape[-2:]
        x = pad_to_multiple((image.to(self.mean.dtype) - self.mean) / self.std, self.size_multiple)
        if not self.has_bottleneck:
            return Outputs(self.model(x)[..., :height, :width], None, [])
        model: Any = self.model  # what its forward does, but for a check of the size
        stages = model.encoder(x)
        logits = model.segmentation_head(model.decoder(stages))
        cells = None if self.defect_head is None else self.defect_head(stages[-1])
        if cells is not None and self.defect_gate is not None and not self.training:
            logits = self.defect_gate(logits, cells)
        return Outputs(logits[..., :height, :width], cells, list(stages))

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoder."""
        return list(self.model.get_submodule("encoder").parameters())

    def _new_defect_head(self, architecture: Architecture, wanted: bool | None) -> DefectHead | None:
        if wanted and not architecture.has_bottleneck:
            raise ValueError("model.defect_head=true needs features in rows and columns, which it does not have")
        if not (architecture.has_bottleneck if wanted is None else wanted):
            return None
        channels: Any = self.model.get_submodule("encoder").out_channels
        return DefectHead(channels[-1])

    def _new_defect_gate(self, wanted: bool | None) -> DefectGate | None:
        if self.defect_head is None:
            if wanted:
                raise ValueError("model.defect_gate=true needs model.defect_head")
            return None
        encoder: Any = self.model.get_submodule("encoder")
        return None if wanted is False else DefectGate(self.num_classes, encoder.output_stride)

    def _load(self, encoder_weights: str | None) -> None:
        """Load the weights of the encoder that the setting asks for."""
        if encoder_weights == AUTO_WEIGHTS:
            encoder_weights = "imagenet" if has_package(self.encoder, "imagenet") else None
        if encoder_weights is None or encoder_weights == RANDOM_WEIGHTS:
            return
        part: Any = self.model.get_submodule("encoder")
        if is_file(encoder_weights):
            load_encoder_weights(part, encoder_weights, self.encoder)
        else:
            load_published_weights(part, self.encoder, encoder_weights, self.in_channels)

    @torch.no_grad()
    def _try_out(self) -> None:
        """Run the smallest image, for timm's models are many and not all of them take what others take."""
        if not self.encoder.startswith("tu-"):
            return
        side = self.size_multiple
        was_training = self.training
        size = self.eval()(torch.zeros(1, self.in_channels, side, 2 * side)).shape[-2:]
        self.train(was_training)
        if size != (side, 2 * side):
            raise ValueError(f"an image of {side}x{2 * side} pixels gives a mask of {size[0]}x{size[1]}")


class LoneValueBatchNorm(nn.BatchNorm2d):
    """A BatchNorm that uses its running statistics where there is one value a channel, which has no variance.

    That happens to pooled features when the last batch of an epoch is one image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same."""
        if self.training and x.numel() == x.shape[1]:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(x)


def _built(build: Callable[..., nn.Module], encoder: str) -> nn.Module:
    """Call ``build``, so that encoders of tokens take images of any size."""
    if encoder.startswith("tu-"):
        for option in ("dynamic_img_size", True), ("strict_img_size", False):
            with contextlib.suppress(TypeError):  # this model knows no such option
                return build(**dict([option]))
    return build()


def _check_encoder(network: str, encoder: str) -> None:
    """Raise the UserError that suggests a known encoder, unless this one is known."""
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    if encoder.startswith("tu-"):
        if not timm.is_model(encoder.removeprefix("tu-")):
            known = [f"tu-{name}" for name in timm.list_models()]
            raise UserError(f"model.encoder={encoder!r}: timm has no such model{suggestion(encoder, known)}")
        return
    known = [name for name in get_encoder_names() if not name.startswith("timm-")]
    if network == "dpt":
        raise UserError(f"model.encoder={encoder!r}: dpt needs a transformer of timm, such as {ZOO['dpt'].encoder!r}")
    if encoder not in known:
        raise UserError(
            f"model.encoder={encoder!r}; choose from {', '.join(known)}, or 'tu-' and the name of a timm model"
            f"{suggestion(encoder, known)}"
        )


def _normalisation(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of R, G, B, in 0..1, that weights of this encoder expect."""
    if encoder.startswith("tu-"):
        import timm

        facts = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        return IMAGENET if facts is None else (tuple(facts.mean), tuple(facts.std))
    return next((values for prefix, values in NORMALISATIONS.items() if encoder.startswith(prefix)), IMAGENET)


def _per_channel(values: tuple[float, ...], channels: int) -> Tensor:
    """Map values of R, G, B in 0..1 to float32 (1, C, 1, 1) in 0..255: their mean for grey, else repeated in turn."""
    chosen = [sum(values) / 3] if channels == 1 else [values[channel % 3] for channel in range(channels)]
    return 255 * torch.tensor(chosen).view(1, -1, 1, 1)
