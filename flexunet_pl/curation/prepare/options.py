"""The options that all sources of a data set share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flexunet_pl.core.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Options of all sources of a data set.

    Args:
        seed: Chooses among equally good splits.
        valid: Share of the images for validation, 0 to 1.
        test: Share of the images for testing, 0 to 1; the rest trains.
        folds: If 2 or more, all but the test images are in train, and the manifest gives the fold in which each one
            validates: fit --data.fold 0.
        groups: CSV with the columns file (relative to SRC) and group; files of one group stay in one split.
        source_pattern: Regular expression with one group around the part of a name (as in OUT) that all pictures of a
            source share; without it the variant prefixes of the FlexUNet family are taken off.
        near_duplicates: Whether images that look alike under different names join one group (join), are only reported
            (report), or are not searched (off).
        resize: none keeps sizes, stretch ignores the aspect, letterbox scales the longest side and pads to a square.
        size: Side in pixels after resizing.
        palette: YAML file with class names and colours; without it classes get colours of their own.
        antialiased_masks: Whether blended mask colours are moved to a neighbouring class.
        update: Whether OUT may hold a data set already; missing files are added, nothing is changed or deleted.
    """

    seed: int = 0
    valid: float = 0.2
    test: float = 0.2
    folds: int = 0
    groups: Path | None = None
    source_pattern: str | None = None
    near_duplicates: Literal["join", "report", "off"] = "join"
    resize: Literal["none", "stretch", "letterbox"] = "none"
    size: int = 512
    palette: Path | None = None
    antialiased_masks: bool = False
    update: bool = False

    def __post_init__(self) -> None:
        """Raise UserError if a number is out of its range."""
        if not (0 <= self.valid < 1 and 0 <= self.test < 1 and self.valid + self.test < 1):
            raise UserError(f"valid={self.valid:g}, test={self.test:g}; each is 0 or more and their sum below 1")
        if self.folds < 0 or self.folds == 1:
            raise UserError(f"folds={self.folds}; choose 0 for none, or 2 and more")
        if self.seed < 0:
            raise UserError(f"seed={self.seed}; it must be 0 or more")
