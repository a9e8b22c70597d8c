"""The error for user mistakes, and how to print it."""

import difflib
import sys
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can fix.

    The message stands on its own: it names the file or key, the value found, the rule, and the repair.
    """


def print_user_error(error: Exception | str) -> int:
    """Print ``error`` to standard error as one message without a traceback.

    Returns:
        The exit code that goes with it, 2.
    """
    print(f"error: {error}", file=sys.stderr)  # noqa: T201  the one place that prints errors
    return 2


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word nearest to ``word``, or an empty string.

    A known word in the wrong place gets no suggestion.
    """
    words = set(known)
    nearest = [] if word in words else difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
