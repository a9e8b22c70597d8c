"""Metadata of a model file that may come from anywhere: wrong types and sizes are one error."""

from typing import Any

import pytest
from onnx_models import FACTS, labels

from flexunet_pl.inference.onnx_infer import InferenceError, Labels

CLASSES = FACTS["classes"]


def one_changed(**changes: Any) -> list[dict[str, Any]]:
    return [CLASSES[0] | changes, *CLASSES[1:]]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"image_size": None}, id="no size"),
        pytest.param({"image_size": [32]}, id="one side"),
        pytest.param({"image_size": [32, 10**9]}, id="a side of 10^9"),
        pytest.param({"image_size": [32, "32"]}, id="a side as text"),
        pytest.param({"image_size": [32, True]}, id="a side as a truth value"),
        pytest.param({"fixed_size": 0.5}, id="a fixed size that is a number"),
        pytest.param({"size_multiple": 0}, id="multiple of 0"),
        pytest.param({"size_multiple": "8"}, id="multiple as text"),
        pytest.param({"channels": -1}, id="negative channels"),
        pytest.param({"channels": 3.0}, id="channels as a float"),
        pytest.param({"num_classes": True}, id="classes as a truth value"),
        pytest.param({"min_region_area": -2}, id="negative area"),
        pytest.param({"min_region_area": 10**20}, id="an area beyond int64"),
        pytest.param({"ignore": [0, 0]}, id="a colour of two values"),
        pytest.param({"ignore": [0, 0, 256]}, id="a colour above 255"),
        pytest.param({"classes": one_changed(color=[0, -1, 0])}, id="a colour below 0"),
        pytest.param({"classes": one_changed(color=[0, 0.5, 0])}, id="a fraction of a colour"),
        pytest.param({"classes": one_changed(name=7)}, id="a name that is a number"),
        pytest.param({"classes": one_changed(name=None)}, id="no name"),
        pytest.param({"classes": {"a": 1}}, id="classes that are no list"),
        pytest.param({"resize": []}, id="a rule that is a list"),
    ],
)
def test_labels_of_wrong_types_are_one_error(changes: dict[str, Any]) -> None:
    with pytest.raises(InferenceError, match="metadata 'flexunet_pl'"):
        labels(**changes)


@pytest.mark.parametrize(
    "text", ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "null", "NaN", ""]
)
def test_text_that_is_no_map_of_facts_is_one_error(text: str) -> None:
    with pytest.raises(InferenceError, match="metadata 'flexunet_pl'"):
        Labels.from_metadata({"flexunet_pl": text}, "model.onnx")
