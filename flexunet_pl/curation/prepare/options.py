"""The options that all sources of a data set share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flexunet_pl.core.errors import UserError

DEFAULT_SHARE = 0.2
# Shares such as 0.9 and 0.1 add up to a little more or less than 1.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Settings:
    """Options of all sources of a data set.

    Args:
        seed: Chooses among equally good splits.
        valid: Share of the images for validation, 0 to 1; by default 0.2, or less where test leaves less.
        test: Share of the images for testing, 0 to 1; by default 0.2, or less where valid leaves less. The rest trains.
        folds: If 2 or more, all but the test images are in train, and the manifest gives the fold in which each one
            validates: fit --data.fold 0.
        groups: CSV with the columns file (relative to SRC) and group; files of one group stay in one split.
        source_pattern: Regular expression with one group around the part of a name (as in OUT) that all pictures of a
            source share; without it the variant prefixes of the FlexUNet family are taken off.
        near_duplicates: Whether images that look alike under different names join one group (join), are only reported
            (report), or are not searched (off).
        resize: none keeps sizes, stretch ignores the aspect, letterbox scales the longest side and pads to a square.
        size: Side in pixels after resizing.
        palette: YAML file with class names and colours, or a config that has them; without it classes get colours of
            their own.
        antialiased_masks: Whether blended mask colours are moved to a neighbouring class.
        max_pixels: The most pixels of an image or mask (default: 100 million).
        update: Whether OUT may hold a data set already; missing files are added, nothing is changed or deleted.
        link: Whether OUT gets links to the images instead of copies; masks are always written anew.
    """

    seed: int = 0
    valid: float | None = None
    test: float | None = None
    folds: int = 0
    groups: Path | None = None
    source_pattern: str | None = None
    near_duplicates: Literal["join", "report", "off"] = "join"
    resize: Literal["none", "stretch", "letterbox"] = "none"
    size: int = 512
    palette: Path | None = None
    antialiased_masks: bool = False
    max_pixels: int | None = None
    update: bool = False
    link: bool = False

    def __post_init__(self) -> None:
        """Raise UserError if a number is out of its range."""
        if self.folds < 0 or self.folds == 1:
            raise UserError(f"folds={self.folds}; choose 0 for none, or 2 and more")
        valid, test = self.valid or 0, self.test or 0
        if not (valid >= 0 and test >= 0 and valid + test <= 1 + ROUNDING):
            raise UserError(f"valid={valid:g}, test={test:g}; each is 0 or more and their sum at most 1")
        if self.folds and test == 1:
            raise UserError(f"folds={self.folds}, test=1: no image is left for the folds; choose a smaller test share")
        if self.link and self.resize != "none":
            raise UserError(f"link=true, resize={self.resize}: a resized image cannot be a link; leave one out")
        if self.seed < 0:
            raise UserError(f"seed={self.seed}; it must be 0 or more")

    @property
    def shares(self) -> dict[str, float]:
        """The share of the images of each split, by its name; with folds none is for valid."""
        valid = DEFAULT_SHARE if self.valid is None else self.valid
        test = min(DEFAULT_SHARE, 1 - (self.valid or 0)) if self.test is None else self.test
        valid = 0.0 if self.folds else min(valid, 1 - test)
        train = 1 - valid - test
        return {"train": train if train > ROUNDING else 0.0, "valid": valid, "test": test}
