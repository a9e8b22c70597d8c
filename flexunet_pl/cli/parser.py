"""The parser of the commands that are typed functions."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from flexunet_pl.core.arguments import PROGRAM, fail, hinted, parser_keys, with_underscores

Function = Callable[..., int]


class CommandParser(ArgumentParser):
    """A parser whose errors are one line, with a suggestion for a mistyped option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take no abbreviated options."""
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002  jsonargparse's signature
        """Print the message and exit with 2."""
        fail(self.hinted(message))

    def hinted(self, message: str) -> str:
        """Return the message in one line, with suggestions."""
        return hinted(message, lambda _name: parser_keys(self))


def call(name: str, function: Function | Mapping[str, Function], words: Sequence[str]) -> int:
    """Call a function, or one of several, with the arguments of a command line; return its exit code."""
    functions = list(function.values()) if isinstance(function, Mapping) else [function]
    parameters = [item for one in functions for item in inspect.signature(one).parameters.values()]
    flags = [parameter.name for parameter in parameters if isinstance(parameter.default, bool)]
    components: Any = dict(function) if isinstance(function, Mapping) else function
    spelled = list(with_underscores(words, flags))
    return int(auto_cli(components, args=spelled, prog=f"{PROGRAM} {name}", parser_class=CommandParser) or 0)
