"""resume: a run that was stopped goes on."""

from collections.abc import Sequence
from pathlib import Path

from flexunet_pl.core.arguments import PROGRAM, with_underscores
from flexunet_pl.core.console import say
from flexunet_pl.core.errors import UserError

USAGE = f"{PROGRAM} resume RUN [options of fit]"
HELP = (
    f"usage: {USAGE}",
    "",
    "Go on with a run after its last checkpoint, exactly as if it had not been stopped. Options, such as",
    "--trainer.max_epochs 50, change what the run's config says; of a run with folds, for those not finished.",
)


def run(words: Sequence[str]) -> int:
    """Run the command."""
    if not {"-h", "--help"}.isdisjoint(words):
        say(*HELP)
        return 0
    if not words or words[0].startswith("-"):
        raise UserError(f"resume: needs a run; usage: {USAGE}; {PROGRAM} runs lists the runs")
    from flexunet_pl.training import lightning_cli
    from flexunet_pl.training.runs import find_run, has_folds

    folder, options = find_run(Path(words[0])), list(with_underscores(words[1:]))
    if has_folds(folder):
        from flexunet_pl.training.folds import resume_folds

        resume_folds(folder, options)
    else:
        lightning_cli.run(["fit", "--run_dir", str(folder), "--ckpt_path", "last", *options])
    return 0
