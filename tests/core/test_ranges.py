"""Types and ranges of settings, checked once where they enter."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.ranges import Range, Side, check_fields, check_numbers, checked, problem_of


@pytest.mark.parametrize(
    ("value", "annotation", "problem"),
    [
        pytest.param(3, int, None, id="a whole number"),
        pytest.param(True, int, "must be a whole number", id="a truth value is no number"),
        pytest.param(1.5, int, "must be a whole number", id="a fraction"),
        pytest.param(1e20, int, "must be a whole number", id="a float beyond int64"),
        pytest.param(10**20, int, "must be at most 2147483647", id="an int beyond int64"),
        pytest.param(3, float, None, id="an int is a number"),
        pytest.param(float("nan"), float, "must be a finite number", id="not a number"),
        pytest.param(float("inf"), float, "must be a finite number", id="infinite"),
        pytest.param(10**400, float, "must be at most 2147483647", id="no float holds it"),
        pytest.param("3", int | None, "must be a whole number or null", id="a text"),
        pytest.param(0, Annotated[int, Range(1, 4)], "must be at least 1", id="below the range"),
        pytest.param(5, Annotated[int, Range(1, 4)] | None, "must be at most 4", id="above the range of a choice"),
        pytest.param([32, 48], Side | tuple[Side, Side], None, id="two sides"),
        pytest.param([32], Side | tuple[Side, Side], "must be a whole number or a list", id="one side in a list"),
        pytest.param({"a": [0, 0, 0]}, dict[str, list[int]], None, id="a map of lists"),
        pytest.param({"a": [0, "x"]}, dict[str, list[int]], "must be a whole number, every value", id="inside a map"),
        pytest.param({1: [0]}, dict[str, list[int]], "must be a text", id="a key"),
        pytest.param({"a": object()}, dict[str, Any], None, id="anything"),
    ],
)
def test_a_value_is_held_against_its_annotation(value: object, annotation: object, problem: str | None) -> None:
    found = problem_of(value, annotation)
    assert found == problem if problem is None or found is None else found.startswith(problem)


def test_the_arguments_of_a_call_are_checked() -> None:
    @checked("data.")
    def read(batch: Annotated[int, Range(1, 9)] = 2, *, name: str | None = None) -> str:
        return f"{batch} {name}"

    assert read() == "2 None"
    assert read(3, name="x") == "3 x"
    with pytest.raises(UserError, match=r"^data\.batch=10 must be at most 9$"):
        read(10)
    with pytest.raises(UserError, match=r"^data\.name=\['x'\] must be a text or null$"):
        read(name=["x"])  # type: ignore[arg-type]  # what a config may hold


def test_the_fields_of_a_dataclass_are_checked() -> None:
    @dataclass
    class Settings:
        levels: Annotated[int, Range(1, 16)] = 6

    check_fields(Settings())
    with pytest.raises(UserError, match=r"^levels=100 must be at most 16$"):
        check_fields(Settings(100))


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(UserError) as caught:
        check_numbers({"a": [1, 2, {"b": 10**500}]}, "trainer")
    assert str(caught.value).startswith("trainer.a[2].b=")
    assert str(caught.value).endswith("... must be at most 2147483647")
    assert len(str(caught.value)) < 150
