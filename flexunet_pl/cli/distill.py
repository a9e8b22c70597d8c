"""distill: the network of a run teaches another one, in a run of its own."""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from flexunet_pl.core.arguments import PROGRAM, fail, with_underscores
from flexunet_pl.core.files import scratch_folder

USAGE = f"{PROGRAM} distill RUN [--network NAME] [--time 12m] [options of fit]"
OPTIONS = {
    "--network": ("NAME", "the network that learns (default: flexunet)"),
    "--time": ("TIME", "how long it trains: 90s, 12m or 1.5h (default: as the run did)"),
    "--weight": ("NUMBER", "weight of the teacher's part of the loss (default: 1)"),
    "--temperature": ("NUMBER", "what the logits of both are divided by (default: 2)"),
    "--images": ("DIR", "images without masks, which the teacher alone speaks of"),
    "--images_per_step": ("N", "how many of them join each batch (default: 2)"),
}
TYPES = {"--weight": float, "--temperature": float, "--images_per_step": int}
EPILOG = "All other options are those of fit, such as --run_dir, --seed_everything, --trainer.max_steps or --model.KEY."


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the message in one line and exit with 2."""
        fail(f"{message}; usage: {USAGE}")


def run(words: Sequence[str]) -> int:
    """Run the command."""
    own, others = _split(list(with_underscores(words)))
    parser = _Parser(
        f"{PROGRAM} distill", USAGE, "Train a network on a run's data with the run's network as teacher.", EPILOG
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a training, such as runs/tile-1")
    for option, (metavar, about) in OPTIONS.items():
        parser.add_argument(option, metavar=metavar, help=about, type=TYPES.get(option, str))
    options = vars(parser.parse_args(own))
    from flexunet_pl.training import lightning_cli
    from flexunet_pl.training.student import Lesson, write_student_config

    folder = options.pop("run")
    lesson = Lesson(**{key: value for key, value in options.items() if value is not None})
    with scratch_folder() as scratch:
        config = write_student_config(folder, lesson, scratch)
        lightning_cli.run(["fit", "--config", str(config), *others])
    return 0


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the run and this command's own options, and the other words."""
    own, others = list(words[:1]), list(words[1:])
    if own and own[0].startswith("-") and own[0] not in ("-h", "--help"):
        fail(f"the run comes first; usage: {USAGE}")
    mine = {*OPTIONS, "-h", "--help"}
    rest: list[str] = []
    waiting: Iterator[str] = iter(others)
    for word in waiting:
        if word.partition("=")[0] not in mine:
            rest.append(word)
        elif "=" in word or word in ("-h", "--help"):
            own.append(word)
        else:
            own += [word, *([] if (value := next(waiting, None)) is None else [value])]
    return own, rest
