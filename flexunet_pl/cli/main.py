"""The command line: find the command, import its module, and print the errors that a user can fix."""

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import TextIO

from flexunet_pl import __version__
from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.console import flush_warnings, is_first_process, note, say
from flexunet_pl.core.errors import UserError, print_user_error, suggestion
from flexunet_pl.core.extras import missing_extra
from flexunet_pl.core.files import cannot_write
from flexunet_pl.core.plugins import load_plugins
from flexunet_pl.core.renamed import current_words
from flexunet_pl.core.signals import Stopped, stop_on_sigterm

# Each command is a module of this package: a typed function of its name, or ``run(words) -> exit code``.
COMMANDS = {
    "fit": "train a model: fit DATA, or fit --config configs/demo.yaml",
    "plan": "choose a whole config for a data set and this machine: plan DATA --time 12m",
    "tune": "find a learning rate or a batch size: tune --config FILE --find learning_rate",
    "search": "find better settings with short runs: search DATA --trials 20",
    "distill": "let the network of a run teach another one: distill RUN --network flexunet --time 12m",
    "resume": "go on with a run that was stopped: resume RUN",
    "runs": "list the runs, with scores, minutes and state",
    "validate": "score a checkpoint on the validation images, at the working size",
    "test": "score a checkpoint on the test images, at their own size; writes test_scores.json",
    "predict": "write the masks of a folder of images: predict RUN IMAGES",
    "prepare": "make a data set from folders of images and masks",
    "audit": "check a data set for faults, imbalance and leaks",
    "select": "choose which unlabelled images to label next: select RUN IMAGES",
    "export": "turn a run or a checkpoint into a bundle that runs anywhere: export RUN",
    "infer": "segment images with a bundle, without torch",
    "serve": "answer requests over HTTP with bundles, without torch: serve exports/tile",
    "watch": "segment each image that arrives in a folder: watch BUNDLE IN OUT",
    "drift": "calibrate how far images may be from the training set: drift RUN",
    "monitor": "see whether the line is still the same, from a log of infer: monitor LOG",
    "report": "write a page on how good a model is: report RUN",
    "decide": "choose by which threshold a piece is OK or NG: decide RUN --escape-rate 0.02",
    "compare": "write a page on two models side by side: compare RUN RUN",
    "tune-min-area": "find the area below which predicted regions are noise",
    "summary": "describe a network and draw it",
    "migrate": "convert a TensorFlowFlexUNet project",
    "completion": "print a completion script for bash, zsh or tcsh: completion bash",
}
INTERRUPTED = 130  # 128 + SIGINT, as in a shell
TRAINING = ("fit", "tune", "validate", "test", "predict")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 for success, 2 for a mistake of the user's."""
    _log_to_stderr()
    try:
        with stop_on_sigterm():
            return _run(current_words(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return print_user_error(error)
    except ModuleNotFoundError as error:
        return print_user_error(missing_extra(error))
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stdout = None
        return 0
    except OSError as error:
        explained = cannot_write(error)
        if not isinstance(explained, UserError):
            raise
        return print_user_error(explained)
    except KeyboardInterrupt:
        note("\nstopped")
        return INTERRUPTED
    except Stopped as stopped:
        return stopped.exit_code
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's way to end
            return INTERRUPTED
        raise
    finally:
        flush_warnings()


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        say(*_overview())
        return 0
    name = words[0]
    if name == "--version":
        say(f"{PROGRAM} {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; choose from {', '.join(COMMANDS)}{suggestion(name, COMMANDS)}")
    function = name.replace("-", "_")
    module = importlib.import_module(f"flexunet_pl.cli.{'training' if name in TRAINING else function}")
    if name in TRAINING:  # they look for plugins in their configs too
        return int(module.run(words))
    words, _ = load_plugins(words[1:])
    if hasattr(module, "run"):
        return int(module.run(words))
    from flexunet_pl.cli.parser import call

    return call(name, getattr(module, function), words)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time of a message, not when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # setStream would first flush the old stream, which may be closed
        super().emit(record)


def _log_to_stderr() -> None:
    """Print the messages of the package on standard error, as plain lines; of several processes, the first does."""
    logger = logging.getLogger("flexunet_pl")
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if is_first_process() else logging.ERROR)


def _overview() -> list[str]:
    width = max(map(len, COMMANDS))
    lines = [f"{PROGRAM} {__version__}: train, evaluate and ship multiclass defect segmentation.", ""]
    lines += [f"usage: {PROGRAM} COMMAND [options]", f"       {PROGRAM} COMMAND --help", ""]
    return [*lines, *(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())]
