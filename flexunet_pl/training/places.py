"""Folders and files that stand first on a command line, as the options that they are short for."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.training import runs

PLACES = {
    "fit": ("DATA",),
    "tune": ("DATA",),
    "validate": ("RUN",),
    "test": ("RUN",),
    "predict": ("RUN", "IMAGES"),
}
PREDICTIONS = "predictions"  # folder of masks in a run folder


def as_options(command: str, words: Sequence[str]) -> list[str]:
    """Return the words after a training command, with what stands before the first option as options.

    ``fit DATA`` is ``fit --data.root DATA``, ``test RUN`` is ``test --run_dir RUN``, and ``predict RUN IMAGES`` writes
    to RUN/predictions unless ``--out`` says otherwise. A checkpoint may stand for RUN.

    Raises:
        UserError: If there are more places than the command takes, or there is no such run.
    """
    given = list(takewhile(lambda word: not word.startswith("-"), words))
    kinds, rest = PLACES[command], list(words[len(given) :])
    if len(given) > len(kinds):
        raise UserError(
            f"{command} {' '.join(given)}: takes {' '.join(kinds)} before its options; leave {given[len(kinds)]!r} out"
        )
    options: list[str] = []
    for kind, word in zip(kinds, given, strict=False):
        if kind == "DATA":
            options += ["--data.root", word]
        elif kind == "IMAGES":
            options += ["--data.predict_dir", word]
        else:
            options += _run_options(Path(word))
            folder = dict(zip(options[::2], options[1::2], strict=True)).get("--run_dir")
            has_out = any(option.partition("=")[0] == "--out" for option in rest)
            if command == "predict" and folder is not None and not has_out:
                options += ["--out", str(Path(folder) / PREDICTIONS)]
    return [*options, *rest]


def _run_options(path: Path) -> list[str]:
    """Return the options for a run, or for a checkpoint with the run folder it is in."""
    if not path.is_file():
        return ["--run_dir", str(runs.find_run(path))]
    folder = path.parent.parent
    is_in_run = path.parent.name == runs.CHECKPOINTS and runs.is_run(folder)
    return [*(["--run_dir", str(folder)] if is_in_run else []), "--ckpt_path", str(path)]
