"""Check settings against their annotations where they enter: types, and ranges of numbers.

Settings come from command lines, configs, checkpoints and Python. ``Annotated[int, Range(1, 64)]`` says what a number
may be; ``checked`` and ``check_fields`` hold every value of a function or a dataclass against that.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from flexunet_pl.core.errors import UserError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

MOST = 2**31 - 1  # larger whole numbers overflow in the libraries below
SHOWN_CHARACTERS = 80
RULE, FINITE = "must be at", "must be a finite number"


@dataclass(frozen=True, repr=False)
class Range:
    """The smallest and the largest value of a number."""

    least: float = -MOST
    most: float = MOST

    def __repr__(self) -> str:
        return f"{self.least}..{self.most}"

    def problem(self, value: float) -> str | None:
        """Return the rule that ``value`` breaks, such as "must be at least 1"."""
        if value < self.least:
            return f"{RULE} least {self.least}"
        return f"{RULE} most {self.most}" if value > self.most else None


# A side of an image in pixels; one of 16384 x 16384 pixels takes 0.8 GB.
Side = Annotated[int, Range(1, 16_384)]
Channels = Annotated[int, Range(1, 1024)]

# Each plain type, whether a value is of it, and its name in messages.
TYPES: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    float: (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    str: (lambda value: isinstance(value, str), "a text"),
    list: (lambda value: isinstance(value, list | tuple), "a list"),
    tuple: (lambda value: isinstance(value, list | tuple), "a list"),
    dict: (lambda value: isinstance(value, Mapping), "a map"),
    NoneType: (lambda value: value is None, "null"),
    Any: (lambda _value: True, "anything"),
}


def checked(prefix: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Check the arguments of each call of the decorated function; ``prefix`` stands before their names in errors.

    The function raises UserError if an argument is of another type than its annotation, or out of its range.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)

        @functools.wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            _check(signature.bind(*args, **kwargs).arguments, hints, prefix)
            return function(*args, **kwargs)

        call.__signature__ = signature  # type: ignore[attr-defined]  # for getfullargspec, by which Lightning asks
        return call

    return decorate


def check_fields(settings: Any, prefix: str = "") -> None:
    """Check the fields of a dataclass as :func:`checked` does arguments."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    _check(values, get_type_hints(type(settings), include_extras=True), prefix)


def check_numbers(value: Any, key: str) -> None:
    """Check all numbers in nested maps and lists whose types are others' business: finite, and no larger than MOST.

    Raises:
        UserError: It names the number by ``key`` and its place.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check_numbers(inner, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_numbers(inner, f"{key}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check({key: value}, {key: float}, "")


def problem_of(value: Any, annotation: Any) -> str | None:
    """Return the rule that a value breaks, "must be a number" or "must be at least 1", or None if it breaks none."""
    options = _options(annotation)
    problems = [_problem_of_one(value, option) for option in options]
    if None in problems:
        return None
    # A rule about the number says more than the types: one of these was right.
    rules = [problem for problem in problems if problem is not None and problem.startswith((RULE, FINITE))]
    names = dict.fromkeys(TYPES[_plain(option)][1] for option in options)
    return rules[0] if rules else problems[0] if len(names) == 1 else f"must be {' or '.join(names)}"


def _check(values: Mapping[str, Any], hints: Mapping[str, Any], prefix: str) -> None:
    for name, value in values.items():
        if name in hints and (problem := problem_of(value, hints[name])) is not None:
            raise UserError(f"{prefix}{name}={shortened(value)} {problem}")


def shortened(value: Any) -> str:
    """Return a value as text that fits into a message."""
    try:
        text = value if isinstance(value, str) else str(value)
    except (ValueError, RecursionError):  # a number of more than 4300 digits, or a list in itself
        text = type(value).__name__
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _options(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [option for one in get_args(annotation) for option in _options(one)]
    return [annotation]


def _plain(option: Any) -> Any:
    """Return the key in TYPES of an annotation that is no union."""
    inner = get_args(option)[0] if get_origin(option) is Annotated else option
    return get_origin(inner) or inner


def _problem_of_one(value: Any, option: Any) -> str | None:
    plain = _plain(option)
    fits, name = TYPES[plain]
    if not fits(value):
        return f"must be {name}"
    if plain in (int, float):
        if not abs(value) < math.inf:
            return FINITE
        ranges = [fact for fact in get_args(option)[1:] if isinstance(fact, Range)]
        return (*ranges, Range())[0].problem(value)
    inner = get_args(option) or (Any,)
    if plain is tuple and len(inner) != len(value):
        return f"must be a list of {len(inner)} values"
    parts: list[tuple[Any, Any]] = []
    if plain in (list, tuple):
        parts = list(zip(value, inner if plain is tuple else inner * len(value), strict=True))
    elif plain is dict:
        parts = [pair for item in value.items() for pair in zip(item, inner, strict=False)]
    problem = next(filter(None, (problem_of(part, kind) for part, kind in parts)), None)
    return None if problem is None else f"{problem}, every value of it"
