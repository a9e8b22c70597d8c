"""What an option of a transform may be: each rule checks a value from YAML and says in words what it wants."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Interval = tuple[float, float]


@dataclass(frozen=True)
class Rule:
    """The rule of one option.

    Attributes:
        wants: The rule in words, to stand after "must be".
        parse: Returns the checked value, numbers as they were written; raises ValueError if the rule is broken.
    """

    wants: str
    parse: Callable[[Any], Any]


def _checked(value: Any, low: float, high: float, *, whole: bool) -> Any:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ValueError(value)
    return value


def number(default: float, low: float, high: float) -> Any:
    """Declare a number from ``low`` to ``high``."""
    rule = Rule(f"a number from {low:g} to {high:g}", lambda value: _checked(value, low, high, whole=False))
    return field(default=default, metadata={"rule": rule})


def interval(default: Interval, low: float, high: float, *, whole: bool = False) -> Any:
    """Declare ``[from, to]``, from which one is drawn for each sample; one number alone is always taken."""

    def parse(value: Any) -> Interval:
        ends = value if isinstance(value, list | tuple) else (value, value)
        if len(ends) != 2:
            raise ValueError(value)
        first, last = (_checked(end, low, high, whole=whole) for end in ends)
        if first > last:
            raise ValueError(value)
        return first, last

    kind = "a whole number" if whole else "a number"
    wants = f"{kind} from {low:g} to {high:g}, or [from, to] of two such numbers, the smaller first"
    return field(default=default, metadata={"rule": Rule(wants, parse)})


def numbers(default: tuple[float, ...], low: float, high: float, *, empty: bool = False) -> Any:
    """Declare a list of numbers, one of which is drawn for each sample; ``empty`` allows a list of none."""

    def parse(value: Any) -> tuple[float, ...]:
        if not isinstance(value, list | tuple) or not (value or empty):
            raise ValueError(value)
        return tuple(_checked(item, low, high, whole=False) for item in value)

    wants = f"a list of {'numbers' if empty else 'at least one number'}, each from {low:g} to {high:g}"
    return field(default=default, metadata={"rule": Rule(wants, parse)})


def points(default: tuple[Interval, ...]) -> Any:
    """Declare a list of places [x, y] as shares of width and height, one of which is drawn for each sample."""

    def parse(value: Any) -> tuple[Interval, ...]:
        places = value if isinstance(value, list | tuple) else ()
        if not places or any(not isinstance(place, list | tuple) or len(place) != 2 for place in places):
            raise ValueError(value)
        return tuple((_checked(x, 0, 1, whole=False), _checked(y, 0, 1, whole=False)) for x, y in value)

    wants = "a list of places [x, y], each a share from 0 to 1 of width and height, such as [[0.5, 0.5]]"
    return field(default=default, metadata={"rule": Rule(wants, parse)})


def switch(*, default: bool) -> Any:
    """Declare true or false."""

    def parse(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(value)
        return value

    return field(default=default, metadata={"rule": Rule("true or false", parse)})


def draw(rng: np.random.Generator, ends: Interval) -> float:
    """Draw one number of ``[from, to]``, uniformly."""
    return float(rng.uniform(*ends))


def draw_whole(rng: np.random.Generator, ends: Interval) -> int:
    """Draw one whole number of ``[from, to]``, both ends included."""
    return int(rng.integers(int(ends[0]), int(ends[1]) + 1))


def draw_one(rng: np.random.Generator, choices: tuple[Any, ...]) -> Any:
    """Draw one of ``choices``, each as likely as the others."""
    return choices[int(rng.integers(len(choices)))]
