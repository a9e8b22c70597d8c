"""report: a page on how good a model is, or on two models side by side."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace

from flexunet_pl.cli.parser import CommandParser
from flexunet_pl.core.arguments import PROGRAM, with_underscores
from flexunet_pl.core.console import say
from flexunet_pl.core.errors import UserError
from flexunet_pl.report.request import Request

USAGE = f"""\
{PROGRAM} report RUN
       {PROGRAM} report MODEL DATA --out DIR
       {PROGRAM} report --predictions MASKS DATA --out DIR
       {PROGRAM} report MODEL MODEL --data DATA --out DIR"""
MOST_MODELS = 2
FLAG = "antialiased_masks"
PATHS = (
    "one or two models (checkpoint, run folder, .onnx file, bundle, or folder of predicted masks), and unless --data "
    "or --images names them the data: a folder with train, valid and test, or one with images and masks; runs alone "
    "are evaluated on the test images of the first one's data"
)


class _Parser(CommandParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002  jsonargparse's signature
        """Raise a UserError, so that the usage is not printed."""
        raise UserError(f"report: {self.hinted(message)}; {PROGRAM} report --help lists the options")


def run(words: Sequence[str]) -> int:
    """Run the command and print where the report is."""
    request = parse(words)
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.report.writer import write_report  # what it needs takes seconds to import, and --help does not

    with pixel_limit(request.max_pixels):
        say(*write_report(request))
    return 0


def parse(arguments: Sequence[str]) -> Request:
    """Return what a command line asks for; options and paths may stand in any order.

    Raises:
        UserError: If it is contradictory or incomplete.
    """
    options = _parser().parse_args(list(_options_first(arguments)))
    _take_from_runs(options)
    if options.out is None:
        raise UserError("report: --out DIR is not given; name the folder for the report")
    if options.draws < 0 or options.seed < 0:
        raise UserError(f"--draws {options.draws} --seed {options.seed}: both must be at least 0")
    settings: dict[str, Any] = options.as_dict()
    paths, predictions = settings.pop("paths"), tuple(settings.pop("predictions"))
    if settings["data"] is None and settings["images"] is None:
        if not paths:
            raise UserError(f"report: no data given; usage: {USAGE}")
        settings["data"] = paths.pop()
    models = (*paths, *predictions)
    if not 1 <= len(models) <= MOST_MODELS:
        listed = ", ".join(map(str, models)) or "none"
        taken = f", and {settings['data']} taken for the data" if options.data is None and settings["data"] else ""
        raise UserError(f"report: one or two models are evaluated, not {len(models)} ({listed}){taken}; usage: {USAGE}")
    command = shlex.join([PROGRAM, "report", *arguments])
    antialiased = settings.pop(FLAG)
    return Request(models=models, predictions=predictions, antialiased=antialiased, command=command, **settings)


def _take_from_runs(options: Namespace) -> None:
    """Fill in, in place, what runs say if nothing but runs is given: the first one's test data, and its folder."""
    from flexunet_pl.training.data_paths import test_data_of
    from flexunet_pl.training.runs import CHECKPOINTS, named_run

    options.paths = [named_run(path) for path in options.paths]
    if options.predictions or not options.paths or not all((path / CHECKPOINTS).is_dir() for path in options.paths):
        return
    first, *others = options.paths
    if options.data is None and options.images is None:
        found = test_data_of(first)
        for key, value in (found | {FLAG: options[FLAG] or found[FLAG]}).items():
            options[key] = value
    if options.out is None:
        options.out = first / "-".join(["compare", others[0].name] if others else ["report"])


def _parser() -> CommandParser:
    parser = _Parser(
        prog=f"{PROGRAM} report", usage=USAGE, description="Evaluate a model on images with truth, or compare two."
    )
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="MODEL DATA", help=PATHS)
    add(
        "--out", type=Path, metavar="DIR", help="folder for report.html and the scores (default for runs: in the first)"
    )
    add("--data", type=Path, help="the data folder, if it is not the last path")
    predictions = "a folder of predicted masks, which counts as a model"
    add("--predictions", type=list[Path], default=[], metavar="DIR", help=predictions)
    add("--split", type=str, default="test", help="split of the data: train, valid or test")
    add("--images", type=Path, metavar="DIR", help="folder of images, with --masks instead of data")
    add("--masks", type=Path, metavar="DIR", help="folder of their masks")
    add("--palette", type=Path, metavar="FILE", help="YAML with class names and colours, or a config")
    add(f"--{FLAG}", type=bool, default=False, help="move blended colours of the truth to the nearest class")
    add("--max_pixels", type=int | None, default=None, help="most pixels of an image or mask (default: 100 million)")
    add("--draws", type=int, default=1000, help="bootstrap draws for the intervals, 0 for none")
    add("--seed", type=int, default=0, help="seed of the draws")
    return parser


def _options_first(arguments: Sequence[str]) -> Iterator[str]:
    """Yield each option as one word with its value, then the paths."""
    paths = []
    words = iter(with_underscores(arguments, [FLAG]))
    for word in words:
        option, equals, value = word.partition("=")
        if not word.startswith("--"):
            paths.append(word)
        elif word == "--help":
            yield word
        else:
            value = value if equals else next(words, "")
            yield f"--predictions+={value}" if option == "--predictions" else f"{option}={value}"
    yield from paths
