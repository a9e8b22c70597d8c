"""All annotation formats by name, and reading a folder in whichever of them it is."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLParser

import yaml

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Problem, raise_problems
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.data.annotations import coco, cvat, labelme, labelstudio, voc, yolo
from flexunet_pl.data.annotations.formats import Document, Format, Reading, ReadOptions
from flexunet_pl.data.annotations.images import ImageFiles
from flexunet_pl.data.annotations.raster import SPECIAL_INDICES
from flexunet_pl.data.annotations.shapes import AnnotatedImage

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in (coco, labelme, cvat, labelstudio, yolo, voc)
}
SUFFIXES = (".json", ".xml", ".yaml", ".yml")
MOST_YAML_BYTES = 1 << 20  # a list of classes is short; larger files are something else
WIDEST_LINE = 1000
IMAGE_DATA = "imageData"  # LabelMe's copy of the image, which is not used


@dataclass(frozen=True)
class Annotations:
    """The annotations of a folder.

    Attributes:
        format: Their format.
        images: The annotated images, sorted by path.
        labels: The classes that shapes have, in the order of the files, without background and ignore.
        notes: What was left out or assumed, a line each.
        unannotated: Images in the folder that no annotation names.
    """

    format: Format
    images: list[AnnotatedImage]
    labels: list[str]
    notes: list[str]
    unannotated: list[Path]


def read_annotations(src: Path, images: Path | None = None, line_width: float | None = None) -> Annotations:
    """Read the annotations in a file, or in a folder and all folders below it; their content says which format it is.

    Args:
        src: The file or folder.
        images: The folder of the images, where it is elsewhere.
        line_width: Width in pixels of lines and points, which are refused without one.

    Raises:
        UserError: If there are no annotations, there are some of several formats, or they have problems; the message
            lists them with file, annotation, rule and repair.
    """
    if not src.exists():
        raise UserError(f"{src}: this file or folder does not exist; check the path")
    if images is not None and not images.is_dir():
        raise UserError(f"{images}: this folder does not exist; give the folder of the images")
    if line_width is not None and not 0 < line_width <= WIDEST_LINE:
        raise UserError(f"line_width={line_width:g}: must be above 0 and at most {WIDEST_LINE} pixels, such as 3")
    found, broken = _read(src, images, line_width)
    raise_problems(broken if found is None else [], f"{src}: ")
    if found is None:
        titles = ", ".join(one.title for one in FORMATS.values())
        raise UserError(f"{src}: holds no annotations of a known format; they may be {titles}")
    return found


def find_annotations(src: Path) -> Annotations | None:
    """Return the annotations in a folder as :func:`read_annotations` does, None if there are none."""
    return _read(src, None, None)[0]


def _read(src: Path, images: Path | None, line_width: float | None) -> tuple[Annotations | None, list[Problem]]:
    """Return the annotations, if there are any, and the files that cannot be read."""
    known: dict[str, list[Document]] = {}
    broken: list[Problem] = []
    unknown: list[Path] = []
    for document in progress(_documents(src), "Reading annotations"):
        if isinstance(document, Problem):
            broken.append(document)
        elif name := next((one.name for one in FORMATS.values() if one.claims(document)), None):
            known.setdefault(name, []).append(document)
        else:
            unknown.append(document.path)
    if not known:
        return None, broken
    if len(known) > 1:
        found = " and ".join(f"{FORMATS[name].title} ({documents[0].path})" for name, documents in known.items())
        raise UserError(f"{src}: holds {found}; give the file or folder of one of them")
    (name, documents), *_ = known.items()
    files = ImageFiles(images if images is not None else src.parent if src.is_file() else src)
    reading = FORMATS[name].read(documents, files, ReadOptions(line_width))
    raise_problems([*broken, *reading.problems, *_repeated(reading)], f"{src}: {FORMATS[name].title}: ")
    notes = reading.notes + ([f"{unknown[0]}: and {len(unknown) - 1} more files are no annotations"] if unknown else [])
    return _finished(FORMATS[name], reading, notes, files), broken


def _finished(format_: Format, reading: Reading, notes: list[str], files: ImageFiles) -> Annotations:
    annotated = sorted(reading.images, key=lambda one: one.image)
    used = {shape.label for one in annotated for shape in one.shapes}
    labels = [
        label for label in dict.fromkeys(reading.labels) if label in used and label.lower() not in SPECIAL_INDICES
    ]
    unused = [label for label in dict.fromkeys(reading.labels) if label not in used | SPECIAL_INDICES.keys()]
    if unused:
        notes.append(f"classes that no shape has are left out: {', '.join(unused)}")
    known = {one.image for one in annotated}
    return Annotations(format_, annotated, labels, notes, [path for path in files.paths if path not in known])


def _repeated(reading: Reading) -> Iterator[Problem]:
    """Yield a problem for each image that is annotated in two places."""
    file_of: dict[Path, Path] = {}
    for one in reading.images:
        if one.image in file_of:
            where = f"{file_of[one.image]} and {one.file}" if file_of[one.image] != one.file else f"{one.file}, twice"
            yield Problem(f"is annotated in {where}", one.image, "keep one of the two")
        file_of.setdefault(one.image, one.file)


def _documents(src: Path) -> Iterator[Document | Problem]:
    """Yield what may be annotations, and a problem for each file that cannot be read."""
    for path in [src] if src.is_file() else _files(src):
        try:
            if path.is_dir():
                yield Document(path, None)
            elif path.name == yolo.CLASSES_FILE:
                yield Document(path, path.read_text(encoding="utf-8").splitlines())
            elif (suffix := path.suffix.lower()) == ".json":
                yield Document(path, _json(path))
            elif suffix == ".xml":
                yield Document(path, _xml(path))
            elif path.stat().st_size <= MOST_YAML_BYTES:
                yield Document(path, load_yaml(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError, ParseError, yaml.YAMLError) as error:
            kind = path.suffix.lstrip(".").upper()
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield Problem(f"cannot be read as {kind} ({first})", path, "export it again, or move it away")


def _files(src: Path) -> Iterable[Path]:
    """Yield the files and folders to look at, sorted, without hidden ones."""
    if src.name == voc.CLASS_FOLDER:
        yield src
    for path in sorted(src.rglob("*")):
        if any(part.startswith((".", "__MACOSX")) for part in path.relative_to(src).parts):
            continue
        is_candidate = path.suffix.lower() in SUFFIXES or path.name in (yolo.CLASSES_FILE, voc.CLASS_FOLDER)
        if is_candidate and (path.is_file() or (path.name == voc.CLASS_FOLDER and path.is_dir())):
            yield path


def _json(path: Path) -> Any:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        content.pop(IMAGE_DATA, None)
    return content


def _xml(path: Path) -> Element:
    """Parse an XML; entities of its own, which may multiply without end, are refused."""
    content = path.read_bytes()
    if b"<!ENTITY" in content:
        raise ValueError("it declares entities")
    parser = XMLParser()
    parser.feed(content)
    return parser.close()
