"""What every annotation format offers, and what its reader returns and its writer takes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexunet_pl.core.types import Problem
from flexunet_pl.data.annotations.images import ImageFiles
from flexunet_pl.data.annotations.regions import PredictedImage
from flexunet_pl.data.annotations.shapes import AnnotatedImage
from flexunet_pl.data.palette import Palette


@dataclass(frozen=True)
class Document:
    """A file that may hold annotations, or a folder of masks.

    Attributes:
        path: The file or folder.
        content: Plain data of JSON or YAML, the root element of XML, the lines of a text; None for a folder.
    """

    path: Path
    content: Any


@dataclass
class Reading:
    """What a reader found.

    Attributes:
        images: The annotated images.
        labels: Names of the classes that the files declare, in their order.
        problems: What is wrong, each with its file, annotation, rule and repair.
        notes: What was left out or assumed, a line each.
    """

    images: list[AnnotatedImage] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        line_width: Width in pixels that lines and points get; None refuses them, since they mark no area.
    """

    line_width: float | None = None


@dataclass(frozen=True)
class Format:
    """A format of annotations.

    Attributes:
        name: What the command line calls it.
        title: What texts call it.
        claims: Returns whether a document is of this format, by its content.
        read: Reads the documents of this format.
        write: Writes predicted images into a folder and returns the file to import.
    """

    name: str
    title: str
    claims: Callable[[Document], bool]
    read: Callable[[Sequence[Document], ImageFiles, ReadOptions], Reading]
    write: Callable[[Path, Iterable[PredictedImage], Palette], Path]
