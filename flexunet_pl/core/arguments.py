"""What all parsers of the command line share: the spelling of options, and errors of one line."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from flexunet_pl.core.errors import print_user_error, suggestion

PROGRAM = "flexunet"


def with_underscores(words: Sequence[str], flags: Iterable[str] = ()) -> Iterator[str]:
    """Yield the words with dashes inside the names of options as underscores, and ``--flag`` as ``--flag=true``.

    Names below ``data.palette`` are the user's own and stay as they are.

    Args:
        words: The command line after the command.
        flags: Names of options that are true or false, with underscores.
    """
    known = set(flags)
    for word, following in zip(words, [*words, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option.startswith("--") and not option.startswith("--data.palette."):
            option = "--" + option[2:].replace("-", "_")
        is_bare_flag = option[2:] in known and not equals and following.lower() not in ("true", "false")
        yield f"{option}=true" if is_bare_flag else f"{option}{equals}{value}"


def without_option(words: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """Return the words without an option and its value, and the last value, None if it is not given."""
    others: list[str] = []
    value: str | None = None
    waiting = iter(words)
    for word in waiting:
        if word == option:
            value = next(waiting, "")
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
        else:
            others.append(word)
    return others, value


def hinted(message: object, known: Callable[[str], Iterable[str]]) -> str:
    """Return the message of a parser in one line, with a suggestion for each unknown option or command.

    Args:
        message: The parser's message.
        known: Returns the names to suggest from, for an unknown name.
    """
    text = " ".join(str(message).split())
    unknown = re.findall(r"option '([\w.]+)'", text, flags=re.IGNORECASE) + re.findall(r" --([\w.-]+)", text)
    hints = dict.fromkeys(suggestion(name, known(name)) for name in unknown)
    if choice := re.search(r"invalid choice: '([^']+)' \(choose from (.+)\)", text):
        hints[suggestion(choice[1], re.findall(r"[\w-]+", choice[2]))] = None
    return text + "".join(hints)


def parser_keys(parser: Any) -> set[str]:
    """Return the names of all options of a jsonargparse parser and its subcommands."""
    commands = parser._subcommands_action
    parsers = [parser] if commands is None else [parser, *commands._name_parser_map.values()]
    return {action.dest for one in parsers for action in one._actions}


def fail(message: str) -> NoReturn:
    """Print an error of a parser and exit with 2."""
    sys.exit(print_user_error(message))
