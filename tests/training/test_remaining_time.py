"""How long a run still takes, from its steps and its limit of time."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer

from flexunet_pl.training.remaining_time import Clock, duration_text, time_left


def clock_after(*steps: tuple[int, float]) -> Clock:
    clock = Clock()
    for step, now in steps:
        clock.tick(step, now)
    return clock


@pytest.mark.parametrize(
    ("ticks", "step", "steps", "now", "seconds"),
    [
        pytest.param([(1, 10), (11, 30)], 11, 51, 30, 80, id="10 steps in 20 seconds, 40 to come"),
        pytest.param([(101, 10), (111, 30)], 111, 151, 30, 80, id="a resumed run counts only its own steps"),
        pytest.param([(1, 10)], 1, 51, 10, None, id="nothing is known after the first step"),
        pytest.param([], 0, 51, 10, None, id="nor before it"),
        pytest.param([(1, 10), (11, 30)], 11, float("inf"), 30, None, id="nothing ends the steps"),
        pytest.param([(1, 10), (11, 30)], 60, 51, 30, 0, id="never below 0"),
    ],
)
def test_the_steps_so_far_tell_how_long_the_others_take(
    ticks: list[tuple[int, float]], step: int, steps: float, now: float, seconds: float | None
) -> None:
    assert clock_after(*ticks).left(step, steps, now) == seconds


@pytest.mark.parametrize(
    ("steps", "limit", "seconds"),
    [
        pytest.param(51, "00:00:01:00", 60, id="the time is over before the steps"),
        pytest.param(51, "00:00:02:00", 80, id="the steps are done before the time is over"),
        pytest.param(float("inf"), "00:00:02:00", 120, id="time alone"),
        pytest.param(51, None, 80, id="steps alone"),
        pytest.param(float("inf"), None, None, id="no limit"),
    ],
)
def test_the_first_limit_counts(steps: float, limit: str | None, seconds: float | None) -> None:
    trainer: Any = SimpleNamespace(callbacks=[Timer(limit)], global_step=11, estimated_stepping_batches=steps)
    left = time_left(trainer, clock_after((1, 10)), now=30)
    assert left == (None if seconds is None else pytest.approx(seconds, abs=0.1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (90, "2 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
