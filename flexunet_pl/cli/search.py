"""search: find better settings with short runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexunet_pl.core.arguments import PROGRAM, with_underscores, without_option
from flexunet_pl.core.console import say
from flexunet_pl.core.errors import UserError

USAGE = f"{PROGRAM} search [DATA] [--trials N] [--time 1h] [options of fit]"
OPTIONS: dict[str, tuple[type[Any], str]] = {
    "--trials": (int, "short runs in all (default: 20)"),
    "--time": (str, "how long new ones begin: 90s, 12m or 1.5h (default: without end)"),
    "--minutes_each": (float, "how long each trains (default: 5, or as --trainer.max_epochs says)"),
    "--space": (str, "YAML file of what to try, such as model.learning_rate: {low: 1e-4, high: 1e-2, log: true}"),
    "--storage": (str, "file that several processes share (default: search.journal in the search folder)"),
    "--run_dir": (str, "the search folder (default: the next free runs/NAME-search-N); an earlier search goes on"),
}
HELP = (
    f"usage: {USAGE}",
    "",
    "Train short runs with other values of a few keys; print them, and write the best as best.yaml for fit --config.",
    "",
    *(f"  {option:<15}{about}" for option, (_, about) in OPTIONS.items()),
    "",
    "All other options are those of fit, such as --config, --model.network or --data.image_size.",
)


def run(words: Sequence[str]) -> int:
    """Run the command."""
    if not {"-h", "--help"}.isdisjoint(words):
        say(*HELP)
        return 0
    import optuna  # noqa: F401  a missing one is said at once, not after seconds

    from flexunet_pl.migrate.data_folder import project_data
    from flexunet_pl.planning.fit import planned_words
    from flexunet_pl.planning.request import read_request
    from flexunet_pl.training.places import as_options
    from flexunet_pl.training.search import BASE, Search, search

    others = list(with_underscores(words))
    options: dict[str, Any] = {}
    for option, (kind, about) in OPTIONS.items():
        if option == "--run_dir":
            continue
        others, text = without_option(others, option)
        if text is not None:
            options[option[2:]] = _converted(option, kind, text, about)
    chosen = Search(**options)
    request = read_request(others)
    if (
        request is None or (Path(request.others.get("run_dir", "")) / BASE).is_file()
    ):  # an earlier search has its config
        search(as_options("fit", others), chosen)
        return 0
    with planned_words(request, project_data(request.data)) as (planned, _):
        epochs = request.length.epochs
        search([*planned, *([] if epochs is None else ["--trainer.max_epochs", str(epochs)])], chosen)
    return 0


def _converted(option: str, kind: type[Any], text: str, about: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{option} {text!r} is no number: {about}") from None
