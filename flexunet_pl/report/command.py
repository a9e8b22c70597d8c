"""``python -m flexunet_pl report``: one page on how good a model is, or two models side by side."""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.report.request import Request

USAGE = """\
python -m flexunet_pl report MODEL DATA --out DIR
       python -m flexunet_pl report --predictions MASKS DATA --out DIR
       python -m flexunet_pl report MODEL MODEL --data DATA --out DIR"""
MOST_MODELS = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"report: {message}; `python -m flexunet_pl report --help` tells the options")


def report(arguments: Sequence[str]) -> int:
    """Run the command, print where the report is, and return the exit code 0.

    Raises:
        UserError: For a mistake the user can mend.
    """
    request = parse(arguments)
    from flexunet_pl.report.writer import write_report  # what it needs takes seconds to import, and --help does not

    print("\n".join(write_report(request)))
    return 0


def parse(arguments: Sequence[str]) -> Request:
    """Return what a command line asks for; options and paths may stand in any order.

    Raises:
        UserError: If it is contradictory or incomplete.
    """
    about = "Judge a model on images with truth, or compare two."
    parser = _Parser("flexunet_pl report", USAGE, about, allow_abbrev=False)
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="MODEL DATA",
        help="one or two models (checkpoint, run folder, .onnx file, bundle, or folder of predicted masks), and unless "
        "--data or --images name them the data: a folder with train, valid and test, or one with images and masks",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for report.html and the scores")
    parser.add_argument("--data", type=Path, help="the data folder, if it is not the last path")
    parser.add_argument(
        "--predictions",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of predicted masks, which counts as a model",
    )
    parser.add_argument("--split", default="test", help="which split of the data: train, valid or test (default: test)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of images, with --masks instead of data")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="folder of their masks")
    parser.add_argument("--palette", type=Path, metavar="FILE", help="YAML with class names and colours, or a config")
    parser.add_argument(
        "--antialiased_masks", action="store_true", help="move blended colours of the truth to the nearest class"
    )
    parser.add_argument("--draws", type=int, default=1000, help="draws for the intervals, 0 for none (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    options, unknown = parser.parse_known_intermixed_args(list(_with_underscores(arguments)))
    if unknown:
        hint = suggestion(unknown[0].partition("=")[0], parser._option_string_actions)
        raise UserError(f"report: unknown option {unknown[0]}{hint}; --help tells the options")
    if options.out is None:
        raise UserError("report: --out DIR is not given; name the folder for the report")
    if options.draws < 0 or options.seed < 0:
        raise UserError(f"--draws {options.draws} --seed {options.seed}: both must be at least 0")
    paths: list[Path] = options.paths
    data: Path | None = options.data
    if data is None and options.images is None:
        if not paths:
            raise UserError(f"report: no data given; usage: {USAGE}")
        data = paths.pop()
    count = len(paths) + len(options.predictions)
    if not 1 <= count <= MOST_MODELS:
        listed = ", ".join(str(path) for path in [*paths, *options.predictions]) or "none"
        taken = f", and {data} taken for the data" if options.data is None and data is not None else ""
        raise UserError(f"report: one or two models are judged, not {count} ({listed}){taken}; usage: {USAGE}")
    return Request(
        models=(*paths, *options.predictions),
        predictions=tuple(options.predictions),
        data=data,
        split=options.split,
        images=options.images,
        masks=options.masks,
        palette=options.palette,
        antialiased=options.antialiased_masks,
        out=options.out,
        draws=options.draws,
        seed=options.seed,
        command=shlex.join(["python", "-m", "flexunet_pl", "report", *arguments]),
    )


def _with_underscores(arguments: Sequence[str]) -> Iterator[str]:
    """Let --antialiased-masks, and "true" after it, stand for --antialiased_masks, as the other commands do."""
    flag = "--antialiased_masks"
    previous = ""
    for word in arguments:
        plain = word.replace("-", "_").replace("__", "--", 1) if word.startswith("--antialiased") else word
        if previous == flag and word.lower() == "true":
            previous = ""
            continue
        previous = plain
        yield flag if plain.lower() == f"{flag}=true" else plain
