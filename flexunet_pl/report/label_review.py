"""Write the labels to check: a page with crops side by side, the list as CSV and JSON, and tasks for Label Studio."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flexunet_pl import __version__
from flexunet_pl.core.console import table
from flexunet_pl.core.csv_text import csv_of_maps
from flexunet_pl.core.files import atomic_folder, move_all, scratch_folder, write_json, write_text
from flexunet_pl.curation.conversion import read_any_image
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.data.sizing import resize_nearest
from flexunet_pl.evaluation.held_out import find_held_out
from flexunet_pl.evaluation.label_errors import LabelCheck, LabelFinding, check_labels, load
from flexunet_pl.evaluation.label_regions import KINDS
from flexunet_pl.visualization.html import Picture, render
from flexunet_pl.visualization.pictures import ERROR_COLORS, as_rgb, error_overlay, legend, overlay, panel

PAGE, JSON, CSV, TASKS = "label_review.html", "label_review.json", "label_review.csv", "label_review_tasks.json"
FORMAT = 1
MOST_PICTURES = 20  # of each kind
MOST_IMAGES = 50  # in the table of the page
MOST_LISTED = 10  # findings on the terminal
CROP, AROUND = 64, 0.5  # a crop has at least so many pixels a side, and shows this share of the box around it
HEIGHT = 200
JPEG_QUALITY = 85
FRAME = (255, 255, 0)
LOCAL_FILES = "/data/local-files/?d="  # how Label Studio names files below its document root
DISAGREEMENT = dict(
    zip(("label only", "model only", "another class", "both agree"), ERROR_COLORS.values(), strict=True)
)


def write_label_review(run: Path, data: Path, palette: Palette, out: Path) -> list[str]:
    """Check the labels of a data set with a run that was trained on it, and write what was found into ``out``.

    Returns:
        Lines for the terminal: what was found, and where it is written.

    Raises:
        UserError: If the run does not belong to the data set, or a file cannot be read.
    """
    held_out = find_held_out(run, data)
    with scratch_folder() as scratch, atomic_folder(out, within=True) as folder:
        found = check_labels(held_out, data, palette, scratch)
        write_text(folder / CSV, csv_of_maps([_row(rank, one) for rank, one in enumerate(found.findings, start=1)]))
        write_json(folder / JSON, as_json(found, run, data))
        write_json(folder / TASKS, label_studio_tasks(found))
        write_text(folder / PAGE, _page(found, run, data, palette))
        move_all(folder, out, last=PAGE)
    return [*as_lines(found), f"written: {out / PAGE}, {CSV}, {JSON} and {TASKS}"]


def as_json(found: LabelCheck, run: Path, data: Path) -> dict[str, Any]:
    """Return the whole check as plain data."""
    return {
        "format": FORMAT,
        "version": __version__,
        "data": str(data),
        "run": str(run),
        "note": found.note,
        "thresholds": found.thresholds,
        "confident_joint": found.joint,
        "findings": [_row(rank, one) for rank, one in enumerate(found.findings, start=1)],
        "images": [asdict(one) for one in found.images],
    }


def as_lines(found: LabelCheck) -> list[str]:
    """Return the check as lines: how many labels of each kind to check, and the first ones."""
    counts = Counter(one.kind for one in found.findings)
    lines = [f"labels: {len(found.images)} masks compared with networks that have not trained on them"]
    lines += [found.note] if found.note else []
    if not found.findings:
        return [*lines, "no label is contradicted with confidence"]
    listed = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if counts[kind])
    lines += [f"places to check: {listed}; the first:", ""]
    rows = [
        [rank, one.kind, _classes(one), one.score, f"{one.image} at {', '.join(map(str, one.box))}"]
        for rank, one in enumerate(found.findings[:MOST_LISTED], start=1)
    ]
    return [*lines, table(["", "kind", "class", "score", "image and box (x0, y0, x1, y1)"], rows), ""]


def label_studio_tasks(found: LabelCheck) -> list[dict[str, Any]]:
    """Return a task of Label Studio for each image with findings, which are rectangles of a prediction.

    Places are in percent of the image. A rectangle's label is the suggested class; kind and score are its meta text.
    """
    by_image: dict[str, list[LabelFinding]] = {}
    for one in found.findings:
        by_image.setdefault(one.image, []).append(one)
    tasks = []
    for image, findings in by_image.items():
        height, width = load(found.stored[image]).size
        rectangles = [_rectangle(number, one, height, width) for number, one in enumerate(findings)]
        prediction = {"model_version": f"flexunet_pl {__version__}", "score": findings[0].score, "result": rectangles}
        tasks.append({"data": {"image": f"{LOCAL_FILES}{image}"}, "predictions": [prediction]})
    return tasks


def _rectangle(number: int, one: LabelFinding, height: int, width: int) -> dict[str, Any]:
    x0, y0, x1, y1 = one.box
    value = {"x": 100 * x0 / width, "y": 100 * y0 / height, "rotation": 0, "rectanglelabels": [one.suggested]}
    return {
        "id": f"finding-{number}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "score": one.score,
        "value": value | {"width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height},
        "meta": {"text": [f"{one.kind}: {_classes(one)}, score {one.score}"]},
    }


def _row(rank: int, one: LabelFinding) -> dict[str, Any]:
    x0, y0, x1, y1 = one.box
    row = {"rank": rank, **asdict(one)}
    del row["box"]
    return row | {"x0": x0, "y0": y0, "x1": x1, "y1": y1}


def _classes(one: LabelFinding) -> str:
    return one.labelled if one.labelled == one.suggested else f"{one.labelled} → {one.suggested}"


def _page(found: LabelCheck, run: Path, data: Path, palette: Palette) -> str:
    groups = []
    for kind in KINDS:
        of_kind = [one for one in found.findings if one.kind == kind]
        shown = [_crop(one, found, data, palette) for one in of_kind[:MOST_PICTURES]]
        groups.append({"title": f"{kind.capitalize()}: {len(of_kind)}", "pictures": shown, "left": len(of_kind)})
    names = list(found.thresholds)
    joint = [[name, *row] for name, row in zip(names, found.joint, strict=True)]
    colors = [*palette.colors[1:], *DISAGREEMENT.values()]
    key = legend([*palette.names[1:], *DISAGREEMENT], colors, width=900)
    return render(
        Path(__file__).parent / "templates" / "label_review.html.j2",
        title=f"Labels to check in {data.name}",
        found=found,
        groups=groups,
        images=[[one.image, one.findings, one.score, one.quality] for one in found.images[:MOST_IMAGES]],
        joint=(["label, model →", *names], joint),
        thresholds=[[name, value] for name, value in found.thresholds.items()],
        legend=_picture(key, "classes, and what label and model say"),
        most_pictures=MOST_PICTURES,
        most_images=MOST_IMAGES,
        version=__version__,
        run=run,
        data=data,
    )


def _crop(one: LabelFinding, found: LabelCheck, data: Path, palette: Palette) -> Picture:
    """Return image, label, prediction and their disagreement around a finding, tiny ones enlarged."""
    image = read_any_image(data / one.image)
    labelled, _ = read_mask(data / one.mask, palette, antialiased=True)
    pixels = load(found.stored[one.image])
    predicted = resize_nearest(pixels.levels.argmax(axis=2).astype(np.uint8), labelled.shape)
    window = _window(one.box, labelled.shape)
    image, labelled, predicted = as_rgb(image)[window], labelled[window], predicted[window]
    factor = max(1, HEIGHT // max(labelled.shape))
    tiles = {
        "image": image,
        "label": overlay(image, labelled, palette.colors),
        "model": overlay(image, predicted, palette.colors),
        "disagreement": error_overlay(image, labelled, predicted),
    }
    enlarged = {name: tile.repeat(factor, axis=0).repeat(factor, axis=1) for name, tile in tiles.items()}
    x0, y0, x1, y1 = one.box
    box = (x0 - window[1].start, y0 - window[0].start, x1 - window[1].start, y1 - window[0].start)
    enlarged["disagreement"] = _framed(enlarged["disagreement"], [factor * side for side in box])
    where = f"{one.image}, x {one.box[0]} to {one.box[2]}, y {one.box[1]} to {one.box[3]}"
    distance = "" if one.distance is None else f", {one.distance} pixels off"
    return _picture(panel(list(enlarged.items()), HEIGHT), f"score {one.score:.2f}: {_classes(one)}{distance}; {where}")


def _framed(rgb: UInt8Array, box: Sequence[int]) -> UInt8Array:
    """Draw a frame around a box (x0, y0, x1, y1) of a picture uint8 (H, W, 3)."""
    picture = Image.fromarray(rgb)
    width = max(1, round(max(picture.size) / HEIGHT))
    frame = (box[0] - 2 * width, box[1] - 2 * width, box[2] + 2 * width, box[3] + 2 * width)
    ImageDraw.Draw(picture).rectangle(frame, outline=FRAME, width=width)
    return np.asarray(picture)


def _window(box: tuple[int, int, int, int], size: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns around a box, a square of at least ``CROP`` pixels a side within the image."""
    x0, y0, x1, y1 = box
    side = max(CROP, round(max(x1 - x0, y1 - y0) * (1 + 2 * AROUND)))
    return _span((y0 + y1) // 2, side, size[0]), _span((x0 + x1) // 2, side, size[1])


def _span(middle: int, side: int, length: int) -> slice:
    start = min(max(0, middle - side // 2), max(0, length - side))
    return slice(start, min(length, start + side))


def _picture(rgb: UInt8Array, caption: str) -> Picture:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="JPEG", quality=JPEG_QUALITY)
    return Picture(file.getvalue(), caption)
