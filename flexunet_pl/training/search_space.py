"""What a search tries: keys of a config, each with a range or a few choices."""

import copy
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.nn.losses import LOSSES

Config = dict[str, Any]
# For pretrained networks, and for FlexUNet. Encoders are left out, as all but the default one are downloaded.
PRETRAINED_SPACE: Config = {
    "model.learning_rate": {"low": 3e-4, "high": 3e-3, "log": True},
    "model.encoder_rate": [0.3, 1.0],
    "model.loss.log_dice.epsilon": {"low": 0.01, "high": 0.3, "log": True},
    "data.crop_size": [96, 128, 192, 256],
    "data.augment.crop.foreground_share": [0.5, 0.8],
}
FLEXUNET_SPACE: Config = {
    "model.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.dropout": {"low": 0.0, "high": 0.1},
    "model.base_kernel": [3, 5],
    "model.normalization": [False, True],
    "data.batch_size": [2, 4, 8],
}
RULE = "a list of choices, or a map of low and high, perhaps with log: true"


def read_space(path: Path) -> Config:
    """Read a space from a YAML map; UserError if it is none."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--space {path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"--space {path}: must be a map from keys such as model.learning_rate to {RULE}")
    return content


def default_space(config: Mapping[str, Any]) -> Config:
    """Return the space for the network of a config, without keys that it does not use and crops beyond its images."""
    is_flexunet = config["model"].get("network") == "flexunet"
    space = dict(FLEXUNET_SPACE if is_flexunet else PRETRAINED_SPACE)
    for key in ("model.loss.log_dice.epsilon", "data.augment.crop.foreground_share"):
        if key in space and value_of(config, key.rpartition(".")[0]) is None:
            del space[key]
    if "data.crop_size" in space:
        size = config["data"].get("image_size", 512)
        side = min(size) if isinstance(size, list) else int(size)
        is_free = config["data"].get("resize") == "none"
        crops = [crop for crop in space.pop("data.crop_size") if is_free or crop <= side]
        space |= {"data.crop_size": crops} if crops else {}
    return space


def distributions(space: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return the distribution of each key; the config's own value is always among its values.

    Raises:
        UserError: If a key is no key of a config, or its range or choices are wrong.
    """
    found = {}
    for key, rule in space.items():
        if key.partition(".")[0] not in ("model", "data", "trainer") or "." not in key:
            raise UserError(
                f"--space: {key!r} must be a key of a config, such as model.learning_rate or data.crop_size"
            )
        found[key] = _distribution(key, rule, value_of(config, key))
    return found


def _distribution(key: str, rule: Any, own: Any) -> BaseDistribution:
    if isinstance(rule, list) and rule:
        choices = [json.dumps(choice) for choice in rule]
        return CategoricalDistribution(list(dict.fromkeys([*choices, *([] if own is None else [json.dumps(own)])])))
    if not isinstance(rule, dict) or not {"low", "high"} <= rule.keys() <= {"low", "high", "log"}:
        raise UserError(f"--space: {key}={rule!r} must be {RULE}")
    low, high = (_number(key, rule[name]) for name in ("low", "high"))
    if isinstance(own, int | float) and not isinstance(own, bool):
        low, high = min(low, own), max(high, own)
    try:
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=bool(rule.get("log")))
        return FloatDistribution(float(low), float(high), log=bool(rule.get("log")))
    except ValueError as error:
        raise UserError(f"--space: {key}={rule!r} is no range ({' '.join(str(error).split())})") from error


def _number(key: str, value: Any) -> int | float:
    """Return a number; YAML takes 1e-4 for text."""
    try:
        return float(value) if isinstance(value, str) or not isinstance(value, int) else value
    except (TypeError, ValueError):
        raise UserError(f"--space: {key} from or to {value!r}, which is no number") from None


def stored(distribution: BaseDistribution, value: Any) -> Any:
    """Return a value of a config as a search stores it: choices as JSON."""
    return json.dumps(value) if isinstance(distribution, CategoricalDistribution) else value


def chosen(parameters: Mapping[str, Any]) -> Config:
    """Undo :func:`stored` for what a trial drew, by key."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in parameters.items()}


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None if there is none; an option that a loss leaves open has its default."""
    value: Any = config
    names = key.split(".")
    for depth, name in enumerate(names):
        if isinstance(value, Mapping):
            value = value.get(name)
        if not isinstance(value, Mapping) and depth < len(names) - 1:
            break
    else:
        if value is not None or names[:2] != ["model", "loss"]:
            return value
    is_option = names[:2] == ["model", "loss"] and len(names) == 4 and names[2] in LOSSES
    if not is_option or value_of(config, ".".join(names[:3])) is None:
        return None
    parameter = inspect.signature(LOSSES[names[2]]).parameters.get(names[3])
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def with_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> Config:
    """Return a copy of a config with other values of dotted keys; the number of a loss or transform becomes a map."""
    changed: Config = copy.deepcopy(dict(config))
    for key, value in values.items():
        *above, last = key.split(".")
        place = changed
        for name in above:
            inner = place.get(name)
            if not isinstance(inner, dict):
                inner = {} if inner is None else {"weight" if above[:2] == ["model", "loss"] else "p": inner}
            place[name] = inner
            place = inner
        place[last] = value
    return changed
