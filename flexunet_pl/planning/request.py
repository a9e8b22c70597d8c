"""What the user asks of a plan, read from the words of a command line."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import lightning
import yaml

from flexunet_pl.core.durations import days_of, seconds_of
from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.ranges import problem_of, shortened
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.data.datamodule import NO_CROP, SegmentationDataModule
from flexunet_pl.data.layout import find_palette
from flexunet_pl.data.palette import Palette
from flexunet_pl.nn.networks import network_fields
from flexunet_pl.planning.length import Length
from flexunet_pl.training.task import SegmentationTask

# Keys that stand alone in a config, beside the sections; plans neither choose nor need the others.
SECTIONS = ("trainer", "model", "data")
ALONE = ("monitor", "patience", "seed_everything")
# Options that a plan takes the place of, or that go on with what has a config.
UNPLANNED = {"config", "c", "ckpt_path", "print_config", "data.synthetic_images", "data.train_images"}
TAKEN = ("time", "epochs", "data.root")
# Keys that the rules compute with, so that their values are checked first.
CHECKED = {
    f"data.{key}" for key in ("channels", "image_size", "crop_size", "batch_size", "min_samples_per_epoch", "augment")
}


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
        start = "data.palette."
        colors = {key.removeprefix(start): value for key, value in self.given.items() if key.startswith(start)}
        chosen = found if isinstance(found, str) else {**(found or {}), **colors}
        return find_palette(chosen, None) if chosen else None


def read_request(words: Sequence[str]) -> Request | None:
    """Return what ``fit DATA ...`` asks for, from the words after the command; None if no plan is needed.

    A config, a checkpoint to go on from, or data given folder by folder need none.

    Raises:
        UserError: If the length is no length.
    """
    options, places = options_of(words)
    value_of = {option.name: option.value for option in options}
    root = value_of.get("data.root")
    if value_of.keys() & UNPLANNED or (not places and root is None):
        return None
    if len(places) + (root is not None) > 1 or "" in (root, *places):
        raise UserError(f"fit {' '.join([*places, *([] if root is None else [root])])}: name one folder of data")
    length = Length(value_of.get("time"), _epochs(value_of.get("epochs")))
    given: dict[str, Any] = {}
    for option in options:
        given |= _flattened(option.name, _read(option.value))
    own = {key: value for key, value in given.items() if key.partition(".")[0] in SECTIONS or key in ALONE}
    if own.pop("data.root", root) != root:
        raise UserError(f"--data {value_of['data']}: name the folder of data once, first: fit DATA")
    _check_given(own)
    others = {name: value for name, value in value_of.items() if name not in own and name not in (*TAKEN, *SECTIONS)}
    kept = [word for option in options if option.name not in TAKEN for word in option.words]
    return Request(Path(places[0] if root is None else root), length, own, kept, others)


def without_length(words: Sequence[str]) -> list[str]:
    """Return the words of ``fit`` with ``--time`` and ``--epochs`` as the keys of the Trainer that they stand for.

    Raises:
        UserError: If the length is no length.
    """
    options, places = options_of(words)
    result = list(places)
    for option in options:
        if option.name == "time":
            result += ["--trainer.max_time", days_of(seconds_of(option.value)), "--trainer.max_epochs", "-1"]
        elif option.name == "epochs":
            result += ["--trainer.max_epochs", str(_epochs(option.value))]
        else:
            result += option.words
    return result


def _epochs(text: str | None) -> int | None:
    if text is not None and not text.isdecimal():
        raise UserError(f"--epochs {text} must be a whole number of epochs")
    return None if text is None else int(text)


class Option(NamedTuple):
    """An option of a command line: its name without dashes, its value, empty without one, and its words."""

    name: str
    value: str
    words: list[str]


def options_of(words: Sequence[str]) -> tuple[list[Option], list[str]]:
    """Return the options, and what stands before the first one.

    Raises:
        UserError: If a word after the options belongs to none.
    """
    found: list[Option] = []
    places: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("-") or name in ("-", "--"):
            if found:
                raise UserError(f"fit: {word!r} belongs to no option; name the data first, and quote what has spaces")
            places.append(word)
            continue
        used = [word]
        if not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
            used.append(value)
        parts = name.lstrip("-").split(".")
        found.append(Option(".".join([part.replace("-", "_") for part in parts[:2]] + parts[2:]), value, used))
    return found, places


def _read(value: str) -> Any:
    try:
        return load_yaml(value)
    except (yaml.YAMLError, ValueError):  # the parser of fit says so
        return value


def _check_given(given: Mapping[str, Any]) -> None:
    """Check keys and values before they are used; the parser of fit checks those of the Trainer.

    Raises:
        UserError: If a key is unknown, or a value out of its range.
    """
    hints = {
        "data": get_type_hints(SegmentationDataModule.__init__, include_extras=True),
        "model": get_type_hints(SegmentationTask.__init__, include_extras=True),
        "trainer": dict.fromkeys(
            [*inspect.signature(lightning.Trainer.__init__).parameters, "collective_timeout"], Any
        ),
    }
    for name, (settings, _) in network_fields().items():
        hints["model"][name] = get_type_hints(settings, include_extras=True)[name] | None
    known = {f"{section}.{name}": hint for section, own in hints.items() for name, hint in own.items()}
    for key, value in given.items():
        if key in ALONE:
            continue
        name = ".".join(key.removesuffix("+").split(".")[:2])
        if name not in known:
            raise UserError(f"--{key}: is no option of fit{suggestion(key, known)}")
        problem = problem_of(value, known[key]) if key in CHECKED else None
        if problem is not None:
            raise UserError(f"{key}={shortened(value)} {problem}")
    crop = given.get("data.crop_size")
    if isinstance(crop, str) and crop != NO_CROP:
        raise UserError(f"data.crop_size={crop!r} must be a number of pixels, or {NO_CROP}")


def _flattened(name: str, value: Any) -> dict[str, Any]:
    """Return ``--model '{network: unet}'`` as model.network; deeper maps are values."""
    if isinstance(value, dict) and name in SECTIONS:
        return {f"{name}.{key}": inner for key, inner in value.items()}
    return {name: value}
