"""compare: a report on two runs side by side."""

from collections.abc import Sequence

from flexunet_pl.cli import report
from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.console import say
from flexunet_pl.core.errors import UserError

MODELS = 2
USAGE = f"{PROGRAM} compare RUN RUN [options of report]"


def run(words: Sequence[str]) -> int:
    """Run the command: a report with two models, on the test images of the first run unless --data names others."""
    if not {"-h", "--help"}.isdisjoint(words):
        say(f"usage: {USAGE}", "", "Compare two models on the test images of the first one's run, or of --data.")
        return 0
    if len(words) < MODELS or any(word.startswith("-") for word in words[:MODELS]):
        raise UserError(f"compare: needs two runs; usage: {USAGE}; {PROGRAM} runs lists the runs")
    return report.run(words)
