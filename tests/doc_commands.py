"""The commands and programs that a Markdown page shows, for tests that run them as a reader would."""

import re
import shlex
import sys
from pathlib import Path


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands_in(page: Path) -> list[list[str]]:
    """Return the commands in the ```bash blocks of a page as lists of words.

    ``python`` is this interpreter, and ``flexunet`` this interpreter with ``-m flexunet_pl``. A backslash at the end of
    a line continues the command; what follows a # is left out.
    """
    lines = "".join(_blocks(page, "bash")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [_with_interpreter(words) for words in commands if words]


def program_in(page: Path) -> str:
    """Return the ```python blocks of a page, joined to one program."""
    return "\n".join(_blocks(page, "python"))


def _with_interpreter(words: list[str]) -> list[str]:
    if words[0] == "flexunet":
        return [sys.executable, "-m", "flexunet_pl", *words[1:]]
    return [sys.executable if word == "python" else word for word in words]
