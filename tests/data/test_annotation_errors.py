"""Broken annotations give one error that names file, annotation, rule and repair, and never a traceback."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from annotations_fixtures.make_fixtures import HEIGHT, HERE, WIDTH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.annotations.raster import paint
from flexunet_pl.data.annotations.registry import find_annotations, read_annotations

Json = Any
SIZE = HEIGHT, WIDTH
COCO: Json = {
    "images": [{"id": 1, "file_name": "part_1.png", "width": WIDTH, "height": HEIGHT}],
    "annotations": [{"id": 17, "image_id": 1, "category_id": 1, "segmentation": [[4, 4, 20, 4, 20, 20]]}],
    "categories": [{"id": 1, "name": "crack"}],
}
ANNOTATION = ("annotations", 0)


def changed(content: Json, *path: object, value: Json) -> Json:
    """Return JSON with another value at a path; ``...`` removes the key."""
    new = copy.deepcopy(content)
    inner = new
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return new


def labelme(**keys: object) -> Json:
    shape = {"label": "crack", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"} | keys
    return {"shapes": [shape], "imagePath": "part_1.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}


def outlined(segmentation: Json) -> Json:
    return changed(COCO, *ANNOTATION, "segmentation", value=segmentation)


def task(**keys: object) -> Json:
    result = {"id": "r1", "type": "polygonlabels", "original_width": WIDTH, "original_height": HEIGHT} | keys
    return [{"id": 5, "data": {"image": "part_1.png"}, "annotations": [{"id": 3, "result": [result]}]}]


def cvat(shape: str) -> str:
    return f'<annotations><image id="4" name="part_1.png" width="64" height="48">{shape}</image></annotations>'


CASES = [
    ("a.json", outlined([]), r"annotation 17: has a box but no segmentation.*outline"),
    ("a.json", outlined([[1, 1, 2, 2]]), r"annotation 17: .*2 points, but needs 3.*draw"),
    ("a.json", outlined([[1, 1, 2]]), r"annotation 17: .*3 numbers.*pairs"),
    ("a.json", outlined([[1, "x", 2, 2, 3, 3]]), r"annotation 17: .*'x'.*a number"),
    ("a.json", outlined([[1, 1, 2e300, 2, 3, 3]]), r"annotation 17: .*2e\+300.*a number"),
    (
        "a.json",
        changed(COCO, *ANNOTATION, "image_id", value=9),
        r"annotation 17: image_id 9 is no image.*add the image",
    ),
    ("a.json", changed(COCO, *ANNOTATION, "category_id", value=9), r"annotation 17: category_id 9 is no category"),
    ("a.json", outlined({"size": [4, 4], "counts": "a"}), r"annotation 17: .*\[4, 4\]"),
    ("a.json", outlined({"size": [48, 64], "counts": "oo\x7f"}), r"cannot be decoded"),
    ("a.json", outlined({"size": [48, 64], "counts": [3, 4]}), r"do not add up to 64 x 48"),
    (
        "a.json",
        changed(COCO, "images", 0, "file_name", value="gone.png"),
        r"image 1: the image 'gone\.png' is missing.*--images",
    ),
    ("a.json", changed(COCO, "images", 0, "width", value=0), r"image 0: width is 0, but must be a whole number"),
    ("a.json", changed(COCO, "images", value=[COCO["images"][0]] * 2), r"image 1: the id 1 is used twice"),
    ("a.json", changed(COCO, "categories", 0, "name", value=...), r"category 0: name is missing"),
    ("a.json", labelme(shape_type="cube"), r"shape 0 \(crack\): shape_type is 'cube'.*draw the shape as a polygon"),
    ("a.json", labelme(shape_type="mask", mask="!!"), r"shape 0 \(crack\): .*cannot be read as a PNG"),
    ("a.json", labelme(label=""), r"shape 0: label is ''.*give the shape a label"),
    ("a.json", task(value={"points": [[1, 1], [2, 2]], "polygonlabels": ["crack"]}), r"task 5, result r1.*2 points"),
    ("a.json", task(value={"points": [], "polygonlabels": ["a", "b"]}), r"task 5, result r1: has 2 labels.*one label"),
    (
        "a.json",
        task(type="brushlabels", value={"rle": [1, 2], "brushlabels": ["a"]}),
        r"result r1.*brush cannot be decoded",
    ),
    ("a.json", task(image_rotation=90, value={}), r"result r1: image_rotation is 90.*turn the image back"),
    (
        "a.json",
        task(type="keypointlabels", value={"x": 1, "y": 1, "keypointlabels": ["a"]}),
        r"result r1.*marks no area",
    ),
    ("a.xml", cvat('<polygon label="a" points="1,1;2,2"/>'), r"image 4, polygon 1 \(a\): points has 2 points.*draw"),
    ("a.xml", cvat('<polyline label="a" points="1,1;2,2"/>'), r"image 4, polyline 1 \(a\).*no area.*--line_width"),
    (
        "a.xml",
        cvat('<mask label="a" rle="3" left="60" top="0" width="9" height="1"/>'),
        r"mask 1 \(a\): its box leaves",
    ),
    ("a.xml", cvat('<mask label="a" rle="3" left="0" top="0" width="9" height="1"/>'), r"do not add up to 9 x 1"),
    ("a.xml", "<annotations><track/></annotations>", r"tracks of a video.*CVAT for images 1\.1"),
    ("a.xml", "<annotation><object><bndbox/></object></annotation>", r"boxes only.*SegmentationClass"),
    (
        "a.xml",
        '<!DOCTYPE a [<!ENTITY x "y">]><annotations/>',
        r"a\.xml: cannot be read as XML \(it declares entities\)",
    ),
    ("a.json", "{", r"a\.json: cannot be read as JSON .*export it again"),
]


@pytest.mark.parametrize(("name", "content", "message"), CASES, ids=[case[2] for case in CASES])
def test_one_error_names_file_annotation_rule_and_repair(
    name: str, content: Json, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        read_annotations(tmp_path, HERE / "images")
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", r"part_1\.txt: line 1: is a box.*export polygons"),
        ("7 0 0 1 0 1 1", r"line 1: class is '7', but must be 0\.\.0"),
        ("0 0 0 1 0 1", r"line 1: polygon has 5 numbers"),
        ("0 0 0 1 0 nan 1", r"line 1: polygon is 'nan'.*a number"),
    ],
)
def test_lines_of_yolo(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "part_1.txt").write_text(line)
    (tmp_path / "data.yaml").write_text("names: [crack]")
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path, HERE / "images")


def test_a_shape_outside_the_image_and_another_size_are_errors(tmp_path: Path) -> None:
    outside = outlined([[70, 4, 90, 4, 90, 20]])
    (tmp_path / "a.json").write_text(json.dumps(outside))
    (one,) = read_annotations(tmp_path, HERE / "images").images
    with pytest.raises(
        UserError, match=r"a\.json: annotation 17: .*'crack' lies outside part_1\.png \(64 x 48 pixels\)"
    ):
        paint(one, SIZE, {"crack": 1})
    with pytest.raises(UserError, match=r"a\.json: is drawn for an image of 64 x 48, but .*part_1\.png has 20 x 10"):
        paint(one, (10, 20), {"crack": 1})


def test_two_formats_in_a_folder_and_one_image_twice_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(COCO))
    (tmp_path / "b.json").write_text(json.dumps(labelme()))
    with pytest.raises(UserError, match=r"holds COCO \(.*a\.json\) and LabelMe \(.*b\.json\); give the file"):
        read_annotations(tmp_path, HERE / "images")
    (tmp_path / "b.json").write_text(json.dumps(COCO))
    with pytest.raises(UserError, match=r"part_1\.png: is annotated in .*a\.json and .*b\.json; keep one"):
        read_annotations(tmp_path, HERE / "images")


def test_an_image_of_two_folders_is_found_by_its_path(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part_1.png").write_bytes((HERE / "images" / "part_1.png").read_bytes())
    (tmp_path / "a.json").write_text(
        json.dumps(changed(COCO, "images", 0, "file_name", value="C:\\x\\two\\part_1.png"))
    )
    assert read_annotations(tmp_path).images[0].image == tmp_path / "two" / "part_1.png"
    (tmp_path / "a.json").write_text(json.dumps(changed(COCO, "images", 0, "file_name", value="x/part_1.png")))
    with pytest.raises(UserError, match=r"'x/part_1\.png' may be .*one/part_1\.png and .*two/part_1\.png"):
        read_annotations(tmp_path)


def test_a_folder_without_annotations_holds_none(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert find_annotations(tmp_path) is None
    with pytest.raises(UserError, match=r"holds no annotations of a known format; they may be COCO, LabelMe"):
        read_annotations(tmp_path)


def paths_in(value: Json, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yield the path of every value inside JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths_in(inner, (*path, key))


STARTS: list[Json] = [
    COCO,
    json.loads((HERE / "pycocotools" / "instances.json").read_text()),
    json.loads((HERE / "labelme" / "part_1.json").read_text()),
    json.loads((HERE / "labelstudio" / "export.json").read_text()),
    json.loads((HERE / "labelstudio_min" / "result.json").read_text()),
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([[1, 2], [3]]),
    st.just(["a", None]),
    st.just(...),
    st.just(10**400),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_json_is_read_or_is_a_user_error(data: st.DataObject, tmp_path: Path) -> None:
    content = data.draw(st.sampled_from(STARTS))
    for _ in range(data.draw(st.integers(1, 3))):
        paths = list(paths_in(content))
        if paths:
            content = changed(content, *data.draw(st.sampled_from(paths)), value=data.draw(ODD))
    (tmp_path / "a.json").write_text(json.dumps(content))
    read_or_refuse(tmp_path)


FOLDERS = {
    "cvat": ["datumaro/cvat/train.xml"],
    "yolo": ["supervision/yolo/labels/part_1.txt", "supervision/yolo/data.yaml"],
    "voc_segmentation": [
        "datumaro/voc_segmentation/labelmap.txt",
        "datumaro/voc_segmentation/SegmentationClass/part_1.png",
    ],
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_bytes_is_read_or_is_a_user_error(data: st.DataObject, tmp_path: Path) -> None:
    source = data.draw(st.sampled_from([path for paths in FOLDERS.values() for path in paths]))
    files = {path: (HERE / path).read_bytes() for path in FOLDERS[source.split("/")[1]]}
    content = bytearray(files[source])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=4))
        content = content if content else bytearray(b"x")
    for path, original in (files | {source: bytes(content)}).items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(original)
    read_or_refuse(tmp_path / Path(*Path(source).parts[:2]))


def read_or_refuse(folder: Path) -> None:
    try:
        annotations = read_annotations(folder, HERE / "images")
        for one in annotations.images:
            mask = paint(one, SIZE, {label: index for index, label in enumerate(annotations.labels, start=1)})
            assert mask.shape == SIZE
            assert len(one.digest()) == 64
    except UserError as error:
        assert str(error)  # noqa: PT017  either outcome is fine; another exception is not
