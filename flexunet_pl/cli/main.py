"""The command line: fit, validate, test, predict and tune through Lightning, the other commands as typed functions."""

import importlib
import inspect
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError, print_user_error, suggestion

TRAINER_COMMANDS = {
    "fit": "train a model: fit --config configs/demo.yaml",
    "tune": "find a learning rate or a batch size: tune --config FILE --find learning_rate",
    "validate": "score a checkpoint on the validation images, at the working size",
    "test": "score a checkpoint on the test images, at their own size; writes test_scores.json",
    "predict": "write the masks of a folder of images: predict --ckpt_path FILE --data.predict_dir DIR --out DIR",
}


@dataclass(frozen=True)
class Command:
    """A command: what it does, and the ``module:name`` of the function that does it and returns an exit code.

    Where ``parses_itself``, the function takes the list of arguments; otherwise its typed signature is the command
    line, or that of the functions in the dictionary of that name.
    """

    summary: str
    function: str
    parses_itself: bool = False


COMMANDS = {
    "prepare": Command(
        "make a data set from folders of images and masks", "flexunet_pl.curation.prepare.command:SOURCES"
    ),
    "audit": Command("check a data set for faults, imbalance and leaks", "flexunet_pl.curation.audit.command:audit"),
    "export": Command("turn a checkpoint into a bundle that runs anywhere", "flexunet_pl.export.bundle:export"),
    "infer": Command("segment images with a bundle, without torch", "flexunet_pl.inference.onnx_infer:main", True),
    "report": Command("show on a page how good a model is, or compare two", "flexunet_pl.report.command:report", True),
    "tune-min-area": Command(
        "find the area below which a region is noise", "flexunet_pl.evaluation.min_region_area:tune_min_area"
    ),
    "summary": Command("tell what a network is, and draw it", "flexunet_pl.summary.command:summary"),
    "migrate": Command("take over a TensorFlowFlexUNet project", "flexunet_pl.migrate.command:migrate"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 for success, 2 for a mistake of the user's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _show_log()
    try:
        return _dispatch(arguments)
    except UserError as error:
        return print_user_error(error)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name = arguments[0]
    if name == "--version":
        print(__version__)
        return 0
    if name in TRAINER_COMMANDS:
        trainer_cli = importlib.import_module("flexunet_pl.training.lightning_cli")
        return int(trainer_cli.run(arguments))
    if name in COMMANDS:
        return _call(name, COMMANDS[name], arguments[1:])
    known = [*TRAINER_COMMANDS, *COMMANDS]
    raise UserError(f"unknown command {name!r}; choose from {', '.join(known)}{suggestion(name, known)}")


def _call(name: str, command: Command, arguments: list[str]) -> int:
    module, attribute = command.function.split(":")
    function: Any = getattr(importlib.import_module(module), attribute)
    if command.parses_itself:
        return int(function(arguments))
    from jsonargparse import auto_cli  # a quarter of a second that `python -m flexunet_pl` alone need not take

    functions = function.values() if isinstance(function, dict) else [function]
    words = list(_with_plain_flags(arguments, functions))
    return int(auto_cli(function, args=words, prog=f"flexunet_pl {name}", as_positional=True) or 0)


def _with_plain_flags(arguments: list[str], functions: Iterable[Any]) -> Iterator[str]:
    """Let ``--as-run`` stand for ``--as_run true``, as people expect, where jsonargparse wants the latter."""
    parameters = [item for function in functions for item in inspect.signature(function).parameters.values()]
    flags = {parameter.name for parameter in parameters if isinstance(parameter.default, bool)}
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        option = option.replace("-", "_").replace("__", "--", 1) if option.startswith("--") else option
        is_bare_flag = option[2:] in flags and not equals and following.lower() not in ("true", "false")
        yield f"{option}=true" if is_bare_flag else f"{option}{equals}{value}"


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what is standard error when something is said, not when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # setStream would first flush the old stream, which may be closed
        super().emit(record)


def _show_log() -> None:
    """Show what the package has to say on standard error, as plain lines."""
    logger = logging.getLogger("flexunet_pl")
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _overview() -> str:
    width = max(len(name) for name in [*TRAINER_COMMANDS, *COMMANDS])
    lines = [f"flexunet_pl {__version__}: train, judge and ship multiclass defect segmentation.", ""]
    lines += ["usage: python -m flexunet_pl COMMAND [options]; COMMAND --help tells the options", ""]
    lines += [f"  {name:<{width}}  {summary}" for name, summary in TRAINER_COMMANDS.items()]
    lines += [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(lines)
