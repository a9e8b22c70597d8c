"""YOLO segmentation: a text for each image, with polygons in shares of its width and height.

The format is that of https://docs.ultralytics.com/datasets/segment/: ``data.yaml`` with ``names``, and in folders
``labels`` beside ``images`` a line ``CLASS X Y X Y ...`` for each polygon. An image without a text shows no defect.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_text
from flexunet_pl.core.types import collected
from flexunet_pl.data.annotations.fields import Place, shown
from flexunet_pl.data.annotations.formats import Document, Format, Reading, ReadOptions
from flexunet_pl.data.annotations.images import ImageFiles
from flexunet_pl.data.annotations.regions import PredictedImage, single_ring
from flexunet_pl.data.annotations.shapes import AnnotatedImage, Polygon, Shape
from flexunet_pl.data.palette import Palette

FILE, CLASSES_FILE, FOLDER, IMAGES = "data.yaml", "classes.txt", "labels", "images"


def claims(document: Document) -> bool:
    """Return whether a YAML or a list of classes names the classes of texts in folders ``labels``."""
    names = document.content.get("names") if isinstance(document.content, dict) else document.content
    is_list = document.path.name == CLASSES_FILE or document.path.suffix.lower() in (".yaml", ".yml")
    return is_list and isinstance(names, list | dict) and bool(_texts(document.path.parent))


def _texts(folder: Path) -> list[Path]:
    """Return the texts in folders ``labels``, at any depth."""
    return sorted(path for path in folder.rglob("*.txt") if FOLDER in path.relative_to(folder).parts[:-1])


def read(documents: Sequence[Document], files: ImageFiles, options: ReadOptions) -> Reading:  # noqa: ARG001  all readers take options
    """Read data sets of YOLO; where there are a YAML and a list of classes, the YAML counts."""
    reading = Reading()
    yamls = [document for document in documents if document.path.name != CLASSES_FILE]
    seen: set[Path] = set()
    for document in yamls or documents:
        with collected(reading.problems):
            names = _names(document)
            reading.labels += names
            for text in _texts(document.path.parent):
                if text.name != CLASSES_FILE and text not in seen:
                    seen.add(text)
                    with collected(reading.problems):
                        image = _image_of(text, files)
                        reading.images.append(AnnotatedImage(image, text, None, _shapes(text, names, reading)))
    known = {annotated.image for annotated in reading.images}
    if not reading.problems and (others := [path for path in files.paths if path not in known]):
        reading.images += [AnnotatedImage(path, path, None, ()) for path in others]
        reading.notes.append(f"images without a text in {FOLDER}, which show no defect: {len(others)}")
    return reading


def _names(document: Document) -> list[str]:
    place = Place(document.path)
    if document.path.name == CLASSES_FILE:
        names = [line.strip() for line in document.content if line.strip()]
    elif isinstance(document.content["names"], dict):
        by_index = {int(place.number(key, "names")): name for key, name in document.content["names"].items()}
        if sorted(by_index) != list(range(len(by_index))):
            place.fail(
                f"names has the numbers {shown(sorted(by_index))}, but they must be 0, 1, 2 ...", "number the classes"
            )
        names = [by_index[index] for index in sorted(by_index)]
    else:
        names = document.content["names"]
    return [place.label(str(name) if isinstance(name, int | float) else name, "names") for name in names]


def _image_of(text: Path, files: ImageFiles) -> Path:
    """Return the image of a text: in the folder ``images`` that is to ``labels`` as the text, or else of its name."""
    found = files.with_stem(text.stem, ())
    parts = text.parts
    last = len(parts) - 1 - parts[::-1].index(FOLDER)
    folder = Path(*parts[:last], IMAGES, *parts[last + 1 : -1])
    beside = [path for path in found if path.parent == folder] or found
    if len(beside) == 1:
        return beside[0]
    if not beside:
        raise UserError(
            f"{text}: no image has the stem {text.stem!r}; add it, give its folder with --images, or delete this"
        )
    raise UserError(f"{text}: {beside[0]} and {beside[1]} have its stem; rename one with its text")


def _shapes(text: Path, names: Sequence[str], reading: Reading) -> tuple[Shape, ...]:
    try:
        lines = text.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{text}: cannot be read as a text ({error}); export the annotations again") from error
    shapes = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        with collected(reading.problems):
            shapes.append(_shape(line.split(), names, Place(text, f"line {number}")))
    return tuple(shapes)


def _shape(words: Sequence[str], names: Sequence[str], place: Place) -> Shape:
    index = place.number(words[0], "class")
    if index != int(index) or not 0 <= index < len(names):
        place.fail(f"class is {shown(words[0])}, but must be 0..{len(names) - 1}", "correct it, or add its name")
    if len(words) == 5:
        place.fail(
            "is a box, and a box does not say which pixels are the defect",
            "export polygons for segmentation, or delete the line",
        )
    label = names[int(index)]
    return Shape(label, f"{place.name} ({label})", (Polygon((place.ring(list(words[1:]), "polygon"),), relative=True),))


def write(folder: Path, images: Iterable[PredictedImage], palette: Palette) -> Path:
    """Write ``data.yaml`` and ``labels/NAME.txt`` for each image; a cut of no width joins a hole to the outside."""
    for image in images:
        height, width = image.size
        lines = []
        for region in image.regions:
            points = (single_ring(region.rings) / (width, height)).reshape(-1)
            lines.append(" ".join([str(region.class_index - 1), *(f"{value:.6f}" for value in points.tolist())]))
        write_text(folder / FOLDER / f"{image.image.stem}.txt", "".join(f"{line}\n" for line in lines))
    path = folder / FILE
    content = {"path": ".", "train": IMAGES, "val": IMAGES, "names": dict(enumerate(palette.names[1:]))}
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    return path


FORMAT = Format("yolo", "YOLO segmentation", claims, read, write)
