"""What a report is asked to show."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        models: One or two models.
        predictions: Folders of predicted masks among the models; they come after the others.
        data: A folder with train, valid and test, or with images and masks; None where both folders are given.
        split: Which split of ``data``.
        images: Folder of images, instead of ``data``.
        masks: Folder of masks, instead of ``data``.
        palette: YAML file with class names and colours, or a config; None for the data's or the model's own.
        antialiased: Whether blended colours of the truth are moved to a neighbouring class.
        out: The report's folder.
        draws: How often images are drawn for the intervals.
        seed: Of these draws.
        command: The command line.
    """

    models: tuple[Path, ...]
    predictions: tuple[Path, ...]
    data: Path | None
    split: str
    images: Path | None
    masks: Path | None
    palette: Path | None
    antialiased: bool
    out: Path
    draws: int
    seed: int
    command: str
