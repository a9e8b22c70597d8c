"""Read one value of a train_eval_infer.config, twice: as the original's eval did, and as it was meant."""

import ast
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CODE = "it is code, and nothing here is executed"

# What file systems allow for one folder.
MAX_NAME = 255
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": "True", "false": "False", "none": "None"}


@dataclass(frozen=True)
class Reading:
    """What a text says.

    Attributes:
        meant: The value that was meant; None if unknown.
        used: The value that the original worked with; None if it could not read the text and took its default.
        fault: What is wrong with the text, empty if nothing is.
    """

    meant: Any
    used: Any
    fault: str = ""


def read_value(meant_text: str, used_text: str | None, kind: str) -> Reading:
    """Read a value of a kind in ``KINDS``, from the text as meant and as configparser found it (None: not at all)."""
    if kind == "path":
        meant_text = re.sub(r"\\+", "/", meant_text)
    fault = ""
    try:
        literal = _literal(meant_text)
    except ValueError:
        literal, fault = _repaired(meant_text)
    try:
        meant = KINDS[kind].convert(literal)
    except ValueError:
        return Reading(None, None, CODE if _is_code(meant_text) else f"it is no {KINDS[kind].name}")
    try:
        used = None if used_text is None else _literal(used_text)
    except ValueError:
        used = None
    if used is None:
        return Reading(meant, None, fault)
    if kind == "flag":
        # Whatever is not empty counts as true in Python, the word "False" too.
        return Reading(meant, bool(used), "" if isinstance(used, bool) else "it is no True or False")
    if kind != "path" and KINDS[kind].fits(used):
        return Reading(meant, KINDS[kind].convert(used), fault)
    return Reading(meant, meant, "" if KINDS[kind].fits(used) else f"it is no {KINDS[kind].name}")


def _literal(text: str) -> Any:
    """Return the Python literal in ``text``, executing nothing; ValueError if it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # backslashes in Windows paths
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(text) from error


def _repaired(text: str) -> tuple[Any, str]:
    """Return the value that a faulty text was meant to be, None if unknown, and what is wrong with it."""
    faults = []
    for fault, repair in _REPAIRS:
        repaired = repair(text)
        if repaired == text:
            continue
        faults.append(fault)
        text = repaired
        try:
            return _literal(text), " and ".join(faults)
        except ValueError:
            continue
    return None, "it cannot be read"


def _is_code(text: str) -> bool:
    """Return whether ``text`` is a Python expression that eval would have computed, such as ``1 / 255``."""
    try:
        return not isinstance(ast.parse(text.strip(), mode="eval").body, ast.Name | ast.Constant)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _without_comment(text: str) -> str:
    """Cut ``text`` at the first semicolon outside quotes."""
    match = re.match(r"""(?:[^;"']|"[^"]*"|'[^']*')*(?=;)""", text)
    return text if match is None else match[0].strip()


def _with_right_brackets(text: str) -> str:
    """Close every bracket of ``text`` by its own counterpart."""
    fixed, open_brackets = [], []
    for character in text:
        if character in _BRACKETS:
            open_brackets.append(_BRACKETS[character])
        elif character in _BRACKETS.values():
            if not open_brackets:
                continue
            character = open_brackets.pop()
        fixed.append(character)
    return "".join(fixed).rstrip(" \\\n") + "".join(reversed(open_brackets))


def _quoted(text: str) -> str:
    """Read a bare or half-quoted word as a word; true, false and none as Python writes them."""
    word = text.strip("\"' \t")
    if not word or re.search(r"[\n(){}\[\]=]", word):
        return text
    return _WORDS.get(word.lower(), repr(word))


_REPAIRS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("a comment may not follow on the same line after a semicolon", _without_comment),
    ("a bracket is missing or the wrong one", _with_right_brackets),
    ("quotes are missing, or it is not written as Python writes it", _quoted),
)


def _as_flag(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if value in (0, 1):
        return bool(value)
    raise ValueError(value)


def _as_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(value)
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(value) from error
    if not math.isfinite(number):
        raise ValueError(value)
    return int(number) if number.is_integer() and not isinstance(value, float) else number


def _as_count(value: Any) -> int:
    number = _as_number(value)
    if number != int(number):
        raise ValueError(value)
    return int(number)


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _as_path(value: Any) -> str:
    text = _as_text(value)
    if not text.isprintable() or any(len(part) > MAX_NAME for part in text.split("/")):
        raise ValueError(value)
    return text


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _as_pair(value: Any) -> tuple[int, int]:
    items = _as_list(value)
    if len(items) not in (1, 2):
        raise ValueError(value)
    return _as_count(items[0]), _as_count(items[-1])


def _as_numbers(value: Any) -> list[float]:
    return [_as_number(item) for item in _as_list(value)]


def _as_places(value: Any) -> list[tuple[float, ...]]:
    places = [tuple(_as_numbers(place)) for place in _as_list(value)]
    if any(len(place) != 2 for place in places):
        raise ValueError(value)
    return places


def _as_colors(value: Any) -> tuple[tuple[int, ...], ...]:
    """Return the colours of a map from colour to number in their order, which alone counts."""
    if not isinstance(value, dict | list | tuple) or not value:
        raise ValueError(value)
    colors = tuple(tuple(_as_count(part) for part in _as_list(color)) for color in value)
    if any(len(color) != 3 or not all(0 <= part <= 255 for part in color) for color in colors):
        raise ValueError(value)
    return tuple(dict.fromkeys(colors))


@dataclass(frozen=True)
class Kind:
    """A type of values: its name, the types the original works with, and what makes a value of it or ValueError."""

    name: str
    types: tuple[type, ...]
    convert: Callable[[Any], Any]

    def fits(self, value: Any) -> bool:
        """Return whether the original could work with ``value``."""
        return isinstance(value, self.types) and (bool in self.types or not isinstance(value, bool))


KINDS: dict[str, Kind] = {
    "flag": Kind("True or False", (bool,), _as_flag),
    "count": Kind("whole number", (int,), _as_count),
    "number": Kind("number", (int, float), _as_number),
    "text": Kind("text in quotes", (str,), _as_text),
    "path": Kind("path in quotes", (str,), _as_path),
    "pair": Kind("pair of whole numbers", (tuple, list), _as_pair),
    "numbers": Kind("list of numbers", (list,), _as_numbers),
    "places": Kind("list of pairs", (list, tuple), _as_places),
    "colors": Kind("map from (red, green, blue) to a number", (dict,), _as_colors),
}
