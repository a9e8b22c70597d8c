"""Values that travel between sub-packages."""

from pathlib import Path

import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Problem, raise_problems


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        pytest.param(Problem("no image was found", repair="check the path"), "no image was found; check the path"),
        pytest.param(Problem("is empty", Path("a/b.png")), "a/b.png: is empty", id="file, no repair"),
        pytest.param(Problem("is empty", "b.png", "add pixels"), "b.png: is empty; add pixels", id="file and repair"),
    ],
)
def test_a_problem_is_one_line(problem: Problem, line: str) -> None:
    assert str(problem) == line


def test_of_many_problems_the_first_are_listed_and_the_rest_counted() -> None:
    problems = [Problem(f"problem {letter}") for letter in "abcd"]
    with pytest.raises(UserError) as caught:
        raise_problems(problems, "data: ", ", nothing was written", most=2)
    assert str(caught.value).splitlines() == [
        "data: 4 problems, nothing was written:",
        "  1. problem a",
        "  2. problem b",
        "  and 2 more",
    ]


def test_one_problem_is_singular_and_none_is_no_error() -> None:
    raise_problems([])
    with pytest.raises(UserError, match=r"^1 problem in the data set:\n  1. problem a$"):
        raise_problems([Problem("problem a")], after=" in the data set")
