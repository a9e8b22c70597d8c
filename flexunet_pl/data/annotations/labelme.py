"""LabelMe: one JSON beside each image, with polygons and other shapes in pixels.

The format is that of https://github.com/wkentaro/labelme, versions 3 to 6. ``group_id`` does not change the class
of a pixel; flags and descriptions are not read.
"""

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from flexunet_pl.core.files import write_text
from flexunet_pl.core.types import collected
from flexunet_pl.data.annotations.fields import Place, shown
from flexunet_pl.data.annotations.formats import Document, Format, Reading, ReadOptions
from flexunet_pl.data.annotations.images import ImageFiles
from flexunet_pl.data.annotations.regions import PredictedImage, TracedRegion
from flexunet_pl.data.annotations.shapes import (
    AnnotatedImage,
    Area,
    BoolArray,
    Polygon,
    Runs,
    Shape,
    Stroke,
    box_ring,
    ellipse_ring,
    runs_of,
)
from flexunet_pl.data.image_files import limit_of
from flexunet_pl.data.palette import Palette

VERSION = "5.5.0"  # whose files all later versions read


def claims(document: Document) -> bool:
    """Return whether a JSON has the shapes of one image."""
    return isinstance(document.content, dict) and {"shapes", "imagePath"} <= document.content.keys()


def read(documents: Sequence[Document], files: ImageFiles, options: ReadOptions) -> Reading:
    """Read LabelMe files."""
    reading = Reading()
    for document in documents:
        place = Place(document.path)
        with collected(reading.problems):
            name = place.text(document.content["imagePath"], "imagePath")
            sides = [document.content.get(key) for key in ("imageHeight", "imageWidth")]
            size = None if None in sides else (place.size(sides[0], "imageHeight"), place.size(sides[1], "imageWidth"))
            path = files.find(name, place)
            shapes = []
            for number, item in enumerate(place.items(document.content["shapes"], "shapes")):
                with collected(reading.problems):
                    shapes.append(_shape(item, place.at(f"shape {number}"), options))
            reading.images.append(AnnotatedImage(path, document.path, size, tuple(shapes)))
            reading.labels += [shape.label for shape in shapes]
    reading.labels = sorted(set(reading.labels))
    return reading


def _shape(item: object, place: Place, options: ReadOptions) -> Shape:
    shape = place.mapping(item, "shape")
    label = place.label(shape.get("label"))
    kind = shape.get("shape_type") or "polygon"
    own = place.at(f"{place.name} ({label})")
    if not isinstance(kind, str) or kind not in KINDS:
        own.fail(f"shape_type is {shown(kind)}, but must be one of {', '.join(KINDS)}", "draw the shape as a polygon")
    return Shape(label, own.name, (KINDS[kind](shape, own, options),))


def _polygon(shape: Mapping[str, Any], place: Place, options: ReadOptions) -> Area:  # noqa: ARG001  as all kinds
    return Polygon((place.ring(shape.get("points"), "points"),))


def _rectangle(shape: Mapping[str, Any], place: Place, options: ReadOptions) -> Area:  # noqa: ARG001
    points = place.ring(shape.get("points"), "points", least=2)
    return Polygon((box_ring(*points.min(axis=0), *points.max(axis=0)) if len(points) == 2 else points,))


def _circle(shape: Mapping[str, Any], place: Place, options: ReadOptions) -> Area:  # noqa: ARG001
    (x, y), edge = place.ring(shape.get("points"), "points", least=2)[:2]
    radius = float(np.hypot(edge[0] - x, edge[1] - y))
    return Polygon((ellipse_ring(x, y, radius, radius),))


def _line(shape: Mapping[str, Any], place: Place, options: ReadOptions) -> Area:
    points = place.ring(shape.get("points"), "points", least=1)
    if options.line_width is None:
        place.fail(
            f"a {shape['shape_type']} marks no area",
            "draw it as a polygon, or give it a width in pixels: --line_width 3",
        )
    return Stroke(points, options.line_width)


def _mask(shape: Mapping[str, Any], place: Place, options: ReadOptions) -> Area:  # noqa: ARG001
    (left, top), (right, bottom) = place.ring(shape.get("points"), "points", least=2)[:2].astype(int).tolist()
    try:
        with Image.open(io.BytesIO(base64.b64decode(place.text(shape.get("mask"), "mask"), validate=True))) as opened:
            if opened.width * opened.height > limit_of(None):
                place.fail(f"its mask has {opened.width} x {opened.height} pixels", "draw it again")
            mask = np.asarray(opened.convert("L")) > 0
    except (
        binascii.Error,
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        place.fail(f"its mask cannot be read as a PNG ({error})", "draw the mask again")
    # The two points are the first and the last pixel.
    if mask.shape != (bottom - top + 1, right - left + 1):
        place.fail(
            f"its mask has {mask.shape[1]} x {mask.shape[0]} pixels, but its points are the corners of "
            f"{right - left + 1} x {bottom - top + 1}",
            "draw the mask again",
        )
    return Runs(runs_of(mask), *mask.shape, top=top, left=left)


KINDS: dict[str, Callable[[Mapping[str, Any], Place, ReadOptions], Area]] = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "oriented_rectangle": _polygon,
    "circle": _circle,
    "mask": _mask,
    "line": _line,
    "linestrip": _line,
    "point": _line,
    "points": _line,
}


def write(folder: Path, images: Iterable[PredictedImage], palette: Palette) -> Path:  # noqa: ARG001  names are in the regions
    """Write ``NAME.json`` for each image: regions without holes as polygons, others as masks."""
    for image in images:
        height, width = image.size
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": [_written(region) for region in image.regions],
            "imagePath": image.image.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_text(folder / f"{image.image.stem}.json", json.dumps(content, indent=1))
    return folder


def _written(region: TracedRegion) -> dict[str, Any]:
    shape: dict[str, Any] = {"label": region.class_name, "group_id": None, "flags": {}}
    shape["description"] = "" if region.score is None else f"score {region.score:.4f}"
    if len(region.rings) == 1:
        return shape | {"shape_type": "polygon", "points": region.rings[0].tolist(), "mask": None}
    left, top, width, height = region.box
    corners = [[left, top], [left + width - 1, top + height - 1]]
    return shape | {"shape_type": "mask", "points": corners, "mask": _png_text(region.mask)}


def _png_text(mask: BoolArray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


FORMAT = Format("labelme", "LabelMe", claims, read, write)
