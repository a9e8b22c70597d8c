"""The settings of a report."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """The settings of a report."""

    models: tuple[Path, ...]  # one or two
    predictions: tuple[Path, ...]  # folders of predicted masks among the models; they come after the others
    data: Path | None  # a folder with train, valid and test, or with images and masks; None where both are given
    split: str  # of ``data``
    images: Path | None  # folder of images, instead of ``data``
    masks: Path | None  # folder of masks, instead of ``data``
    palette: Path | None  # YAML file with class names and colours, or a config; None for the data's or the model's own
    antialiased: bool  # whether blended colours of the truth are moved to a neighbouring class
    max_pixels: int | None  # the most pixels of an image or mask; None for 100 million
    out: Path  # the report's folder
    draws: int  # how often images are drawn for the intervals
    seed: int  # of these draws
    command: str  # the command line
