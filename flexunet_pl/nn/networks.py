"""Networks by name, each with the dataclass of its settings."""

from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, fields
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.ranges import shortened
from flexunet_pl.nn.ensemble import Ensemble
from flexunet_pl.nn.flexunet import FlexUNet
from flexunet_pl.nn.flexunet_weights import FlexUNetOptions, build_flexunet
from flexunet_pl.nn.zoo import ZOO, ZooNetwork, ZooSettings

Member: TypeAlias = FlexUNet | ZooNetwork
Network: TypeAlias = Member | Ensemble


class NetworkKind(NamedTuple):
    """A network that a config can choose."""

    settings: type[Any]  # frozen dataclass, whose fields are keys under ``model`` in a config
    build: Callable[[int, int, Any], Member]  # from num_classes, in_channels and the settings


NETWORKS: dict[str, NetworkKind] = {
    "flexunet": NetworkKind(FlexUNetOptions, build_flexunet),
    **{name: NetworkKind(ZooSettings, partial(ZooNetwork, name)) for name in ZOO},
}

DEFAULT_NETWORK = "unet"
# In checkpoints beside the names above: the networks of a run with folds. A config cannot choose it.
ENSEMBLE, MEMBERS = "ensemble", "members"
MOST_MEMBERS = 32


def network_fields() -> dict[str, tuple[type[Any], Field[Any]]]:
    """Return each setting of any network by name, with the dataclass it belongs to."""
    kinds = dict.fromkeys(kind.settings for kind in NETWORKS.values())
    return {field.name: (kind, field) for kind in kinds for field in fields(kind)}


def build_network(
    network: Mapping[str, Any] | str, num_classes: int, in_channels: int
) -> tuple[Network, dict[str, Any]]:
    """Build a network.

    Args:
        network: A key of ``NETWORKS``, or a map of ``name`` and settings; None stands for a default, except for
            encoder_weights, where it stands for random ones. With the name ``ENSEMBLE``, its ``members`` are such maps.
        num_classes: Output channels K.
        in_channels: Channels of the image.

    Returns:
        The network, and the map that builds it again: defaults filled in, without pretrained weights.

    Raises:
        UserError: If the name is unknown, a key belongs to another network, or a value is out of its range.
    """
    given = {"name": network} if isinstance(network, str) else dict(network)
    name = given.pop("name", None) or chosen_network(given)
    if name == ENSEMBLE and MEMBERS in given:
        return _build_ensemble(given, num_classes, in_channels)
    if not isinstance(name, str) or name not in NETWORKS:
        hint = suggestion(name, NETWORKS) if isinstance(name, str) else ""
        raise UserError(f"model.network={name!r}; choose from {', '.join(NETWORKS)}{hint}")
    kind = NETWORKS[name]
    own = {field.name for field in fields(kind.settings)}
    can_be_none = own & {"encoder_weights"}
    given = {key: value for key, value in given.items() if value is not None or key in can_be_none}
    if foreign := {key: value for key, value in given.items() if key not in own}:
        listed = ", ".join(f"model.{key}={value}" for key, value in foreign.items())
        raise UserError(
            f"{listed}: no setting of model.network={name}, which has {', '.join(sorted(own))}; leave "
            f"{'it' if len(foreign) == 1 else 'them'} out, or choose another network"
        )
    built = kind.build(num_classes, in_channels, kind.settings(**given))
    return built, {"name": name, **asdict(built.settings)}


def _build_ensemble(given: Mapping[str, Any], num_classes: int, in_channels: int) -> tuple[Ensemble, dict[str, Any]]:
    """Build the networks of an ensemble; UserError as :func:`build_network`, or if the members are not a few maps."""
    members = given[MEMBERS]
    is_list = isinstance(members, list) and all(isinstance(member, Mapping) for member in members)
    if not is_list or not 1 <= len(members) <= MOST_MEMBERS or given.keys() != {MEMBERS}:
        raise UserError(
            f"model.network={ENSEMBLE!r} with {shortened(dict(given))} must have {MEMBERS} alone, a list of 1 to "
            f"{MOST_MEMBERS} maps of name and settings; train it again with fit --folds"
        )
    if any(map(is_ensemble, members)):
        raise UserError(f"model.network={ENSEMBLE!r}: a member is an ensemble itself; list its members instead")
    built = [build_network(member, num_classes, in_channels) for member in members]
    return Ensemble([network for network, _ in built]), {"name": ENSEMBLE, MEMBERS: [settings for _, settings in built]}


def chosen_network(flat: Mapping[str, Any]) -> str | dict[str, Any]:
    """Return ``network`` of a task's flat keys; by default FlexUNet if a key of it is given, else the default."""
    network: str | dict[str, Any] | None = flat.get("network")
    if network is not None:
        return network
    own = {field.name for field in fields(FlexUNetOptions)}
    return "flexunet" if any(flat.get(key) is not None for key in own) else DEFAULT_NETWORK


def nested_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the flat keys of a network under ``network``, as a task takes them."""
    keys = network_fields()
    network = chosen_network(flat)
    gathered = {"name": network} if isinstance(network, str) else dict(network)
    gathered |= {key: value for key, value in flat.items() if key in keys and value is not None}
    return {key: value for key, value in flat.items() if key not in keys} | {"network": gathered}


def flat_settings(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`nested_settings`: the keys of other networks are None. An ensemble stays a map under ``network``."""
    network = dict(nested["network"])
    if is_ensemble(network):
        return {**nested, **dict.fromkeys(network_fields()), "network": network}
    return {**nested, **dict.fromkeys(network_fields()), "network": network.pop("name"), **network}


def is_ensemble(network: object) -> bool:
    """Return whether the ``network`` of a task's settings is an ensemble."""
    return isinstance(network, Mapping) and network.get("name") == ENSEMBLE


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
