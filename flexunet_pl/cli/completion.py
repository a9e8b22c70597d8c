"""completion: a script that completes commands and options in a shell."""

import argparse
import importlib
import inspect
from collections.abc import Iterable, Sequence

from flexunet_pl.cli.main import COMMANDS, TRAINING
from flexunet_pl.cli.training import CONFIG, OPTIONS
from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")


def run(words: Sequence[str]) -> int:
    """Print the script; UserError unless one shell is named."""
    if len(words) != 1 or words[0] not in SHELLS:
        shells = ", ".join(SHELLS)
        raise UserError(
            f"{PROGRAM} completion takes one shell: {shells}; for bash: source <({PROGRAM} completion bash)"
        )
    import shtab

    print(shtab.complete(_parser(), words[0]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM)
    commands = parser.add_subparsers()
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        for option in _options(name):
            command.add_argument(option)
        command.add_argument("paths", nargs="*").complete = {"bash": "_shtab_compgen_files"}  # type: ignore[attr-defined]  # shtab reads it
    return parser


def _options(name: str) -> Iterable[str]:
    if name in TRAINING:
        return CONFIG | OPTIONS[name][2]
    module = importlib.import_module(f"flexunet_pl.cli.{name.replace('-', '_')}")
    function = getattr(module, name.replace("-", "_"), None)
    return [] if function is None else [f"--{option}" for option in inspect.signature(function).parameters]
