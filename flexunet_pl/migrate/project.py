"""The values of a train_eval_infer.config, key by key, with findings about them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flexunet_pl.migrate.config_parser import Finding, OriginalConfig, Setting, shortened
from flexunet_pl.migrate.keys import KEYS, Key, known_key, place_of
from flexunet_pl.migrate.values import read_value

Rule = tuple[Callable[[Any], bool], str]

_ABOVE_0: Rule = (lambda value: value > 0, "it must be above 0")


def _from_1(most: int) -> Rule:
    return (lambda value: 1 <= value <= most, f"it must be 1 to {most:,}")


def _sides_from_1(most: int) -> Rule:
    return (lambda pair: min(pair) >= 1 and max(pair) <= most, f"its sides must be 1 to {most}")


# The upper limits are far beyond any network that trains.
RULES: dict[str, Rule] = {
    **dict.fromkeys(("model.image_width", "model.image_height", "train.batch_size"), _from_1(2**16)),
    **dict.fromkeys(("model.image_channels", "model.base_filters", "train.num_infer_images"), _from_1(1024)),
    **dict.fromkeys(("train.epochs", "train.reducer_patience", "train.steps_per_epoch"), _from_1(10**9)),
    "model.num_layers": _from_1(12),
    "model.num_classes": (lambda value: value is None or 1 <= value <= 255, "it must be 1 to 255"),
    "model.base_kernels": _sides_from_1(99),
    "model.dilation": _sides_from_1(99),
    "model.dropout_rate": (lambda value: 0 <= value < 1, "it must be at least 0 and below 1"),
    "model.learning_rate": _ABOVE_0,
    "model.clipvalue": _ABOVE_0,
    "train.reducer_factor": (lambda value: 0 < value < 1, "it must be between 0 and 1"),
}


@dataclass(frozen=True)
class Value:
    """A key's value as it was meant and as the original worked with it, and its line (0: not in the file)."""

    meant: Any
    used: Any
    line: int


class Project:
    """The values of all keys that have a meaning here.

    Attributes:
        config: The file.
        as_run: Whether the values are those that the original worked with.
        findings: Remarks about the file; the modules that map its values add to them.
        warnings: Remarks about this computer, such as missing folders.
    """

    def __init__(self, config: OriginalConfig, as_run: bool) -> None:
        """Read every value of ``config``."""
        self.config = config
        self.as_run = as_run
        self.findings = list(config.findings)
        self.warnings: list[str] = []
        self._values = {name: self._read(name, key) for name, key in KEYS.items() if key.kind}

    def __getitem__(self, name: str) -> Any:
        """Return the value of "section.key"."""
        value = self._values[name]
        return value.used if self.as_run else value.meant

    def both(self, name: str) -> Value:
        """Return the value of "section.key" as it was meant and as the original worked with it."""
        return self._values[name]

    def text(self, name: str) -> str:
        """Return the text in the file, shortened."""
        return shortened(self.config.settings[name].meant)

    def note(self, name: str, original: str, here: str) -> None:
        """Add a finding about the value of "section.key"."""
        there = name in self.config.settings
        place = f"{place_of(name)} = {self.text(name)}" if there else f"{place_of(name)} is not given"
        self.findings.append(Finding(self._values[name].line, place, original, here))

    def without_effect(self) -> dict[str, str]:
        """Return the keys of the file that change nothing here, with the reason."""
        known = {name: known_key(name) for name in self.config.settings}
        return {name: key.no_effect for name, key in known.items() if key is not None and key.no_effect}

    def _read(self, name: str, key: Key) -> Value:
        setting = self.config.settings.get(name)
        if setting is None:
            if key.required:
                here = "the colours of [mask] rgb_map are counted" if key.default is None else f"it is {key.default}"
                self.findings.append(Finding(0, f"{place_of(name)} is not given", "stops without it", here))
            return Value(key.default, key.default, 0)
        reading = read_value(setting.meant, setting.used, key.kind)
        meant = key.default if reading.meant is None else reading.meant
        fallback = meant if key.required or key.kind == "path" else key.default
        used = fallback if reading.used is None else reading.used
        if reading.fault:
            self._note_fault(name, setting, key, reading.fault, Value(meant, used, setting.line))
        return self._within_rules(name, key, Value(meant, used, setting.line))

    def _note_fault(self, name: str, setting: Setting, key: Key, fault: str, value: Value) -> None:
        is_guess = key.required or key.kind == "path"
        if setting.used is None:
            original = "did not find it" if is_guess else f"did not find it, and took {_described(key.default)}"
        elif value.used == key.default and not is_guess:
            original = f"took {_described(key.default)}, its default"
        elif is_guess and value.used == value.meant:
            original = "could not work with it, and stopped"
        else:
            original = f"took {_described(value.used)}"
        taken = value.used if self.as_run else value.meant
        place = f"{place_of(name)} = {shortened(setting.meant)}: {fault}"
        self.findings.append(Finding(setting.line, place, original, f"it is {_described(taken)}"))

    def _within_rules(self, name: str, key: Key, value: Value) -> Value:
        if name not in RULES:
            return value
        holds, rule = RULES[name]
        meant, used = (one if holds(one) else key.default for one in (value.meant, value.used))
        repaired = Value(meant, used, value.line)
        if repaired != value:
            place = f"{place_of(name)} = {self.text(name)}"
            here = f"{rule}; it is {_described(repaired.used if self.as_run else repaired.meant)}"
            self.findings.append(Finding(value.line, place, "took it as it is", here))
        return repaired


def _described(value: Any) -> str:
    return "the colours black, green, red, blue" if value == KEYS["mask.rgb_map"].default else f"{value!r}"
