"""runs: a table of the runs in a folder."""

from pathlib import Path

from flexunet_pl.core.console import say
from flexunet_pl.core.errors import UserError


def runs(folder: Path = Path("runs")) -> int:
    """Print a table of all runs, the newest first: data, network, epochs, minutes, scores, and how each ended.

    Args:
        folder: Folder of the runs.

    Returns:
        The exit code, 0.
    """
    from flexunet_pl.training.run_record import table_of_runs
    from flexunet_pl.training.runs import all_runs

    if not (found := all_runs(folder)):
        raise UserError(f"{folder}: holds no run; train one with fit, or name another --folder")
    say(table_of_runs(found))
    return 0
