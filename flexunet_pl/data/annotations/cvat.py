"""CVAT for images 1.1: one XML for all images, with polygons, boxes, ellipses and run-length encoded masks in pixels.

The format is that of https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat/. Shapes are painted in the order of
``z_order``, then of the file. Groups, attributes, tags of images and ``occluded`` are not read.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from flexunet_pl.core.files import write_bytes
from flexunet_pl.core.types import Problem, collected
from flexunet_pl.data.annotations.fields import Place, shown
from flexunet_pl.data.annotations.formats import Document, Format, Reading, ReadOptions
from flexunet_pl.data.annotations.images import ImageFiles
from flexunet_pl.data.annotations.regions import PredictedImage, TracedRegion
from flexunet_pl.data.annotations.shapes import (
    AnnotatedImage,
    Area,
    FloatArray,
    Polygon,
    Runs,
    Shape,
    Stroke,
    box_ring,
    ellipse_ring,
    runs_of,
    turned,
)
from flexunet_pl.data.palette import Palette

FILE = "annotations.xml"
NO_AREA = ("polyline", "points")
REFUSED = ("cuboid", "skeleton")


def claims(document: Document) -> bool:
    """Return whether an XML is CVAT's, for images or for video."""
    return isinstance(document.content, Element) and document.content.tag == "annotations"


def read(documents: Sequence[Document], files: ImageFiles, options: ReadOptions) -> Reading:
    """Read CVAT files."""
    reading = Reading()
    tags: Counter[str] = Counter()
    for document in documents:
        root: Element = document.content
        if root.find("track") is not None:
            what = "tracks of a video, which have no image files"
            reading.problems.append(Problem(what, document.path, "export it as 'CVAT for images 1.1', with images"))
            continue
        place = Place(document.path)
        reading.labels += [name.text.strip() for name in root.iterfind("meta//label/name") if name.text]
        for element in root.iterfind("image"):
            own = place.at(f"image {element.get('id', shown(element.get('name')))}")
            with collected(reading.problems):
                path = files.find(own.text(element.get("name"), "name"), own)
                size = own.size(element.get("height"), "height"), own.size(element.get("width"), "width")
                shapes = _shapes(element, size, own, reading, options)
                reading.images.append(AnnotatedImage(path, document.path, size, tuple(shapes)))
                tags.update(tag.get("label", "") for tag in element.iterfind("tag"))
    if tags:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(tags.items()))
        reading.notes.append(f"tags of whole images mark no pixels and are not read: {names}")
    return reading


def _shapes(image: Element, size: tuple[int, int], place: Place, reading: Reading, options: ReadOptions) -> list[Shape]:
    found: list[tuple[float, Shape]] = []
    number = 0
    for element in image:
        if element.tag not in KINDS and element.tag not in (*NO_AREA, *REFUSED):
            continue
        number += 1
        with collected(reading.problems):
            label = place.at(f"{place.name}, {element.tag} {number}").label(element.get("label"))
            own = place.at(f"{place.name}, {element.tag} {number} ({label})")
            order = own.number(element.get("z_order", "0"), "z_order")
            if element.tag in REFUSED:
                own.fail(f"a {element.tag} marks no area", "outline the defect with a polygon or a mask")
            is_line = element.tag in NO_AREA
            area = _stroke(element, own, options) if is_line else KINDS[element.tag](element, size, own)
            found.append((order, Shape(label, own.name, (area,))))
    return [shape for _, shape in sorted(found, key=lambda one: one[0])]


def _points(element: Element, place: Place, least: int) -> FloatArray:
    pairs = [pair.split(",") for pair in (element.get("points") or "").split(";") if pair.strip()]
    return place.ring(pairs, "points", least)


def _stroke(element: Element, place: Place, options: ReadOptions) -> Area:
    if options.line_width is None:
        place.fail(f"{element.tag} marks no area", "draw it as a polygon, or give it a width in pixels: --line_width 3")
    return Stroke(_points(element, place, 1), options.line_width)


def _polygon(element: Element, size: tuple[int, int], place: Place) -> Area:  # noqa: ARG001  as all kinds
    return Polygon((_points(element, place, 3),))


def _box(element: Element, size: tuple[int, int], place: Place) -> Area:  # noqa: ARG001
    left, top, right, bottom = (place.number(element.get(key), key) for key in ("xtl", "ytl", "xbr", "ybr"))
    degrees = place.number(element.get("rotation", "0"), "rotation")
    ring = box_ring(left, top, right, bottom)
    return Polygon((turned(ring, (left + right) / 2, (top + bottom) / 2, degrees) if degrees else ring,))


def _ellipse(element: Element, size: tuple[int, int], place: Place) -> Area:  # noqa: ARG001
    x, y, radius_x, radius_y = (place.number(element.get(key), key) for key in ("cx", "cy", "rx", "ry"))
    degrees = place.number(element.get("rotation", "0"), "rotation")
    return Polygon((turned(ellipse_ring(x, y, abs(radius_x), abs(radius_y)), x, y, degrees),))


def _mask(element: Element, size: tuple[int, int], place: Place) -> Area:
    left, top = (int(place.number(element.get(key), key)) for key in ("left", "top"))
    width, height = (place.size(element.get(key), key) for key in ("width", "height"))
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        place.fail(f"its box leaves the image of {size[1]} x {size[0]} pixels", "draw the mask again")
    lengths = [place.number(value, "rle") for value in (element.get("rle") or "").split(",") if value.strip()]
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        place.fail(f"the runs of its mask do not add up to {width} x {height} pixels", "draw the mask again")
    return Runs(np.array(lengths, dtype=np.int64), height, width, top, left)


KINDS: dict[str, Callable[[Element, tuple[int, int], Place], Area]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}


def write(folder: Path, images: Iterable[PredictedImage], palette: Palette) -> Path:
    """Write ``annotations.xml``: regions without holes as polygons, others as masks."""
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")  # Datumaro needs a task with all of these
    for key, value in (("id", "0"), ("name", "predictions"), ("mode", "annotation"), ("overlap", "0")):
        SubElement(task, key).text = value
    size, start, stop = (SubElement(task, key) for key in ("size", "start_frame", "stop_frame"))
    labels = SubElement(task, "labels")
    for name, color in zip(palette.names[1:], palette.colors[1:], strict=True):
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name
        SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*color)
        SubElement(label, "type").text = "any"
        SubElement(label, "attributes")
    for number, image in enumerate(images):
        height, width = image.size
        sides = {"width": str(width), "height": str(height)}
        element = SubElement(root, "image", {"id": str(number), "name": image.image.name} | sides)
        for region in image.regions:
            _write_region(element, region)
    count = len(root.findall("image"))
    size.text, start.text, stop.text = str(count), "0", str(max(0, count - 1))
    indent(root)
    path = folder / FILE
    write_bytes(path, tostring(root, encoding="utf-8", xml_declaration=True))
    return path


def _write_region(image: Element, region: TracedRegion) -> None:
    common: dict[str, Any] = {"label": region.class_name, "source": "auto", "occluded": "0", "z_order": "0"}
    if len(region.rings) == 1:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in region.rings[0].tolist())
        SubElement(image, "polygon", common | {"points": points})
        return
    left, top, width, height = (str(value) for value in region.box)
    runs = ", ".join(map(str, runs_of(region.mask).tolist()))
    SubElement(image, "mask", common | {"rle": runs, "left": left, "top": top, "width": width, "height": height})


FORMAT = Format("cvat", "CVAT for images 1.1", claims, read, write)
