"""Label Studio: the exports JSON and JSON-MIN, and predictions to import, in percent of the image.

The format is that of https://labelstud.io/guide/export and https://labelstud.io/guide/predictions. Polygons,
rectangles, ellipses and brush strokes are read, in the order of the file.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from flexunet_pl.core.files import write_text
from flexunet_pl.core.types import collected
from flexunet_pl.data.annotations.fields import Place, shown
from flexunet_pl.data.annotations.formats import Document, Format, Reading, ReadOptions
from flexunet_pl.data.annotations.images import ImageFiles
from flexunet_pl.data.annotations.regions import PredictedImage, TracedRegion
from flexunet_pl.data.annotations.rle import brush_from_mask, mask_from_brush
from flexunet_pl.data.annotations.shapes import (
    AnnotatedImage,
    Area,
    Polygon,
    Runs,
    Shape,
    box_ring,
    ellipse_ring,
    runs_of,
    turned,
)
from flexunet_pl.data.image_files import limit_of
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import IMAGE_SUFFIXES

FILE, CONFIG_FILE = "tasks.json", "config.xml"
MODEL_VERSION = "flexunet_pl"
DATA_KEY = "image"
BARE = ("polygon", "rectangle", "ellipse", "brush")  # tags of shapes that another result with the same id labels
UNLABELLED = ("choices", "rating", "textarea", "taxonomy", "number", "datetime", "relation", "pairwise", "ranker")


def claims(document: Document) -> bool:
    """Return whether a JSON is a list of tasks."""
    content = document.content
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return False
    keys = content[0].keys()
    return ("data" in keys and not keys.isdisjoint(("annotations", "predictions"))) or _is_short(content[0])


def _is_short(task: Mapping[str, Any]) -> bool:
    """Return whether a task is of JSON-MIN."""
    return "data" not in task and not task.keys().isdisjoint(("annotation_id", "annotator", "lead_time"))


def read(documents: Sequence[Document], files: ImageFiles, options: ReadOptions) -> Reading:  # noqa: ARG001  all readers take options
    """Read exports of Label Studio."""
    reading = Reading()
    skipped: Counter[str] = Counter()
    for document in documents:
        for number, item in enumerate(document.content):
            place = Place(document.path, f"task at position {number}")
            with collected(reading.problems):
                task = place.mapping(item, "task")
                place = place.at(f"task {task.get('id', f'at position {number}')}")
                results = _short_results(task) if _is_short(task) else _results(task, place, skipped)
                if results is not None:
                    data = task if _is_short(task) else place.mapping(task.get("data"), "data")
                    path = files.find(_image_name(data, place), place)
                    reading.images.append(_annotated(path, results, place, reading, skipped))
    reading.labels = sorted({shape.label for image in reading.images for shape in image.shapes})
    reading.notes += [f"{what}: {count}" for what, count in skipped.items()]
    return reading


def _results(task: Mapping[str, Any], place: Place, skipped: Counter[str]) -> list[Any] | None:
    """Return the results of the annotation that counts, None if the task has none that is finished."""
    everything = place.items(task.get("annotations", []), "annotations")
    finished = [one for one in everything if place.mapping(one, "annotation").get("was_cancelled") is not True]
    if not finished:
        what = "skipped tasks" if everything else "tasks without an annotation; their predictions are no annotations"
        skipped[f"left out, {what}"] += 1
        return None
    if len(finished) > 1:
        skipped["tasks annotated several times; the ground truth counts, or else the last annotation"] += 1
    chosen = next((one for one in finished if one.get("ground_truth") is True), finished[-1])
    return place.items(chosen.get("result"), f"result of annotation {chosen.get('id')}")


def _short_results(task: Mapping[str, Any]) -> list[Any]:
    """Return the shapes of a task of JSON-MIN as results of JSON."""
    shapes = [shape for value in task.values() if isinstance(value, list) for shape in value if isinstance(shape, dict)]
    return [{**shape, "value": shape, "type": _kind(shape)} for shape in shapes]


def _kind(value: Mapping[str, Any]) -> str:
    return next((key for key in value if isinstance(key, str) and key.endswith("labels")), "shape")


def _image_name(data: Mapping[str, Any], place: Place) -> str:
    """Return the image of a task: under ``image``, or else the only text that ends like an image's name."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    images = [value for value in texts.values() if value.lower().partition("?")[0].endswith(IMAGE_SUFFIXES)]
    name = texts.get(DATA_KEY, images[0] if len(images) == 1 else None)
    if name is None:
        place.fail(f"its data name no image: {shown(dict(data))}", f"put the image under the key {DATA_KEY!r}")
    return name


