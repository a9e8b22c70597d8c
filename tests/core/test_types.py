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


def test_the_same_problem_of_many_files_is_said_once_with_a_count() -> None:
    problems = [Problem(f"d/{name}.png: cannot be read (no image 'd/{name}.png'); replace it") for name in "abc"]
    problems += [Problem("is empty", f"d/{number}.png") for number in range(40)]
    with pytest.raises(UserError) as caught:
        raise_problems([*problems, Problem("no image: check the path"), Problem("no mask: check the path")])
    lines = str(caught.value).splitlines()
    assert lines[:2] == [
        "45 problems:",
        "  1. d/a.png: cannot be read (no image 'd/a.png'); replace it (2 more like this: b.png, c.png)",
    ]
    assert lines[2].startswith("  2. d/0.png: is empty (39 more like this: 1.png, 2.png, ")
    assert lines[2].endswith("30.png, ...)")
    assert lines[3:] == ["  3. no image: check the path", "  4. no mask: check the path"]


def test_one_problem_is_singular_and_none_is_no_error() -> None:
    raise_problems([])
    with pytest.raises(UserError, match=r"^1 problem in the data set:\n  1. problem a$"):
        raise_problems([Problem("problem a")], after=" in the data set")
