"""infer: the program that bundles carry too, so it parses its own arguments."""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

from flexunet_pl.core.arguments import PROGRAM, hinted
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.inference.onnx_infer import InferenceError, main


class _Parser(ArgumentParser):
    load_rules = staticmethod(load_yaml)

    def error(self, message: str) -> NoReturn:
        text = hinted(message, lambda _name: (option[2:] for option in self._option_string_actions))
        raise InferenceError(f"{text}; --help lists the options")


def run(words: Sequence[str]) -> int:
    """Run the command."""
    return main([_with_dashes(word) for word in words], f"{PROGRAM} infer", _Parser)


def _with_dashes(word: str) -> str:
    option, equals, value = word.partition("=")
    return f"{option.replace('_', '-')}{equals}{value}" if option.startswith("--") else word
