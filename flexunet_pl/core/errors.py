"""The error a user can mend, and how it is printed."""

import difflib
import sys
from collections.abc import Iterable

USER_ERROR_EXIT_CODE = 2


class UserError(ValueError):
    """A mistake the user can mend.

    The message stands on its own: it names the file or key, the value found, the rule, and the repair.
    """


def print_user_error(error: Exception | str) -> int:
    """Print ``error`` to standard error as one message without a traceback.

    Returns:
        The exit code that goes with it, 2.
    """
    print(f"error: {error}", file=sys.stderr)  # noqa: T201  the one place that talks to the user about errors
    return USER_ERROR_EXIT_CODE


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word nearest to ``word``, or an empty string.

    A word that is itself known, but was not in its place, has no better one.
    """
    words = set(known)
    nearest = [] if word in words else difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