def _annotated(
    path: Path, results: Sequence[Any], place: Place, reading: Reading, skipped: Counter[str]
) -> AnnotatedImage:
    size: tuple[int, int] | None = None
    shapes = []
    labelled = [one.get("id") for one in results if isinstance(one, dict) and str(one.get("type")).endswith("labels")]
    for number, item in enumerate(results):
        with collected(reading.problems):
            own = place.at(f"{place.name}, result at position {number}")
            result = own.mapping(item, "result")
            if "id" in result:
                own = place.at(f"{place.name}, result {result['id']}")
            kind = result.get("type")
            if kind in UNLABELLED:
                skipped[f"results of the kind {kind}, which mark no pixels and are not read"] += 1
                continue
            if kind in BARE and result.get("id") in labelled:
                continue
            own_size = (
                own.size(result.get("original_height"), "original_height"),
                own.size(result.get("original_width"), "original_width"),
            )
            if size not in (None, own_size):
                own.fail(f"is drawn for {own_size[::-1]} pixels, others of the task for {size[::-1]}", "draw it again")
            size = own_size
            shapes.append(_shape(result, size, own))
    return AnnotatedImage(path, place.file, size, tuple(shapes))


def _shape(result: Mapping[str, Any], size: tuple[int, int], place: Place) -> Shape:
    value = place.mapping(result.get("value"), "value")
    if result.get("image_rotation"):
        place.fail(
            f"image_rotation is {shown(result['image_rotation'])}, and turned images are not read",
            "turn the image back in Label Studio",
        )
    labels = value.get(str(result.get("type")), value.get("labels"))
    names = place.items(labels, "label")
    if len(names) != 1:
        place.fail(f"has {len(names)} labels, but a pixel has one class", "give the shape one label")
    label = place.label(names[0])
    return Shape(label, f"{place.name} ({label})", (_area(value, size, place),))


def _area(value: Mapping[str, Any], size: tuple[int, int], place: Place) -> Area:
    scale = np.array([size[1], size[0]]) / 100
    if "rle" in value:
        if size[0] * size[1] > limit_of(None):
            place.fail(
                f"has {size[0] * size[1]:,} pixels, and at most {limit_of(None):,} are read", "give --max_pixels"
            )
        try:
            mask = mask_from_brush(place.items(value["rle"], "rle"), *size)
        except (ValueError, TypeError) as error:
            place.fail(f"its brush cannot be decoded ({error})", "export the annotations again")
        return Runs(runs_of(mask), *size)
    if "points" in value:
        return Polygon((place.ring(value["points"], "points") * scale,))
    keys = ("x", "y", "radiusX", "radiusY") if "radiusX" in value else ("x", "y", "width", "height")
    if not value.keys() >= set(keys) or (value.get("height") is None and keys[3] == "height"):
        place.fail("marks no area", "outline the defect with a polygon or a brush, or delete the shape")
    x, y, width, height = (place.number(value[key], key) * scale[index % 2] for index, key in enumerate(keys))
    ring = ellipse_ring(x, y, abs(width), abs(height)) if "radiusX" in value else box_ring(x, y, x + width, y + height)
    # Label Studio turns a rectangle around its top left corner, and an ellipse around its centre.
    return Polygon((turned(ring, x, y, place.number(value.get("rotation", 0), "rotation")),))


def write(folder: Path, images: Iterable[PredictedImage], palette: Palette) -> Path:
    """Write ``tasks.json`` with a prediction for each image, and ``config.xml``, the labelling interface it is for.

    Regions without holes become polygons, others brush strokes.
    """
    tasks = []
    for image in images:
        prediction: dict[str, Any] = {"model_version": MODEL_VERSION}
        if image.score is not None:
            prediction["score"] = round(image.score, 4)
        results = [_result(region, number, image.size) for number, region in enumerate(image.regions, start=1)]
        data = {DATA_KEY: f"/data/local-files/?d={quote(image.image.name)}"}
        tasks.append({"data": data, "predictions": [prediction | {"result": results}]})
    write_text(folder / CONFIG_FILE, _config(palette))
    path = folder / FILE
    write_text(path, json.dumps(tasks))
    return path


def _result(region: TracedRegion, number: int, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    result: dict[str, Any] = {"id": f"region{number}", "to_name": "image", "image_rotation": 0}
    result |= {"original_width": width, "original_height": height, "origin": "prediction"}
    if region.score is not None:
        result["score"] = round(region.score, 4)
    if len(region.rings) == 1:
        points = (region.rings[0] * (100 / width, 100 / height)).tolist()
        value = {"points": points, "closed": True, "polygonlabels": [region.class_name]}
        return result | {"from_name": "polygon", "type": "polygonlabels", "value": value}
    brush = {"format": "rle", "rle": brush_from_mask(region.full_mask(size)), "brushlabels": [region.class_name]}
    return result | {"from_name": "brush", "type": "brushlabels", "value": brush}


def _config(palette: Palette) -> str:
    lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
    for tag, name in (("PolygonLabels", "polygon"), ("BrushLabels", "brush")):
        lines.append(f'  <{tag} name="{name}" toName="image">')
        for label, color in zip(palette.names[1:], palette.colors[1:], strict=True):
            lines.append('    <Label value={} background="#{:02x}{:02x}{:02x}"/>'.format(quoteattr(label), *color))
        lines.append(f"  </{tag}>")
    return "\n".join([*lines, "</View>", ""])


FORMAT = Format("labelstudio", "Label Studio", claims, read, write)
