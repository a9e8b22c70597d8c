"""Which network a project has: what its config says, or, with weights, what they were made with."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras import KerasModel, read_keras
from flexunet_pl.migrate.config_parser import Finding
from flexunet_pl.migrate.keys import KEYS
from flexunet_pl.migrate.project import Project, pair_side
from flexunet_pl.nn.flexunet import ACTIVATIONS

ACTIVATION_ALIASES = {"swish": "silu"}
NETWORK_KEYS = tuple(name for name, key in KEYS.items() if key.network)
SIZE_KEYS = ("model.image_height", "model.image_width")


@dataclass(frozen=True)
class Network:
    """A network as the config or the weights describe it.

    Attributes:
        settings: FlexUNet's settings by name, but for num_classes.
        num_classes: Output channels; None if nothing tells.
        image_size: Working height and width.
        state_dict: The weights, if there are any.
    """

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
        told: dict[str, Any] = dict(model.settings)
        height, width = told.pop("image_size", _size(project, as_run))
        size = height, width
        num_classes = told.pop("num_classes")
        settings, state_dict = {**_settings(project, as_run), **told}, model.state_dict
        project.findings += [Finding(0, str(weights), "wrote it", note) for note in model.notes]
        if project["model.num_classes"] not in (None, num_classes):
            project.note("model.num_classes", "made weights of another number", f"it is {num_classes}, as in {weights}")
    for name in ("model.base_kernels", "model.dilation"):
        pair_side(project, name, project[name])
    settings |= _possible(project, settings)
    size = _fitting(project, size, settings["num_layers"])
    return Network(settings, num_classes, size, state_dict)


def _settings(project: Project, as_run: bool) -> dict[str, Any]:
    settings = {}
    for name in NETWORK_KEYS:
        value = project.both(name).seen if as_run else project.both(name).meant
        settings[KEYS[name].network] = value[0] if isinstance(value, tuple) else value
    activation = settings["activation"].lower()
    return settings | {"activation": ACTIVATION_ALIASES.get(activation, activation)}


def _size(project: Project, as_run: bool) -> tuple[int, int]:
    height, width = (project.both(name).seen if as_run else project.both(name).meant for name in SIZE_KEYS)
    return height, width


def _read_weights(project: Project, weights: Path) -> tuple[KerasModel, bool]:
    """Read the weights with the config's settings, and return whether these are what the original worked with.

    The weights were made by the original, so they have what it worked with, not what was meant; unless the file was
    mended later, or could not be read by the original at all.
    """
    readings = [True] if project.as_run else [False, True] if project.config.gave_up else [True, False]
    first_error: UserError | None = None
    for as_run in readings:
        given = {**_settings(project, as_run), "image_size": list(_size(project, as_run))}
        try:
            model = read_keras(weights, given)
        except UserError as error:
            first_error = first_error or error
            continue
        if as_run and not project.as_run:
            _note_what_was_trained(project, weights, model)
        return model, as_run
    raise first_error if first_error is not None else UserError(f"{weights}: cannot be read")


def _note_what_was_trained(project: Project, weights: Path, model: KerasModel) -> None:
    for name in (*NETWORK_KEYS, *SIZE_KEYS):
        value = project.both(name)
        if value.seen != value.meant:
            said = "says so" if KEYS[name].network in model.settings or name in SIZE_KEYS else "was made with it"
            project.note(name, f"took {value.seen!r}", f"it is {value.seen!r}, since {weights} {said}")


def _possible(project: Project, settings: dict[str, Any]) -> dict[str, Any]:
    """Return repairs of settings that no network can have, and note them."""
    repairs: dict[str, Any] = {}
    if settings["activation"] not in ACTIVATIONS:
        project.note("model.activation", "asks Keras for it", f"it is relu; known are {', '.join(ACTIVATIONS)}")
        repairs["activation"] = "relu"
    deepest = max(settings["num_layers"] - 1, 1)
    if settings["dropout"] * deepest >= 1:
        repairs["dropout"] = math.floor(100 * 0.9 / deepest) / 100
        project.note(
            "model.dropout_rate",
            f"stops, as the rate grows to {settings['dropout'] * deepest:g} at the deepest level",
            f"it is {repairs['dropout']}",
        )
    return repairs


def _fitting(project: Project, size: tuple[int, int], num_layers: int) -> tuple[int, int]:
    step = 2 ** (num_layers - 1)
    fitting = tuple(-(-side // step) * step for side in size)
    for name, side, larger in zip(SIZE_KEYS, size, fitting, strict=True):
        if side != larger:
            project.note(name, f"stops, as it is no multiple of {step} (num_layers={num_layers})", f"it is {larger}")
    return fitting[0], fitting[1]
