"""Annotated images as images to prepare."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from flexunet_pl.curation.palette_detection import check_class_name, grown_palette, with_ignore
from flexunet_pl.curation.prepare.readers import SPLIT_NAMES, Found, Reading, unique
from flexunet_pl.data.annotations.raster import IGNORE_LABEL
from flexunet_pl.data.annotations.registry import Annotations
from flexunet_pl.data.annotations.shapes import AnnotatedImage
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.sources import source_of

YEAR = re.compile(r"20\d\d$")  # as in COCO's train2017


def found_images(annotations: Annotations, src: Path, images: Path | None, unannotated: bool = False) -> Reading:
    """Return annotated images as images to prepare.

    Args:
        annotations: What was read.
        src: The file or folder they were read from.
        images: The folder of the images, where it was given.
        unannotated: Whether images that no annotation names are taken too, as defect-free ones.
    """
    annotated: list[tuple[Path, AnnotatedImage | None]] = [(one.image, one) for one in annotations.images]
    annotated += [(path, None) for path in annotations.unannotated] if unannotated else []
    count_of = Counter(path.stem for path, _ in annotated)
    folder = images if images is not None else src.parent if src.is_file() else src
    found = []
    for path, one in annotated:
        inside = path.relative_to(folder)
        # Images of one name in several folders are told apart by their folders.
        name = path.stem if count_of[path.stem] == 1 else "_".join(inside.with_suffix("").parts)
        found.append(
            Found(name, inside.as_posix(), path, None, None, source_of(name), _split(inside.parts[:-1]), annotated=one)
        )
    return unique(found, [])


def palette_maker(annotations: Annotations, src: Path, given: Palette | None) -> Callable[[Palette | None], Palette]:
    """Return what makes the palette of annotations from that of an earlier run, or else the one given.

    Raises:
        UserError: If a label cannot name a class.
    """
    for label in annotations.labels:
        check_class_name(label, src)
    has_ignore = any(shape.label.lower() == IGNORE_LABEL for one in annotations.images for shape in one.shapes)

    def make(before: Palette | None) -> Palette:
        palette = grown_palette(annotations.labels, given if before is None else before)
        return with_ignore(palette) if has_ignore else palette

    return make


def annotation_notes(annotations: Annotations, unannotated: bool = False) -> list[str]:
    """Return what was left out or assumed, a line each."""
    left = annotations.unannotated
    if not left or unannotated:
        return annotations.notes
    return [*annotations.notes, f"{len(left)} images have no annotation and are left out, such as {left[0].name}"]


def _split(folders: Sequence[str]) -> str | None:
    """Return the split that a folder's name gives: train, val2017, test ..."""
    names = [YEAR.sub("", folder.lower()) for folder in folders]
    return next((SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES), None)
