"""From the YAML key ``data.augment`` to checked transforms."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.data.augment.crop import Crop
from flexunet_pl.data.augment.kinds import TRANSFORMS, Transform
from flexunet_pl.data.augment.presets import ORIGINAL_LISTS, ORIGINAL_NAMES, ORIGINAL_OPTIONS, PRESETS

KEY = "data.augment"
FILLS = ("mirror", "ignore")
_SETTINGS = ("preset", "crop", "fill")


@dataclass(frozen=True)
class Plan:
    """What ``data.augment`` asks for.

    Attributes:
        transforms: The transforms with a probability above 0, by name, in the order in which they act.
        crop: How the crop is chosen, or None if nothing is said about it.
        fill: What shows where a transform looks beyond the picture: "mirror" or "ignore".
    """

    transforms: Mapping[str, Transform]
    crop: Crop | None
    fill: str


def read_plan(spec: Mapping[str, Any] | None) -> Plan:
    """Check ``spec``, the value of ``data.augment``, fill in preset and defaults; raise UserError on a broken rule."""
    if spec is None:
        spec = {}
    if not isinstance(spec, Mapping):
        raise UserError(f"{KEY}={spec!r}; it must be a map from transform to options, such as {{hflip: 0.5}}")
    entries = _with_our_names(spec)
    preset = _choice("preset", entries.pop("preset", "none"), tuple(PRESETS))
    fill = _choice("fill", entries.pop("fill", FILLS[0]), FILLS)
    crop = _build(Crop, "crop", _options("crop", entries.pop("crop"), Crop)) if "crop" in entries else None
    asked = {name: dict(options) for name, options in PRESETS[preset].items()}
    for name, value in entries.items():
        if name not in TRANSFORMS:
            known = [*TRANSFORMS, *ORIGINAL_NAMES, *ORIGINAL_LISTS, *_SETTINGS]
            hint = f"{suggestion(name, known)}; choose from {', '.join(TRANSFORMS)}"
            raise UserError(f"{KEY}.{name}: there is no such transform{hint}")
        asked[name] = asked.get(name, {}) | _options(name, value, TRANSFORMS[name])
    transforms = {name: _build(kind, name, asked[name]) for name, kind in TRANSFORMS.items() if name in asked}
    return Plan({name: transform for name, transform in transforms.items() if transform.p > 0}, crop, fill)


def _with_our_names(spec: Mapping[str, Any]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for written, value in spec.items():
        name = ORIGINAL_NAMES.get(str(written), str(written))
        if name in entries:
            raise UserError(f"{KEY}.{written}: the same transform is given as {name} too; keep one of them")
        entries[name] = value
    for option, name in ORIGINAL_LISTS.items():
        if option in entries:
            # With an empty list the original leaves the operation out.
            value = entries.pop(option)
            given = _options(name, entries.get(name, True), TRANSFORMS[name])
            if option in given:
                raise UserError(f"{KEY}.{option}: is given as {name}.{option} too; keep one of them")
            entries[name] = given | ({"p": 0} if value == [] else {option: value})
    return entries


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UserError(f"{KEY}.{name}={value!r}; choose from {', '.join(choices)}{suggestion(str(value), choices)}")
    return str(value)


def _options(name: str, value: Any, kind: type[Any]) -> dict[str, Any]:
    """Return the options of one entry; a bare number stands for the first option, which is the probability."""
    first = fields(kind)[0].name
    if isinstance(value, bool):
        return {} if value else {first: 0}
    if isinstance(value, int | float):
        return {first: value}
    if isinstance(value, Mapping):
        return {ORIGINAL_OPTIONS.get(str(option), str(option)): setting for option, setting in value.items()}
    raise UserError(
        f"{KEY}.{name}={value!r}; it must be a map of options or a number for {first}, such as {{{first}: 0.5}}; "
        "false switches it off"
    )


def _build(kind: type[Any], name: str, options: Mapping[str, Any]) -> Any:
    """Construct a transform or a crop from checked options."""
    rules = {option.name: option.metadata["rule"] for option in fields(kind)}
    checked: dict[str, Any] = {}
    for option, value in options.items():
        if option not in rules:
            hint = f"{suggestion(option, rules)}; it has {', '.join(rules)}"
            raise UserError(f"{KEY}.{name}.{option}: {name} has no such option{hint}")
        try:
            checked[option] = rules[option].parse(value)
        except ValueError:
            default = json.dumps(getattr(kind, option))
            raise UserError(
                f"{KEY}.{name}.{option}={value!r}; it must be {rules[option].wants}; the default is {default}"
            ) from None
    return kind(**checked)
