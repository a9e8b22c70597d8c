"""Values that travel between sub-packages."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError

MOST_NAMES = 30  # of files with the same problem


@dataclass(frozen=True)
class Pair:
    """One image file and its mask file; ``name`` is the stem they share."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set; ``str()`` gives one line, "file: what; repair".

    Attributes:
        what: What was found and the rule it breaks.
        file: The file or folder it is about, if it is about one.
        repair: What to do about it, in the imperative.
        kind: What sort of problem it is, such as "pairing" or "leak"; a key of the audit's headings.
        severity: "error", "warning" or "note".
        files: All files it is about, relative to the data set's root, with slashes.
    """

    what: str
    file: Path | str | None = None
    repair: str = ""
    kind: str = ""
    severity: str = "error"
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        start = "" if self.file is None else f"{self.file}: "
        end = f"; {self.repair}" if self.repair else ""
        return f"{start}{self.what}{end}"

    @property
    def place(self) -> str:
        """The file or folder that the line begins with, empty if it begins with none."""
        start, colon, _ = str(self).partition(": ")
        return start if colon and (self.file is not None or Path(start).suffix) else ""


@contextlib.contextmanager
def collected(problems: list[Problem], kind: str = "", files: tuple[str, ...] = ()) -> Iterator[None]:
    """Append a UserError of the block to ``problems`` instead of raising it."""
    try:
        yield
    except UserError as error:
        problems.append(Problem(str(error), kind=kind, files=files))


def raise_problems(problems: Sequence[Problem], before: str = "", after: str = "", most: int = 30) -> None:
    """Raise one error that lists the first ``most`` problems and counts the rest; do nothing if there are none.

    Problems that differ in their files alone are one entry, with a count and the names of the files.

    Args:
        problems: What was found.
        before: Start of the heading, such as "data/tiles: ".
        after: End of the heading, such as " in the data set".
        most: How many problems are listed.

    Raises:
        UserError: "{before}3 problems{after}:", then numbered lines.
    """
    if problems:
        lines = [f"{before}{len(problems)} problem{'s'[: len(problems) > 1]}{after}:"]
        alike: dict[str, list[Problem]] = {}
        for problem in problems:
            key = str(problem).replace(problem.place, "") if problem.place else str(problem)
            alike.setdefault(key, []).append(problem)
        groups = list(alike.values())
        lines += [f"  {number}. {_in_one_line(*group)}" for number, group in enumerate(groups[:most], start=1)]
        if left := sum(map(len, groups[most:])):
            lines.append(f"  and {left} more")
        raise UserError("\n".join(lines))


def _in_one_line(first: Problem, *others: Problem) -> str:
    if not others:
        return str(first)
    names = [Path(one.place).name for one in others if one.place][:MOST_NAMES]
    names += ["..."] if names and len(others) > len(names) else []
    return f"{first} ({len(others)} more like this{': ' if names else ''}{', '.join(names)})"


@dataclass(frozen=True)
class Region:
    """A connected region of one class (8-connected).

    Attributes:
        class_name: Name of the class.
        class_index: Index of the class in the palette.
        box: (x0, y0, x1, y1) in pixels; x1 and y1 are exclusive.
        area: Number of pixels.
        score: Mean probability of the class over the region, 0..1.
        length: Longer side of the smallest rectangle around its pixels, in pixels.
        width: Shorter side of that rectangle, in pixels.
        is_allowed: Whether a rule of the model says that it is no reason to reject a piece.
    """

    class_name: str
    class_index: int
    box: tuple[int, int, int, int]
    area: int
    score: float
    length: float = 0.0
    width: float = 0.0
    is_allowed: bool = False


@dataclass(frozen=True)
class Prediction:
    """The segmentation of one image.

    Attributes:
        mask: Class indices, uint8 (H, W), at the image's own size.
        probabilities: float32 (H, W, K), 0..1; K = 1 is the probability of the second of two classes.
        regions: The connected regions of all classes but the background, largest first; at most 1,000.
        defect_probability: That the image shows any defect, 0..1.
        decision: "OK" or "NG", by the model's threshold for ``defect_probability`` and its rules.
        uncertainty: How unsure the model is, 0..1: the mean of 1 - margin of the two most likely classes over pixels
            that may be defect, or the highest probability of a defect if there are none.
        drift_score: How far the image is from the training set, above 1.0 farther than good images are; None if the
            model was not calibrated for it.
    """

    mask: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]
    regions: tuple[Region, ...] = ()
    defect_probability: float | None = None
    decision: str | None = None
    uncertainty: float | None = None
    drift_score: float | None = None
