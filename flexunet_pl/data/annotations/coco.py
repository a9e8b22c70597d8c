"""COCO: one JSON for all images, with polygons or run-length encoded masks in pixels.

The format is that of https://cocodataset.org/#format-data. Several polygons of an annotation are its parts, and are
united, as pycocotools does; a hole needs a run-length code. ``iscrowd`` makes no difference to which class a pixel has.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexunet_pl.core.files import write_text
from flexunet_pl.core.types import collected
from flexunet_pl.data.annotations.fields import Place, shown
from flexunet_pl.data.annotations.formats import Document, Format, Reading, ReadOptions
from flexunet_pl.data.annotations.images import ImageFiles
from flexunet_pl.data.annotations.regions import PredictedImage, TracedRegion
from flexunet_pl.data.annotations.rle import counts_from_text, text_from_counts
from flexunet_pl.data.annotations.shapes import AnnotatedImage, Area, IntArray, Polygon, Runs, Shape, runs_of
from flexunet_pl.data.image_files import limit_of
from flexunet_pl.data.palette import Palette

FILE = "instances.json"


def claims(document: Document) -> bool:
    """Return whether a JSON has the three lists of COCO."""
    return isinstance(document.content, dict) and {"images", "annotations", "categories"} <= document.content.keys()


def read(documents: Sequence[Document], files: ImageFiles, options: ReadOptions) -> Reading:  # noqa: ARG001  all readers take options
    """Read COCO files."""
    reading = Reading()
    for document in documents:
        place = Place(document.path)
        with collected(reading.problems):
            _read_one(document, place, files, reading)
    return reading


def _read_one(document: Document, place: Place, files: ImageFiles, reading: Reading) -> None:
    content = document.content
    label_of: dict[Any, str] = {}
    for number, item in enumerate(place.items(content["categories"], "categories")):
        own = place.at(f"category {number}")
        with collected(reading.problems):
            entry = own.mapping(item, "category")
            key = _key(entry.get("id"), own)
            if key in label_of:
                own.fail(f"the id {key} is used twice", "give each category its own")
            label_of[key] = own.label(entry.get("name"), "name")
    reading.labels += label_of.values()
    shapes_of: defaultdict[Any, list[Shape]] = defaultdict(list)
    image_of: dict[Any, tuple[str, tuple[int, int]]] = {}
    broken = set()
    for number, item in enumerate(place.items(content["images"], "images")):
        own = place.at(f"image {number}")
        with collected(reading.problems):
            image = own.mapping(item, "image")
            key = _key(image.get("id"), own)
            if key in image_of:
                own.fail(f"the id {key} is used twice", "give each image its own")
            broken.add(key)
            name = own.text(image.get("file_name"), "file_name")
            image_of[key] = name, (own.size(image.get("height"), "height"), own.size(image.get("width"), "width"))
    for number, item in enumerate(place.items(content["annotations"], "annotations")):
        own = place.at(f"annotation at position {number}")
        with collected(reading.problems):
            annotation = own.mapping(item, "annotation")
            own = place.at(f"annotation {_key(annotation.get('id', f'at position {number}'), own)}")
            key = _key(annotation.get("image_id"), own, "image_id")
            if key not in image_of:
                if key in broken:
                    continue
                own.fail(f"image_id {key} is no image of the file", "add the image, or delete the annotation")
            category = _key(annotation.get("category_id"), own, "category_id")
            if category not in label_of:
                own.fail(f"category_id {category} is no category of the file", "add the category, or correct the id")
            areas = _areas(annotation.get("segmentation"), image_of[key][1], own)
            shapes_of[key].append(Shape(label_of[category], own.name, areas))
    for key, (name, size) in image_of.items():
        own = place.at(f"image {key}")
        with collected(reading.problems):
            path = files.find(name, own)
            reading.images.append(AnnotatedImage(path, document.path, size, tuple(shapes_of[key])))


def _key(value: object, place: Place, key: str = "id") -> int | str:
    """Return an id: a number, or text as some tools write it."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        place.fail(f"{key} is {shown(value)}, but must be a whole number", "export the annotations again")
    return value


def _areas(segmentation: object, size: tuple[int, int], place: Place) -> tuple[Area, ...]:
    if not segmentation:
        place.fail(
            "has a box but no segmentation, and a box does not say which pixels are the defect",
            "outline the defect with a polygon or a mask, or delete the annotation",
        )
    if isinstance(segmentation, dict):
        return (_runs(segmentation, size, place),)
    rings = place.items(segmentation, "segmentation")
    return tuple(Polygon((place.ring(ring, "segmentation"),)) for ring in rings)


def _runs(code: dict[str, Any], size: tuple[int, int], place: Place) -> Runs:
    again = "export the annotations again"
    if code.get("size") != list(size):
        place.fail(f"the size of its mask is {shown(code.get('size'))}, but its image has {list(size)}", again)
    height, width = size
    if height * width > limit_of(None):
        place.fail(
            f"its mask has {height * width:,} pixels, and at most {limit_of(None):,} are read", "give --max_pixels"
        )
    counts = code.get("counts")
    lengths: IntArray
    if isinstance(counts, str):
        try:
            lengths = counts_from_text(counts)
        except ValueError as error:
            place.fail(f"the counts of its mask cannot be decoded ({error})", again)
    else:
        lengths = np.array([place.number(count, "counts") for count in place.items(counts, "counts")], dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        place.fail(f"the counts of its mask do not add up to {width} x {height} pixels", again)
    return Runs(lengths, height, width, by_column=True)


def write(folder: Path, images: Iterable[PredictedImage], palette: Palette) -> Path:
    """Write ``instances.json``: regions without holes as polygons, others as compressed run-length codes."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        height, width = image.size
        entries.append({"id": number, "file_name": image.image.name, "height": height, "width": width})
        for region in image.regions:
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": region.class_index,
                "iscrowd": 0,
                "area": region.area,
                "bbox": list(region.box),
                "segmentation": _segmentation(region, image.size),
            }
            annotations.append(annotation if region.score is None else annotation | {"score": round(region.score, 4)})
    categories = [{"id": index, "name": name, "supercategory": ""} for index, name in enumerate(palette.names) if index]
    path = folder / FILE
    about = {"info": {"description": "predictions of flexunet_pl"}, "licenses": []}
    write_text(path, json.dumps(about | {"images": entries, "annotations": annotations, "categories": categories}))
    return path


def _segmentation(region: TracedRegion, size: tuple[int, int]) -> object:
    if len(region.rings) == 1:
        return [region.rings[0].reshape(-1).tolist()]
    return {"size": list(size), "counts": text_from_counts(runs_of(region.full_mask(size), by_column=True))}


FORMAT = Format("coco", "COCO", claims, read, write)
