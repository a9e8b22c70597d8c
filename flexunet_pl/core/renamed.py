"""Older names of options, config keys, values and commands; each works, with one warning that gives the new name."""

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from flexunet_pl.core.errors import UserError

COMMANDS = {"regions": "tune-min-area"}
KEYS = {
    "model.mirror": "model.tta",
    "model.smallest_region": "model.min_region_area",
    "data.epoch_images": "data.samples_per_epoch",
    "smallest_region": "min_region_area",
}
VALUES = {
    "data.resize": {"keep": "letterbox"},
    "resize": {"keep": "letterbox"},
    "data.sampler": {"by_class": "class_balanced"},
}

logger = logging.getLogger(__name__)
_warned: set[str] = set()


def current_words(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command line with current names; each warning can be printed again from here on.

    Raises:
        UserError: If a value is given under both names.
    """
    _warned.clear()
    given = {word.partition("=")[0][2:].replace("-", "_") for word in arguments if word.startswith("--")}
    words = list(_words(arguments, given))
    if words and words[0] in COMMANDS:
        _warn(f"the command {words[0]} is now {COMMANDS[words[0]]}")
        words[0] = COMMANDS[words[0]]
    return words


def _words(arguments: Sequence[str], given: set[str]) -> Iterator[str]:
    option = ""
    for word in arguments:
        if not word.startswith("--"):
            yield _value(option, word)
            option = ""
            continue
        option, equals, value = word.partition("=")
        key = option[2:].replace("-", "_")
        if (new := _key(key, given)) != key:
            is_dashed = "-" in option[2:] and "." not in key
            option = f"--{new.replace('_', '-') if is_dashed else new}"
        yield f"{option}={_value(option, value)}" if equals else option


def current_config(config: Any) -> Any:
    """Return a config as it was loaded from YAML, with current names under ``model`` and ``data``.

    Raises:
        UserError: If a value is given under both names.
    """
    if not isinstance(config, dict):
        return config
    sections = {name: value for name in ("model", "data") if isinstance(value := config.get(name), dict)}
    return config | {name: _renamed(section, f"{name}.") for name, section in sections.items()}


def current_hyper_parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a checkpoint with current names; those of data stand beside those of the model."""
    return _renamed(_renamed(settings, "model."), "data.")


def _renamed(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    given = {f"{prefix}{key}": value for key, value in section.items()}
    current = {_key(key, given.keys()): value for key, value in given.items()}
    return {key.removeprefix(prefix): _value(f"--{key}", value) for key, value in current.items()}


def _key(key: str, given: Set[str]) -> str:
    new = KEYS.get(key, key)
    if new != key:
        if new in given:
            raise UserError(f"{key} is the older name of {new}, and both are given; leave one out")
        _warn(f"{key} is now {new}")
    return new


def _value(option: str, value: Any) -> Any:
    known = VALUES.get(option[2:].replace("-", "_"), {})
    if not isinstance(value, str) or value not in known:
        return value
    _warn(f"{option[2:]}: {value} is now {known[value]}")
    return known[value]


def _warn(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning("warning: %s; the older name works until version 1.0", message)
