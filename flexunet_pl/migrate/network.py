"""The network of a project: from its config, or from the weights if there are any."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras import KerasModel, read_keras
from flexunet_pl.migrate.config_parser import Finding
from flexunet_pl.migrate.keys import KEYS
from flexunet_pl.migrate.project import Project
from flexunet_pl.nn.flexunet import ACTIVATIONS

ACTIVATION_ALIASES = {"swish": "silu"}
NETWORK_KEYS = tuple(name for name, key in KEYS.items() if key.network)
SIZE_KEYS = ("model.image_height", "model.image_width")


@dataclass(frozen=True)
class Network:
    """The network that the config or the weights describe; settings are FlexUNet's, but for num_classes."""

    settings: dict[str, Any]
    num_classes: int | None
    image_size: tuple[int, int]
    state_dict: dict[str, Tensor] | None


def find_network(project: Project, weights: Path | None) -> Network:
    """Return the network of ``project``, with the weights of a Keras file if there is one; note what differs.

    Raises:
        UserError: If the file cannot be read, or contradicts the config in more than the number of classes.
    """
    if weights is None:
        settings, size, state_dict = _settings(project, project.as_run), _size(project, project.as_run), None
        num_classes = project["model.num_classes"]
    else:
        model, as_run = _read_weights(project, weights)
        stored: dict[str, Any] = dict(model.settings)
        height, width = stored.pop("image_size", _size(project, as_run))
        size = height, width
        num_classes = stored.pop("num_classes")
        settings, state_dict = {**_settings(project, as_run), **stored}, model.state_dict
        project.findings += [Finding(0, str(weights), "wrote it", note) for note in model.notes]
        if project["model.num_classes"] not in (None, num_classes):
            project.note("model.num_classes", "made weights of another number", f"it is {num_classes}, as in {weights}")
    for name, original in (("model.base_kernels", "took it as it is"), ("model.dilation", "crashes")):
        first, second = project[name]
        if first != second:
            project.note(name, original, f"the first number, {first}, is taken for both")
    settings |= _possible(project, settings)
    size = _fitting(project, size, settings["num_layers"])
    return Network(settings, num_classes, size, state_dict)


def _settings(project: Project, as_run: bool) -> dict[str, Any]:
    settings = {}
    for name in NETWORK_KEYS:
        value = project.both(name).used if as_run else project.both(name).meant
        settings[KEYS[name].network] = value[0] if isinstance(value, tuple) else value
    activation = settings["activation"].lower()
    return settings | {"activation": ACTIVATION_ALIASES.get(activation, activation)}


def _size(project: Project, as_run: bool) -> tuple[int, int]:
    height, width = (project.both(name).used if as_run else project.both(name).meant for name in SIZE_KEYS)
    return height, width


def _read_weights(project: Project, weights: Path) -> tuple[KerasModel, bool]:
    """Read the weights with the config's settings, and return whether these are what the original worked with.

    The weights were made by the original, so they have what it worked with, not what was meant; unless the file was
    fixed later, or could not be read by the original at all.
    """
    readings = [True] if project.as_run else [False, True] if project.config.gave_up else [True, False]
    errors = []
    for as_run in readings:
        given = {**_settings(project, as_run), "image_size": list(_size(project, as_run))}
        try:
            model = read_keras(weights, given)
        except UserError as error:
            errors.append(error)
            continue
        if as_run and not project.as_run:
            _note_what_was_trained(project, weights, model)
        return model, as_run
    raise errors[0]


def _note_what_was_trained(project: Project, weights: Path, model: KerasModel) -> None:
    for name in (*NETWORK_KEYS, *SIZE_KEYS):
        value = project.both(name)
        if value.used != value.meant:
            said = "says so" if KEYS[name].network in model.settings or name in SIZE_KEYS else "was made with it"
            project.note(name, f"took {value.used!r}", f"it is {value.used!r}, since {weights} {said}")


def _possible(project: Project, settings: dict[str, Any]) -> dict[str, Any]:
    """Return repairs of settings that no network can have, and note them."""
    repairs: dict[str, Any] = {}
    if settings["activation"] not in ACTIVATIONS:
        project.note("model.activation", "asks Keras for it", f"it is relu; known are {', '.join(ACTIVATIONS)}")
        repairs["activation"] = "relu"
    deepest = max(settings["num_layers"] - 1, 1)
    if settings["dropout"] * deepest >= 1:
        repairs["dropout"] = math.floor(100 * 0.9 / deepest) / 100
        original = f"stops, as the rate grows to {settings['dropout'] * deepest:g} at the deepest level"
        project.note("model.dropout_rate", original, f"it is {repairs['dropout']}")
    return repairs


def _fitting(project: Project, size: tuple[int, int], num_layers: int) -> tuple[int, int]:
    step = 2 ** (num_layers - 1)
    fitting = tuple(-(-side // step) * step for side in size)
    for name, side, larger in zip(SIZE_KEYS, size, fitting, strict=True):
        if side != larger:
            project.note(name, f"stops, as it is no multiple of {step} (num_layers={num_layers})", f"it is {larger}")
    return fitting[0], fitting[1]
