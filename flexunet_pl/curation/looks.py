"""Whether looks tell sources apart: how alike different sources are, and what that makes of near-duplicates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_json

LOOKS_FILE = "near_duplicates.json"
# Pictures of one thing correlate by this much and more, see docs/data.md; parts that look alike by nature may, too.
LEAST_LIKENESS = 0.6
# How alike a picture is to the nearest one of another source, in the median: 0.06 for tiles, 0.12 for wood, 0.31 for
# magnetic tiles, 0.46 for screws. The limit is in the middle between the last two.
MOST_ALIKE = 0.4
# Groups that look alike are one thing seen several times, unless they are so many, or this share of all groups.
LARGEST_COUNT, FEWEST_ALIKE, LARGEST_SHARE = 24, 5, 1 / 3
# Copies correlate in noise and grain too: more than different sources by so many standard deviations of these.
DEVIATIONS, LEAST_STEP = 5, 0.08
LEAST_COPY, SURE_COPY = 0.45, 0.95


@dataclass(frozen=True)
class Looks:
    """How near-duplicates are told from different sources.

    Attributes:
        nearest: How alike a picture is to the nearest one of another source, in the median, 0..1.
        everywhere: Whether the whole set looks alike by nature.
        look_alikes: Names of the images that look like other sources; only copies of them are near-duplicates.
        copy_likeness: The correlation of fine structure from which on an image is a copy of a look-alike.
    """

    nearest: float = 0.0
    everywhere: bool = False
    look_alikes: frozenset[str] = frozenset()
    copy_likeness: float = SURE_COPY

    def resembles_others(self, *names: str) -> bool:
        """Return whether looks cannot tell one of these images from other sources."""
        return self.everywhere or not self.look_alikes.isdisjoint(names)

    @property
    def message(self) -> str:
        """One sentence on what looks are good for in this data set."""
        figure = f"a picture is {self.nearest:.2f} alike to the nearest one of another source (median)"
        if not self.look_alikes:
            return f"looks tell sources apart: {figure}, below the limit of {MOST_ALIKE}"
        reason = figure if self.everywhere else "they form groups too large, or too like each other, to be one thing"
        return (
            f"looks cannot tell {len(self.look_alikes)} images from other sources, since {reason}; of these only "
            f"copies (fine structure at least {self.copy_likeness:.2f} alike) count as near-duplicates"
        )

    def save(self, root: Path) -> None:
        """Write ``root/near_duplicates.json``: what an audit of this data set needs to decide as prepare did."""
        content = {
            "message": self.message,
            "nearest": self.nearest,
            "everywhere": self.everywhere,
            "copy_likeness": self.copy_likeness,
            "look_alikes": sorted(self.look_alikes),
        }
        write_json(root / LOOKS_FILE, content)

    @classmethod
    def load(cls, root: Path) -> "Looks | None":
        """Read ``root/near_duplicates.json``; None if it is not there; raise UserError if it cannot be read."""
        path = root / LOOKS_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                float(content["nearest"]),
                bool(content["everywhere"]),
                frozenset(map(str, content["look_alikes"])),
                float(content["copy_likeness"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); delete it, and the audit compares all images"
            ) from error


def too_many(parts: int, groups: int) -> bool:
    """Return whether ``parts`` groups that look alike, of all ``groups``, are too many to show one thing."""
    return parts > LARGEST_COUNT or (parts >= FEWEST_ALIKE and parts > LARGEST_SHARE * groups)


def copy_limit(likeness: Sequence[float]) -> float:
    """Return from which fine likeness on two pictures are copies, given that of pictures of different sources."""
    if not likeness:
        return SURE_COPY
    # Fisher's transform makes correlations near 1 comparable; quartiles do not mind some copies among the sources.
    middle, upper = np.arctanh(np.clip(np.quantile(likeness, (0.5, 0.75)), 0, 1 - 1e-6))
    deviation = (upper - middle) / 0.674
    limit = max(LEAST_COPY, min(SURE_COPY, float(np.tanh(middle + max(DEVIATIONS * deviation, LEAST_STEP)))))
    return round(max(limit, float(np.tanh(middle + 2 * deviation))), 3)
