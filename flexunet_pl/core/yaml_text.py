"""Load YAML that may come from anywhere; class names such as no, on, 1e3 and 2024-01-01 stay text."""

from collections.abc import Callable
from typing import Any

import yaml

MOST_VALUES = 100_000
TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
NUMBER_STARTS = tuple("+-.0123456789")  # parsers differ in what else they take for a number


def load_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return the plain data of a YAML text; its keys are text as it is written.

    Args:
        text: The text.
        load: Turns text into data; it builds no objects.

    Raises:
        yaml.YAMLError: If the text is no YAML, is nested too deeply, or has anchors that contain themselves or multiply
            without end.
    """
    try:
        content = load(with_text_keys(text))
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


def with_text_keys(text: str) -> str:
    """Return YAML in which every key that a parser would take for a boolean, number, date or null is quoted.

    Raises:
        yaml.YAMLError: If the text is no YAML.
    """
    if ":" not in text:
        return text
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spans: dict[int, int] = {}
    nodes, seen = [] if root is None else [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        for key, value in node.value:
            nodes += [key, value]
            if _is_misread(key) and text[key.start_mark.index : key.end_mark.index] == key.value:
                spans[key.start_mark.index] = key.end_mark.index
    for start, end in sorted(spans.items(), reverse=True):
        quoted = text[start:end].replace("'", "''")
        text = f"{text[:start]}'{quoted}'{text[end:]}"
    return text


def _is_misread(key: yaml.Node) -> bool:
    if not isinstance(key, yaml.ScalarNode) or key.style is not None or key.tag == MERGE:
        return False
    return key.tag != TEXT or key.value.startswith(NUMBER_STARTS)
