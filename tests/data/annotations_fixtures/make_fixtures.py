"""Write the fixtures beside this file with the tools that own the formats.

Each tool has dependencies of its own, so it runs in an environment of its own:

    python make_fixtures.py images
    python make_fixtures.py pycocotools          # pycocotools 2.0.11
    python make_fixtures.py datumaro             # datumaro 1.13.12: COCO, CVAT, Pascal VOC
    python make_fixtures.py supervision          # supervision 0.31.2: COCO, YOLO
    python make_fixtures.py labelme              # labelme 6.3.1
    python make_fixtures.py labelstudio          # label-studio-converter 0.0.59: brush and JSON-MIN

The scene is the same everywhere: ``part_1`` shows a crack (a triangle) and a later oil spot (a ring) over its corner,
``part_2`` a crack of two pieces, and ``part_3`` nothing.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Points = list[tuple[float, float]]
HERE = Path(__file__).parent
WIDTH, HEIGHT = 64, 48
NAMES = ("crack", "oil")
TRIANGLE = [(6.0, 8.0), (40.0, 12.0), (14.0, 40.0)]
PIECES: tuple[Points, ...] = (
    [(4.0, 4.0), (20.0, 4.0), (20.0, 9.0), (4.0, 9.0)],
    [(30.0, 20.0), (60.0, 30.0), (32.0, 44.0)],
)
RING = (34.0, 16.0, 11.0, 5.0)  # x, y, outer and inner radius


def ring_mask() -> npt.NDArray[np.bool_]:
    """Return the oil spot, bool (H, W)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(columns - RING[0], rows - RING[1])
    return np.asarray((distance < RING[2]) & (distance >= RING[3]))


