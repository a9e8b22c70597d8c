"""Load YAML that may come from anywhere."""

from collections.abc import Callable
from typing import Any

import yaml

MOST_VALUES = 100_000


def load_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return the plain data of a YAML text.

    Args:
        text: The text.
        load: Turns text into data; it builds no objects.

    Raises:
        yaml.YAMLError: If the text is no YAML, is nested too deeply, or has anchors that contain themselves or multiply
            without end.
    """
    try:
        content = load(text)
        _check_finite(content, [0], ())
    except RecursionError as error:
        raise yaml.YAMLError("values are nested too deeply; write fewer levels") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # such as a date with a month of 99
        raise yaml.YAMLError(f"a value cannot be read ({error})") from error
    return content


def _check_finite(value: Any, count: list[int], above: tuple[int, ...]) -> None:
    """Raise the YAMLError that refuses anchors which contain themselves, or multiply without end."""
    count[0] += 1
    if id(value) in above or count[0] > MOST_VALUES:
        raise yaml.YAMLError(
            f"an anchor contains itself, or there are more than {MOST_VALUES:,} values; write them out"
        )
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _check_finite(one, count, (*above, id(value)))
