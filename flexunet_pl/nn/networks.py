"""A network by name, from the flat keys of a config."""

import inspect
from collections.abc import Mapping
from typing import Any

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.nn.flexunet import FlexUNet
from flexunet_pl.nn.zoo import ZOO, ZooNetwork

NETWORKS = ("flexunet", *ZOO)
ZOO_KEYS = ("encoder", "encoder_weights")


def build_network(
    name: str, num_classes: int, in_channels: int, given: Mapping[str, Any]
) -> tuple[FlexUNet | ZooNetwork, dict[str, Any]]:
    """Build a network and tell what it was built with.

    Args:
        name: One of ``NETWORKS``.
        num_classes: Output channels K.
        in_channels: Channels of the image.
        given: The keys of FlexUNet and of the zoo; None where a key was not given.

    Returns:
        The network, and all keys of ``given`` with the values that build the same network again: defaults filled in,
        and without encoder weights, since a checkpoint has them.

    Raises:
        UserError: If the name is unknown, a key belongs to another network, or a value is out of its range.
    """
    if name not in NETWORKS:
        raise UserError(f"model.network={name!r}; choose from {', '.join(NETWORKS)}{suggestion(name, NETWORKS)}")
    is_flexunet = name == "flexunet"
    foreign = {key: value for key, value in given.items() if value is not None and (key in ZOO_KEYS) == is_flexunet}
    if foreign:
        listed = ", ".join(f"model.{key}={value}" for key, value in foreign.items())
        whose = "the other networks" if is_flexunet else "flexunet"
        raise UserError(
            f"{listed}: of {whose} only, and model.network={name}; leave {'it' if len(foreign) == 1 else 'them'} out, "
            "or set null where a config gives it"
        )
    if is_flexunet:
        defaults = {key: parameter.default for key, parameter in inspect.signature(FlexUNet).parameters.items()}
        settings = {key: defaults[key] if value is None else value for key, value in given.items() if key in defaults}
        return FlexUNet(num_classes, in_channels, **settings), dict(given) | settings
    network = ZooNetwork(name, num_classes, in_channels, given["encoder"], given["encoder_weights"])
    return network, dict(given) | {"encoder": network.encoder, "encoder_weights": None}


def checked_num_classes(num_classes: int | None, classes: int) -> int:
    """Return the output channels for a palette of ``classes``: as many, or 1 if asked for and there are two.

    Raises:
        UserError: If another number was asked for.
    """
    if num_classes is None or num_classes == classes:
        return classes
    if num_classes == 1 and classes == 2:
        return 1
    repair = "or 1 for one sigmoid channel" if classes == 2 else "background included"
    raise UserError(
        f"model.num_classes={num_classes}, but the palette has {classes} classes; leave num_classes out, or set it to "
        f"{classes}, {repair}"
    )
