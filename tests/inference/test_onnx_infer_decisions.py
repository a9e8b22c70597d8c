"""Regions and decisions of the inference file, against sizes and rules worked out by hand."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx_models import FACTS, GREEN, RED, labels, picture, write_model
from PIL import Image

from flexunet_pl.cli.main import main as flexunet
from flexunet_pl.inference.onnx_infer import (
    Acceptance,
    InferenceError,
    Labels,
    Model,
    Region,
    certainty_of,
    find_regions,
    main,
)

NAMES = ("background", "crack", "oil")


def drawn(size: tuple[int, int], *pixels: tuple[Any, Any, int]) -> npt.NDArray[np.uint8]:
    """Return a mask with some pixels (row, column, class); rows and columns may be slices."""
    mask = np.zeros(size, dtype=np.uint8)
    for row, column, index in pixels:
        mask[row, column] = index
    return mask


def one(mask: npt.NDArray[np.uint8]) -> Region:
    (region,) = find_regions(mask, np.ones((1, 1), dtype=np.float32), NAMES)
    return region


def diagonal(count: int) -> npt.NDArray[np.uint8]:
    return np.eye(count, dtype=np.uint8)


@pytest.mark.parametrize(
    ("mask", "length", "width"),
    [
        pytest.param(drawn((3, 3), (1, 1, 1)), 1, 1, id="a pixel"),
        pytest.param(drawn((9, 20), (4, slice(2, 12), 1)), 10, 1, id="a line of ten pixels"),
        pytest.param(drawn((9, 20), (slice(1, 5), slice(3, 10), 2)), 7, 4, id="a rectangle of 7 x 4"),
        # The corners of 8 pixels on the diagonal: from (0, 0) to (8, 8), and a pixel's diagonal across.
        pytest.param(diagonal(8), 8 * math.sqrt(2), math.sqrt(2), id="a diagonal of eight pixels"),
        # Upright it needs 9 x 9 = 81; along the diagonal 9 sqrt(2) x 10 / sqrt(2) = 90.
        pytest.param(drawn((9, 9), (slice(0, 9), 0, 1), (8, slice(0, 9), 1)), 9, 9, id="an L of two arms"),
    ],
)
def test_length_and_width_are_the_sides_of_the_smallest_rectangle(
    mask: npt.NDArray[np.uint8], length: float, width: float
) -> None:
    region = one(mask)
    assert [region.length, region.width] == pytest.approx([length, width], abs=1e-9)
    assert region.area == int((mask > 0).sum())


def test_a_slanted_bar_is_as_long_and_wide_as_it_was_drawn() -> None:
    rows, columns = np.mgrid[:200, :200] + 0.5
    angle = np.arctan2(3, 4)
    along = (columns - 100) * np.cos(angle) + (rows - 100) * np.sin(angle)
    across = (rows - 100) * np.cos(angle) - (columns - 100) * np.sin(angle)
    region = one(((abs(along) < 60) & (abs(across) < 5)).astype(np.uint8))
    # Its pixels stick out by half of a pixel's diagonal extent, 1.4, at most on either side.
    assert 119 < region.length < 121.4
    assert 9.5 < region.width < 11.4


def test_regions_have_class_box_area_and_confidence_largest_first() -> None:
    mask = drawn((6, 8), (0, slice(0, 2), 1), (slice(3, 5), slice(4, 7), 2), (1, 2, 1), (5, 0, 1))
    certainty = np.where(mask == 2, 0.5, 0.75).astype(np.float32)
    certainty[0, 0] = 0.9
    regions = find_regions(mask, certainty, NAMES)
    assert [(region.name, region.area, region.box) for region in regions] == [
        ("oil", 6, (4, 3, 7, 5)),
        ("crack", 3, (0, 0, 3, 2)),  # two runs that touch at a corner
        ("crack", 1, (0, 5, 1, 6)),
    ]
    assert [region.confidence for region in regions] == pytest.approx([0.5, (0.9 + 0.75 * 2) / 3, 0.75], abs=1e-6)


def test_confidence_is_read_at_the_size_the_network_saw() -> None:
    mask = drawn((4, 8), (slice(0, 4), slice(4, 8), 1))
    region = one_at(mask, np.array([[0.1, 0.2, 0.6, 1.0], [0.1, 0.2, 0.6, 1.0]], dtype=np.float32))
    assert region.confidence == pytest.approx(0.8)


def one_at(mask: npt.NDArray[np.uint8], certainty: npt.NDArray[np.float32]) -> Region:
    (region,) = find_regions(mask, certainty, NAMES)
    return region


def test_certainty_is_that_of_the_predicted_class() -> None:
    assert certainty_of(np.array([[0.2, 0.3, 0.5]], np.float32)).tolist() == [0.5]
    assert certainty_of(np.array([[0.25], [0.75]], np.float32)).tolist() == [0.75, 0.75]


def test_no_defect_has_no_region() -> None:
    assert find_regions(np.zeros((3, 3), np.uint8), np.ones((3, 3), np.float32), NAMES) == ()


def acceptance(*rules: dict[str, Any], scale: float | None = 0.05, threshold: float = 0.4) -> Acceptance:
    return Acceptance().changed(NAMES, "rules", mm_per_pixel=scale, rules=list(rules), threshold=threshold)


def crack(length: float, area: int = 4, width: float = 1.0, name: str = "crack") -> Region:
    return Region(name, area, length, width, (0, 0, 4, 1), 0.9)


@pytest.mark.parametrize(
    ("rules", "score", "regions", "verdict"),
    [
        pytest.param([], 0.39, [crack(4)], "OK", id="below the threshold"),
        pytest.param([], 0.4, [], "NG", id="at the threshold, though no pixel is a defect"),
        pytest.param([{"class": "crack", "max_length_mm": 0.2}], 0.9, [crack(4)], "OK", id="4 x 0.05 mm are 0.2 mm"),
        pytest.param([{"class": "crack", "max_length_mm": 0.2}], 0.9, [crack(4.1)], "NG", id="longer"),
        pytest.param([{"class": "crack", "max_length_mm": 0.2}], 0.9, [], "NG", id="a rule needs a region to allow"),
        pytest.param([{"class": "crack", "max_area_mm2": 0.01}], 0.9, [crack(4)], "OK", id="4 x 0.0025 mm2 are 0.01"),
        pytest.param([{"class": "crack", "max_area_mm2": 0.0099}], 0.9, [crack(4)], "NG", id="a larger area"),
        pytest.param([{"class": "crack", "max_width_px": 1}], 0.9, [crack(4, width=2)], "NG", id="wider"),
        pytest.param([{"class": "oil"}], 0.9, [crack(1)], "NG", id="another class"),
        pytest.param([{"class": "crack"}], 0.9, [crack(99)], "OK", id="without limits the whole class"),
        pytest.param([{"class": "crack"}], 0.9, [crack(9), crack(9, name="oil")], "NG", id="one is not allowed"),
        pytest.param([{"class": "crack", "max_count": 2}], 0.9, [crack(1)] * 2, "OK", id="two of two"),
        pytest.param([{"class": "crack", "max_count": 2}], 0.9, [crack(1)] * 3, "NG", id="three of two"),
        pytest.param(
            [{"class": "crack", "max_length_px": 5, "max_count": 1}, {"class": "oil", "decision": "ok"}],
            *(0.9, [crack(4), crack(9, name="oil")], "OK"),
            id="each by a rule of its own",
        ),
    ],
)
def test_decisions(rules: list[dict[str, Any]], score: float, regions: list[Region], verdict: str) -> None:
    assert acceptance(*rules).decide(score, regions).verdict == verdict


def test_without_the_whole_mask_no_rule_allows_anything() -> None:
    decision = acceptance({"class": "crack"}).decide(0.9, None)
    assert (decision.verdict, decision.regions) == ("NG", None)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        pytest.param({"class": "crakc"}, "rules: rule 1: class 'crakc' is unknown; did you mean 'crack'?", id="class"),
        pytest.param({"class": "background"}, "class 'background' is unknown; choose from crack, oil", id="background"),
        pytest.param({"class": "oil", "max_lenght_mm": 1}, "did you mean 'max_length_mm'?", id="mistyped key"),
        pytest.param({"class": "oil", "decision": "ng"}, "decision 'ng' is unknown", id="no other decision"),
        pytest.param({"max_area_px": 1}, "must be a map with a class, such as class: crack", id="no class"),
        pytest.param("oil", "rule 1: 'oil' must be a map", id="no map"),
        pytest.param({"class": "oil", "max_area_px": "1"}, "max_area_px '1' must be a number, 0..1e+09", id="text"),
        pytest.param({"class": "oil", "max_area_px": True}, "max_area_px True must be a number", id="true"),
        pytest.param({"class": "oil", "max_area_px": -1}, "max_area_px -1 must be a number", id="negative"),
    ],
)
def test_rules_that_cannot_be_are_one_error(rule: Any, message: str) -> None:
    with pytest.raises(InferenceError) as caught:
        acceptance(rule)
    assert message in str(caught.value)


def test_mm_need_a_scale() -> None:
    with pytest.raises(InferenceError, match="max_length_mm needs --mm-per-pixel"):
        acceptance({"class": "oil", "max_length_mm": 1}, scale=None)
    with pytest.raises(InferenceError, match="mm per pixel 0 must be a number"):
        acceptance(scale=0)


@pytest.mark.parametrize(
    "decision",
    [{"threshold": 2}, {"threshold": "a"}, {"rules": [{"class": "dirt"}]}, {"mm_per_pixel": -1}, "no map", [1]],
    ids=str,
)
def test_metadata_that_cannot_be_are_one_error(decision: Any) -> None:
    with pytest.raises(InferenceError, match=r"^test: its"):
        Labels.from_metadata({"flexunet_pl": json.dumps(FACTS | {"decision": decision})}, "test")


def test_old_metadata_have_the_default() -> None:
    assert labels().acceptance == Acceptance()
    assert labels(decision=None).acceptance == Acceptance()


DECISION = {"threshold": 0.25, "statement": "escapes at most 2 %", "rules": [{"class": "crack", "max_area_px": 1}]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with a good picture, one with a crack of one pixel, and one with a crack of two."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, row in {"good": [RED] * 3, "small": [RED, GREEN, RED], "bad": [GREEN, GREEN, RED]}.items():
        Image.fromarray(picture([row])).save(folder / f"{name}.png")
    return folder


def test_infer_applies_what_the_model_carries_and_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model.onnx", decision=DECISION)
    assert main([str(model), str(photos), "--out", str(tmp_path / "out"), "--mm-per-pixel", "0.5"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        "NG 1 of 3 (threshold 0.25: no escape rate is known for these rules)"
    )
    assert main([str(model), str(photos), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "NG 1 of 3 (threshold 0.25: escapes at most 2 %)"
    content = json.loads((tmp_path / "out" / "decisions.json").read_text())
    verdicts = {Path(file).stem: piece["decision"] for file, piece in content["pieces"].items()}
    assert verdicts == {"bad": "NG", "good": "OK", "small": "OK"}
    assert (content["threshold"], content["rules"]) == (0.25, DECISION["rules"])
    bad = content["pieces"][str(photos / "bad.png")]
    assert bad["classes"] == ["crack"]
    assert bad["regions"][0] == {
        "class": "crack",
        "area_px": 2,
        "length_px": 2.0,
        "width_px": 1.0,
        "box": [0, 0, 2, 1],
        "confidence": 1.0,
        "is_allowed": False,
    }
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        assert {(Path(row["file"]).stem, row["decision"]) for row in csv.DictReader(file)} == set(verdicts.items())


def test_rules_of_the_command_line_are_json_and_yaml_for_flexunet(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model.onnx")
    options = [str(model), str(photos), "--out", str(tmp_path / "out"), "--mm-per-pixel", "0.5"]
    (tmp_path / "rules.json").write_text('[{"class": "crack", "max_length_mm": 1}]')
    (tmp_path / "rules.yaml").write_text("- class: crack\n  max_length_mm: 1\n  decision: ok\n")
    for run, name in ((main, "rules.json"), (infer, "rules.json"), (infer, "rules.yaml")):
        assert run([*options, "--rules", str(tmp_path / name)]) == 0
        assert "NG 0 of 3 (threshold 0.5: no escape rate" in capsys.readouterr().err
    assert main([*options, "--rules", str(tmp_path / "rules.yaml")]) == 2
    assert "rules.yaml: cannot be read as a list of rules (JSONDecodeError" in capsys.readouterr().err
    assert main([*options, "--rules", str(tmp_path / "absent.json")]) == 2
    assert "absent.json: cannot be read" in capsys.readouterr().err


def infer(words: list[str]) -> int:
    return flexunet(["infer", *words])


def test_a_service_gets_the_decision_with_the_prediction(photos: Path, tmp_path: Path) -> None:
    found = Model(write_model(tmp_path / "model.onnx", decision=DECISION)).predict(photos / "bad.png")
    assert (found.decision.verdict, found.decision.score) == ("NG", found.defect_probability)
    assert [region.area for region in found.decision.regions or ()] == [2]
