"""What the user asks of a plan, read from the words of a command line."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import yaml

from flexunet_pl.core.durations import days_of, seconds_of
from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.layout import find_palette
from flexunet_pl.data.palette import Palette
from flexunet_pl.nn.networks import network_fields
from flexunet_pl.planning.length import Length
from flexunet_pl.training.task import SegmentationTask

# Keys that stand alone in a config, beside the sections; plans neither choose nor need the others.
SECTIONS = ("trainer", "model", "data")
ALONE = ("monitor", "patience", "seed_everything")


@dataclass(frozen=True)
class Request:
    """What the user wants.

    Attributes:
        data: The folder or archive.
        length: How long to train.
        given: Keys with their values, such as ``data.crop_size``.
        words: The words of the command line that say so, without the data and the length.
        others: Further options, such as ``out``, with their values.
    """

    data: Path
    length: Length
    given: Mapping[str, Any]
    words: Sequence[str]
    others: Mapping[str, str]

    @property
    def folds(self) -> int:
        """The number of folds to train, 0 without ``--folds``; training checks it."""
        number = self.others.get("folds", "0")
        return int(number) if number.isdecimal() else 0

    @property
    def palette(self) -> Palette | None:
        """The palette that is given, if any."""
        found = self.given.get("data.palette")
        return None if found is None else find_palette(found, None)


def read_request(words: Sequence[str]) -> Request | None:
    """Return what ``fit DATA ...`` asks for, from the words after the command; None if no plan is needed.

    A config, a checkpoint to go on from, or data given folder by folder need none.

    Raises:
        UserError: If the length is no length.
    """
    options, places = _options(words)
    names = {name for name, _, _ in options}
    if names & {"config", "c", "ckpt_path", "print_config"} or (not places and "data.root" not in names):
        return None
    value_of = {name: value for name, value, _ in options}
    if "data.synthetic_images" in names or "data.train_images" in names:
        return None
    epochs = value_of.get("epochs")
    if epochs is not None and not epochs.isdecimal():
        raise UserError(f"--epochs {epochs} must be a whole number of epochs")
    length = Length(value_of.get("time"), None if epochs is None else int(epochs))
    given: dict[str, Any] = {}
    for name, value, _ in options:
        given |= _flattened(name, _read(value))
    own = {key: value for key, value in given.items() if key.partition(".")[0] in SECTIONS or key in ALONE}
    own.pop("data.root", None)
    _check_known(own)
    others = {name: value for name, value in value_of.items() if name not in given or name not in own}
    for name in ("time", "epochs", "data.root", *SECTIONS):
        others.pop(name, None)
    kept = [word for name, _, used in options if name not in ("time", "epochs", "data.root") for word in used]
    return Request(Path(places[0] if places else str(value_of["data.root"])), length, own, kept, others)


def without_length(words: Sequence[str]) -> list[str]:
    """Return the words of ``fit`` with ``--time`` and ``--epochs`` as the keys of the Trainer that they stand for.

    Raises:
        UserError: If the length is no length.
    """
    result: list[str] = []
    for name, value, used in _options(words)[0]:
        if name == "time":
            result += ["--trainer.max_time", days_of(seconds_of(value)), "--trainer.max_epochs", "-1"]
        elif name == "epochs":
            result += ["--trainer.max_epochs", value]
        else:
            result += used
    return [*_options(words)[1], *result]


def _options(words: Sequence[str]) -> tuple[list[tuple[str, str, list[str]]], list[str]]:
    """Return (name, value, words) of each option, and what stands before the first one."""
    found: list[tuple[str, str, list[str]]] = []
    places: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        match = re.fullmatch(r"--?([\w.-]+?)(?:=(.*))?", word, re.DOTALL)
        if match is None:
            places.append(word) if not found else found[-1][2].append(word)
            continue
        name, value, used = match[1], match[2], [word]
        if value is None and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
            used.append(value)
        parts = name.split(".")
        name = ".".join([part.replace("-", "_") for part in parts[:2]] + parts[2:])
        found.append((name, value or "", used))
    return found, places


def _read(value: str) -> Any:
    try:
        return load_yaml(value)
    except (yaml.YAMLError, ValueError):  # the parser of fit says so
        return value


def _check_known(given: Mapping[str, Any]) -> None:
    """Check the keys of sections before the work begins; the parser of fit checks the values."""
    fields = {
        "data": set(inspect.signature(SegmentationDataModule.__init__).parameters),
        "model": set(inspect.signature(SegmentationTask.__init__).parameters) | set(network_fields()),
        "trainer": set(inspect.signature(lightning.Trainer.__init__).parameters) | {"collective_timeout"},
    }
    known = sorted(f"{section}.{name}" for section, names in fields.items() for name in names if name != "self")
    for key in given:
        if key not in ALONE and ".".join(key.split(".")[:2]) not in known:
            raise UserError(f"--{key}: is no option of fit{suggestion(key, known)}")


def _flattened(name: str, value: Any) -> dict[str, Any]:
    """Return ``--model '{network: unet}'`` as model.network; deeper maps are values."""
    if isinstance(value, dict) and name in SECTIONS:
        return {f"{name}.{key}": inner for key, inner in value.items()}
    return {name: value}
