"""Durations as people write them: 90s, 12m, 1.5h."""

import re

from flexunet_pl.core.errors import UserError

SECONDS = {"s": 1, "m": 60, "h": 3600}
MOST_SECONDS = 100 * 24 * 3600


def seconds_of(time: str, option: str = "--time") -> int:
    """Return the whole seconds of a duration such as 90s, 12m or 1.5h.

    Raises:
        UserError: If it is none, or not between 1 second and 99 days; the message names ``option``.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", time)
    seconds = 0 if match is None else round(float(match[1]) * SECONDS[match[2]])
    if not 0 < seconds < MOST_SECONDS:
        raise UserError(f"{option} {time} must be a number with s, m or h, such as 12m, of 1 second to 99 days")
    return seconds


def days_of(seconds: int) -> str:
    """Return seconds as Lightning's DD:HH:MM:SS."""
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours // 24:02d}:{hours % 24:02d}:{minutes % 60:02d}:{seconds % 60:02d}"