def images() -> None:
    """Write the three images."""
    for number in (1, 2, 3):
        rng = np.random.default_rng(number)
        pixels = rng.integers(60, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        (HERE / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(HERE / "images" / f"part_{number}.png")


def pycocotools() -> None:
    """Write COCO: polygons of one and two parts, compressed and plain run-length codes."""
    from pycocotools import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(ring_mask().astype(np.uint8)))
    code["counts"] = code["counts"].decode()
    flat = [[value for point in ring for value in point] for ring in (TRIANGLE, *PIECES)]
    annotations = [
        {"id": 11, "image_id": 1, "category_id": 7, "segmentation": [flat[0]], "iscrowd": 0},
        {"id": 12, "image_id": 1, "category_id": 9, "segmentation": code, "iscrowd": 1},
        {"id": 13, "image_id": 2, "category_id": 7, "segmentation": flat[1:], "iscrowd": 0},
    ]
    content = {
        "info": {"description": f"pycocotools {version('pycocotools')}"},
        "images": [{"id": n, "file_name": f"part_{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2, 3)],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "crack"}, {"id": 9, "name": "oil"}],
    }
    (HERE / "pycocotools").mkdir(exist_ok=True)
    (HERE / "pycocotools" / "instances.json").write_text(json.dumps(content))


def datumaro() -> None:
    """Write COCO, CVAT and Pascal VOC."""
    import datumaro as dm

    def polygon(points: Points, number: int, label: int = 0) -> Any:
        flat = [value for point in points for value in point]
        return dm.Polygon(flat, label=label, id=number, group=number, z_order=number)

    ring = dm.Mask(ring_mask(), label=1, id=2, group=2, z_order=2)
    contents = {1: [polygon(TRIANGLE, 1), ring], 2: [polygon(part, 3) for part in PIECES], 3: []}
    items = [
        dm.DatasetItem(
            id=f"part_{number}",
            subset="train",
            media=dm.Image.from_file(path=str(HERE / "images" / f"part_{number}.png")),
            annotations=annotations,
            attributes={"id": number},
        )
        for number, annotations in contents.items()
    ]
    dataset = dm.Dataset.from_iterable(items, categories=list(NAMES))
    for name in ("coco_instances", "cvat", "voc_segmentation"):
        if name == "voc_segmentation":  # Datumaro writes only masks in this format
            dataset.transform("polygons_to_masks")
        dataset.export(str(HERE / "datumaro" / name), name, save_media=False)


def supervision() -> None:
    """Write COCO and YOLO."""
    import supervision as sv

    found = {}
    paths = [str(HERE / "images" / f"part_{number}.png") for number in (1, 2, 3)]
    for path, rings, classes in zip(paths, ([TRIANGLE], [*PIECES], []), ([0], [0, 0], []), strict=True):
        masks = [sv.polygon_to_mask(np.array(ring, dtype=np.int32), (WIDTH, HEIGHT)) for ring in rings]
        stack = np.array(masks, dtype=bool).reshape(-1, HEIGHT, WIDTH)
        boxes = sv.mask_to_xyxy(stack) if len(stack) else np.zeros((0, 4))
        found[path] = sv.Detections(xyxy=boxes, mask=stack, class_id=np.array(classes, dtype=int))
    dataset = sv.DetectionDataset(classes=list(NAMES), images=paths, annotations=found)
    folder = HERE / "supervision"
    dataset.as_coco(annotations_path=str(folder / "coco" / "annotations.json"))
    dataset.as_yolo(
        annotations_directory_path=str(folder / "yolo" / "labels"), data_yaml_path=str(folder / "yolo" / "data.yaml")
    )


def labelme() -> None:
    """Write LabelMe: polygons, a mask, a circle, a rectangle and a line."""
    from labelme import utils
    from labelme._label_file import write_label_file

    def shape(label: str, kind: str, points: Any, **more: object) -> dict[str, Any]:
        common: dict[str, Any] = {
            "label": label,
            "points": points,
            "group_id": None,
            "description": "",
            "shape_type": kind,
            "flags": {},
        }
        return {**common, "mask": None, **more}

    marked = ring_mask()
    rows, columns = np.nonzero(marked)
    top, left, bottom, right = rows.min(), columns.min(), rows.max(), columns.max()
    mask = utils.img_arr_to_b64(marked[top : bottom + 1, left : right + 1])
    corners = [[float(left), float(top)], [float(right), float(bottom)]]
    contents = {
        1: [shape("crack", "polygon", TRIANGLE), shape("oil", "mask", corners, mask=mask)],
        2: [shape("crack", "polygon", part, group_id=1) for part in PIECES],
        3: [],
    }
    kinds = [
        shape("crack", "circle", [[20.0, 20.0], [28.0, 20.0]]),
        shape("oil", "rectangle", [[50.0, 30.0], [40.0, 40.0]]),
        shape("oil", "linestrip", [[2.0, 45.0], [20.0, 45.0], [20.0, 30.0]]),
    ]
    for folder, shapes_of in (("labelme", contents), ("labelme_kinds", {1: kinds})):
        (HERE / folder).mkdir(exist_ok=True)
        for number, shapes in shapes_of.items():
            write_label_file(
                str(HERE / folder / f"part_{number}.json"),
                shapes=shapes,
                image_path=f"../images/part_{number}.png",
                image_height=HEIGHT,
                image_width=WIDTH,
            )


def labelstudio() -> None:
    """Write Label Studio: an export with the converter's brush, and what the converter makes of it as JSON-MIN."""
    from label_studio_converter import Converter
    from label_studio_converter.brush import mask2rle

    common = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "to_name": "image"}

    def polygon(points: Points, number: int) -> dict[str, Any]:
        percent = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points]
        value = {"points": percent, "closed": True, "polygonlabels": ["crack"]}
        return {**common, "id": f"p{number}", "from_name": "polygon", "type": "polygonlabels", "value": value}

    rle = mask2rle(ring_mask().astype(np.uint8) * 255)
    brush = {**common, "id": "b1", "from_name": "brush", "type": "brushlabels"}
    brush["value"] = {"format": "rle", "rle": rle, "brushlabels": ["oil"]}
    results = {1: [polygon(TRIANGLE, 1), brush], 2: [polygon(part, n) for n, part in enumerate(PIECES)], 3: []}
    tasks = [
        {
            "id": number,
            "data": {"image": f"/data/upload/1/0a1b2c3d-part_{number}.png"},
            "annotations": [{"id": 100 + number, "result": result, "was_cancelled": False, "completed_by": 1}],
            "predictions": [],
        }
        for number, result in results.items()
    ]
    (HERE / "labelstudio").mkdir(exist_ok=True)
    (HERE / "labelstudio" / "export.json").write_text(json.dumps(tasks))
    config = """<View><Image name="image" value="$image"/>
    <PolygonLabels name="polygon" toName="image"><Label value="crack"/></PolygonLabels>
    <BrushLabels name="brush" toName="image"><Label value="oil"/></BrushLabels></View>"""
    target = HERE / "labelstudio_min"
    Converter(config, None, download_resources=False).convert_to_json_min(
        str(HERE / "labelstudio" / "export.json"), str(target), is_dir=False
    )


if __name__ == "__main__":
    {one.__name__: one for one in (images, pycocotools, datumaro, supervision, labelme, labelstudio)}[sys.argv[1]]()
