"""Annotations that the tools of each format wrote, and masks written and read back, give the pixels they should."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from annotations_fixtures.make_fixtures import HEIGHT, HERE, PIECES, TRIANGLE, WIDTH, ring_mask
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from flexunet_pl.data.annotations.contours import outlines, smoothed
from flexunet_pl.data.annotations.raster import paint
from flexunet_pl.data.annotations.regions import LEAST_IOU, PredictedImage, find_regions, polygon_of, single_ring, trace
from flexunet_pl.data.annotations.registry import FORMATS, read_annotations
from flexunet_pl.data.annotations.rle import brush_from_mask, counts_from_text, mask_from_brush, text_from_counts
from flexunet_pl.data.annotations.shapes import (
    AnnotatedImage,
    Area,
    Polygon,
    Runs,
    Shape,
    Stroke,
    box_ring,
    ellipse_ring,
    runs_of,
)
from flexunet_pl.data.palette import Palette

BoolArray = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
SIZE = HEIGHT, WIDTH
INDEX_OF = {"crack": 1, "oil": 2}
PALETTE = Palette.from_mapping({"background": [0, 0, 0], "crack": [0, 0, 255], "oil": [255, 255, 0]})
NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)


def by_pycocotools(points: object) -> BoolArray:
    flat = np.array(points, dtype=np.float64).reshape(-1).tolist()
    return np.asarray(coco_mask.decode(coco_mask.frPyObjects([flat], *SIZE))[..., 0], dtype=np.bool_)


def scene() -> dict[str, UInt8Array]:
    """Return the masks of the fixtures, drawn by pycocotools; the spot covers the crack."""
    crack = by_pycocotools(TRIANGLE).astype(np.uint8)
    pieces = by_pycocotools(PIECES[0]) | by_pycocotools(PIECES[1])
    oil = np.where(ring_mask(), np.uint8(2), crack)
    return {"part_1": oil, "part_2": pieces.astype(np.uint8), "part_3": np.zeros(SIZE, dtype=np.uint8)}


def marked(area: Area, size: tuple[int, int] = SIZE) -> BoolArray:
    whole = np.zeros(size, dtype=np.bool_)
    top, left, window = area.window(*size)
    whole[top : top + window.shape[0], left : left + window.shape[1]] = window
    return whole


def differs_only_at_edges(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> bool:
    """Return whether two class masks agree wherever all eight neighbours of a pixel of the first have its class."""
    for index in np.unique(one).tolist():
        inside = binary_erosion(one == index, NEIGHBOURS)  # what touches the border of the image is at an edge
        if (other[inside] != index).any():
            return False
    return True


@pytest.mark.parametrize(
    ("folder", "title"),
    [
        pytest.param("pycocotools", "COCO", id="pycocotools: polygons, parts, compressed run-length code"),
        pytest.param("datumaro/coco_instances", "COCO", id="Datumaro: COCO"),
        pytest.param("datumaro/cvat", "CVAT for images 1.1", id="Datumaro: CVAT, polygons and a mask by z_order"),
        pytest.param("datumaro/voc_segmentation", "Pascal VOC", id="Datumaro: VOC without colours in labelmap"),
        pytest.param("labelme", "LabelMe", id="labelme: polygons, parts by group, a mask"),
        pytest.param("labelstudio", "Label Studio", id="Label Studio: polygons, brush by its converter"),
        pytest.param("labelstudio_min", "Label Studio", id="Label Studio: JSON-MIN by its converter"),
    ],
)
def test_files_of_the_tools_give_the_scene(folder: str, title: str) -> None:
    annotations = read_annotations(HERE / folder, HERE / "images")
    assert (annotations.format.title, annotations.labels) == (title, ["crack", "oil"])
    masks = {one.image.stem: paint(one, SIZE, INDEX_OF) for one in annotations.images}
    for name, truth in scene().items():
        if name in masks or folder != "datumaro/voc_segmentation":  # Datumaro leaves empty images out of VOC
            assert differs_only_at_edges(truth, masks[name]), name
            assert (masks[name] != truth).sum() <= 12, name


@pytest.mark.parametrize("folder", ["supervision/coco", "supervision/yolo"])
def test_polygons_of_supervision_differ_by_the_edge_that_opencv_draws(folder: str) -> None:
    annotations = read_annotations(HERE / folder, HERE / "images")
    masks = {one.image.stem: paint(one, SIZE, {"crack": 1}) for one in annotations.images}
    truth = {"part_1": by_pycocotools(TRIANGLE), "part_2": scene()["part_2"] == 1, "part_3": scene()["part_3"] == 1}
    for name, mask in truth.items():
        assert not (masks[name][binary_erosion(mask, NEIGHBOURS)] == 0).any(), name
        assert not (masks[name][~binary_dilation(mask, NEIGHBOURS)] == 1).any(), name


def test_circle_rectangle_and_line_of_labelme() -> None:
    (one,) = read_annotations(HERE / "labelme_kinds", HERE / "images", line_width=3).images
    mask = paint(one, SIZE, INDEX_OF)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    circle = np.hypot(columns - 20, rows - 20) < 8
    assert mask[30:40, 40:50].all()
    assert not mask[:28, 38:].any()
    assert (mask[43:46, 4:18] == 2).all()  # 3 pixels wide around y = 45, later than the circle
    assert not (mask[47:, :] == 2).any()
    assert abs(int((mask == 1).sum()) - int(circle.sum())) <= 6


def test_lines_without_a_width_are_refused_with_the_option() -> None:
    with pytest.raises(ValueError, match=r"part_1\.json: shape 2 \(oil\): a linestrip marks no area; .*--line_width 3"):
        read_annotations(HERE / "labelme_kinds", HERE / "images")


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        pytest.param([(1, 1), (4, 1), (4, 3), (1, 3)], [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)], id="edges"),
        pytest.param([(0.6, 0.6), (2.6, 0.6), (2.6, 1.6), (0.6, 1.6)], [(1, 1), (1, 2)], id="centres inside only"),
        pytest.param([(-9, -9), (1, -9), (1, 1), (-9, 1)], [(0, 0)], id="cut off at the corner of the image"),
        pytest.param([(2.5, 1.1), (2.5, 1.9), (2.5, 1.5)], [(1, 2)], id="no width: the pixels along the line"),
    ],
)
def test_a_polygon_marks_the_pixels_whose_centre_is_inside(
    ring: list[tuple[float, float]], expected: list[tuple[int, int]]
) -> None:
    found = np.argwhere(marked(Polygon((np.array(ring, dtype=np.float64),)), (6, 7)))
    assert [tuple(place) for place in found.tolist()] == expected


def test_a_ring_inside_another_is_a_hole() -> None:
    rings = box_ring(2, 2, 12, 12), box_ring(5, 5, 8, 8)
    assert marked(Polygon(rings)).sum() == 100 - 9
    assert marked(Polygon((single_ring(rings),))).sum() == 100 - 9


def test_random_polygons_are_those_of_pycocotools_to_one_pixel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        points = rng.uniform(-10, 70, (rng.integers(3, 7), 2))
        at_edge = marked(Stroke(np.concatenate([points, points[:1]]), 2))
        assert (marked(Polygon((points,))) == by_pycocotools(points))[~at_edge].all()


def random_masks(count: int) -> list[BoolArray]:
    rng = np.random.default_rng(1)
    masks = []
    for _ in range(count):
        field = gaussian_filter(rng.random(tuple(rng.integers(1, 50, 2))), rng.choice([0.0, 0.8, 2.0]))
        masks.append(np.asarray(field > np.quantile(field, rng.choice([0.3, 0.6, 0.9]))))
    return masks


def test_run_length_codes_are_those_of_pycocotools() -> None:
    for mask in random_masks(20):
        theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        runs = runs_of(mask, by_column=True)
        height, width = mask.shape
        assert text_from_counts(runs) == theirs
        assert counts_from_text(theirs).tolist() == runs.tolist()
        assert (marked(Runs(runs, height, width, by_column=True), (height, width)) == mask).all()


def test_brush_codes_read_back_and_are_short() -> None:
    for mask in random_masks(10):
        assert (mask_from_brush(brush_from_mask(mask), *mask.shape) == mask).all()
    assert len(brush_from_mask(np.zeros((1000, 1000), dtype=np.bool_))) < 300


def test_outlines_and_smoothed_outlines_mark_exactly_the_mask() -> None:
    for mask in random_masks(30):
        for rings in (outlines(mask), [smoothed(ring) for ring in outlines(mask)]):
            if rings:
                assert (marked(Polygon(tuple(rings)), (mask.shape[0], mask.shape[1])) == mask).all()


def test_simplified_polygons_differ_at_edges_only_and_state_their_iou() -> None:
    sizes = []
    for mask in random_masks(30):
        for _, _, region in find_regions(mask.astype(np.uint8)):
            rings, iou = polygon_of(region)
            framed = np.pad(region, 3)
            drawn = marked(Polygon(tuple(ring + 3 for ring in rings)), (framed.shape[0], framed.shape[1]))
            assert not (drawn & ~binary_dilation(framed, NEIGHBOURS)).any()
            assert not (binary_erosion(framed, NEIGHBOURS) & ~drawn).any()
            assert iou == pytest.approx((drawn & framed).sum() / (drawn | framed).sum())
            assert iou >= LEAST_IOU
            sizes.append((sum(map(len, rings)), sum(len(ring) for ring in outlines(region)), int(region.sum())))
    larger = [(vertices, corners) for vertices, corners, area in sizes if area > 100]
    assert len(larger) > 3
    assert sum(vertices for vertices, _ in larger) < 0.7 * sum(corners for _, corners in larger)


def write_and_read(name: str, masks: Mapping[str, UInt8Array], folder: Path) -> dict[str, UInt8Array]:
    """Write predicted masks in a format, accept them as a person would, and read them again."""
    images = folder / "images"
    images.mkdir()
    for stem, mask in masks.items():
        Image.new("RGB", mask.shape[::-1]).save(images / f"{stem}.jpg")
    predicted = [
        PredictedImage(images / f"{stem}.jpg", mask, trace(mask, PALETTE.names)) for stem, mask in sorted(masks.items())
    ]
    FORMATS[name].write(folder / "out", predicted, PALETTE)
    if name == "labelstudio":  # what Label Studio does when a prediction is accepted
        path = folder / "out" / "tasks.json"
        tasks = json.loads(path.read_text())
        path.write_text(json.dumps([{**task, "id": 1, "annotations": task["predictions"]} for task in tasks]))
    annotations = read_annotations(folder / "out", images)
    assert annotations.format.name == name
    return {one.image.stem: paint(one, masks[one.image.stem].shape[:2], INDEX_OF) for one in annotations.images}


@pytest.mark.parametrize("name", FORMATS)
def test_a_round_trip_loses_at_most_one_pixel_at_edges(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    fields = [gaussian_filter(rng.random((70, 90)), 2.5) for _ in range(4)]
    masks = {
        f"image_{number}": (field > 0.51).astype(np.uint8) * np.uint8(1 + number % 2)
        for number, field in enumerate(fields)
    }
    masks["image_9"] = np.where(
        ring_mask(), np.uint8(2), scene()["part_2"]
    )  # two classes beside each other, and a hole
    masks["none"] = np.zeros((20, 30), dtype=np.uint8)
    back = write_and_read(name, masks, tmp_path)
    assert back.keys() == masks.keys()
    for stem, mask in masks.items():
        assert differs_only_at_edges(mask, back[stem]), stem
        if name == "voc":
            assert (back[stem] == mask).all()


def test_pycocotools_reads_what_is_written(tmp_path: Path) -> None:
    mask = scene()["part_1"]
    write_and_read("coco", {"part_1": mask}, tmp_path)
    coco = COCO(tmp_path / "out" / "instances.json")
    seen = np.zeros(SIZE, dtype=np.uint8)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        seen[coco.annToMask(annotation) > 0] = annotation["category_id"]
    assert differs_only_at_edges(mask, seen)
    assert {category["name"]: category["id"] for category in coco.loadCats(coco.getCatIds())} == INDEX_OF


@pytest.mark.parametrize(("orientation", "turn"), [(6, 3), (8, 1), (5, None)])
def test_shapes_follow_the_orientation_of_the_image(orientation: int, turn: int | None, tmp_path: Path) -> None:
    stored = Image.new("RGB", (WIDTH, HEIGHT))
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif)
    shape = Shape("crack", "shape 0", (Polygon((box_ring(3, 5, 20, 9),)),))
    as_stored = AnnotatedImage(tmp_path / "a.jpg", tmp_path / "a.json", SIZE, (shape,))
    as_shown = AnnotatedImage(tmp_path / "a.jpg", tmp_path / "a.json", SIZE[::-1], (shape,))
    drawn = marked(shape.areas[0]).astype(np.uint8)
    expected = drawn.T if turn is None else np.rot90(drawn, turn)
    assert (paint(as_stored, (WIDTH, HEIGHT), INDEX_OF) == expected).all()
    assert (paint(as_shown, (WIDTH, HEIGHT), INDEX_OF) == marked(shape.areas[0], (WIDTH, HEIGHT))).all()


def test_background_erases_ignore_is_255_and_later_shapes_win(tmp_path: Path) -> None:
    boxes = {"crack": (0, 0, 10, 10), "Background": (2, 2, 4, 4), "IGNORE": (3, 3, 6, 6), "oil": (5, 5, 7, 7)}
    shapes = tuple(Shape(label, label, (Polygon((box_ring(*box),)),)) for label, box in boxes.items())
    mask = paint(AnnotatedImage(tmp_path / "a.png", tmp_path / "a.json", SIZE, shapes), SIZE, INDEX_OF)
    assert [mask[row, row] for row in (1, 2, 3, 4, 5, 6, 8)] == [1, 0, 255, 255, 2, 2, 1]


def test_ellipse_and_stroke_have_their_area() -> None:
    assert marked(Polygon((ellipse_ring(32, 24, 20, 10),))).sum() == pytest.approx(np.pi * 200, rel=0.01)
    assert marked(Stroke(np.array([[20.0, 24.0]]), 10)).sum() == pytest.approx(np.pi * 25, rel=0.05)
    assert marked(Stroke(np.array([[10.0, 24.5], [50.0, 24.5]]), 1)).sum() == 42  # round ends


@pytest.mark.full
def test_polygons_of_real_defects_fit_their_masks(shared_dir: Path) -> None:
    ious, areas = [], []
    for path in sorted((shared_dir / "data" / "magnetic-tile").rglob("*.png"))[::4]:
        with Image.open(path) as picture:
            mask = (np.asarray(picture.convert("L")) > 127).astype(np.uint8)
        regions = trace(mask, ["background", "defect"])
        ious += [region.iou for region in regions]
        areas += [region.area for region in regions]
        back = np.zeros(mask.shape, dtype=np.uint8)
        for region in regions:
            back |= marked(Polygon(region.rings), (mask.shape[0], mask.shape[1]))
        assert differs_only_at_edges(mask, back), path
    assert len(ious) > 50
    assert float(np.mean(ious)) > 0.95
    assert float(np.average(ious, weights=areas)) > 0.99


@pytest.mark.full
def test_five_thousand_images_are_read_in_seconds(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    count, each = 5000, 10
    for number in range(count):
        (images / f"{number:05}.png").touch()
    ring = [10, 10, 30, 12, 20, 40]
    content = {
        "images": [{"id": n, "file_name": f"{n:05}.png", "width": WIDTH, "height": HEIGHT} for n in range(count)],
        "annotations": [
            {"id": n, "image_id": n % count, "category_id": 1, "segmentation": [ring]} for n in range(count * each)
        ],
        "categories": [{"id": 1, "name": "crack"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    start = time.process_time()
    annotations = read_annotations(tmp_path)
    assert time.process_time() - start < 10
    assert len(annotations.images) == count
    assert {len(one.shapes) for one in annotations.images} == {each}
