"""What a mistyped key of a config or an option is answered with."""

import inspect
import re
import sys
from typing import NoReturn

import lightning
from lightning.pytorch.cli import LightningArgumentParser

from flexunet_pl.core.errors import suggestion
from flexunet_pl.training import callbacks


class Parser(LightningArgumentParser):
    """A parser whose errors are one message, and which suggests the key that was meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002  jsonargparse's signature
        """Print ``message`` with a suggestion for each unknown key in it, and exit with 2."""
        text = " ".join(str(message).split())
        unknown = re.findall(r"option '([\w.]+)'", text, flags=re.IGNORECASE) + re.findall(r" --([\w.]+)", text)
        hints = [suggestion(key, self._known_keys() if "." in key else _callback_keys()) for key in unknown]
        sys.stderr.write(f"error: {text}{''.join(hints)}\n")
        sys.exit(2)

    def _known_keys(self) -> set[str]:
        commands = self._subcommands_action
        parsers = [self] if commands is None else [self, *commands._name_parser_map.values()]
        return {action.dest for parser in parsers for action in parser._actions}


def _callback_keys() -> set[str]:
    """Return the names of the options of all callbacks and loggers a config may hold, to suggest from."""
    rooms = (lightning.pytorch.callbacks, lightning.pytorch.loggers, callbacks)
    kinds = (lightning.Callback, lightning.pytorch.loggers.Logger)
    classes = [one for room in rooms for one in vars(room).values() if inspect.isclass(one) and issubclass(one, kinds)]
    return {key for one in classes for key in inspect.signature(one).parameters}
