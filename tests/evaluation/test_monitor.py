"""The log of infer, and the page on it: periods, tests, warnings, and lines that are no entries."""

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.evaluation.decision_log import read_log
from flexunet_pl.evaluation.intervals import proportion_interval
from flexunet_pl.evaluation.line_changes import compare_periods, holm, in_periods


def write_log(path: Path, months: Sequence[tuple[int, float, float]], model: str = "abc") -> Path:
    """Write 100 images a month: NG ones among them, and the mean of drift scores."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for month, (rejected, drift, uncertainty) in enumerate(months, 1):
            for number in range(100):
                is_bad = number < rejected
                entry: dict[str, Any] = {
                    "time": f"2026-{month:02d}-{1 + number % 28:02d}T08:00:00Z",
                    "image": f"{number}.png",
                }
                entry |= {"model": model, "decision": "NG" if is_bad else "OK", "classes": {"oil": 9} if is_bad else {}}
                scores = {"drift_score": drift * rng.gamma(100, 0.01), "uncertainty": uncertainty * rng.random()}
                file.write(json.dumps(entry | scores) + "\n")
    return path


def facts_of(folder: Path) -> Any:
    return json.loads((folder / "monitor.json").read_text())


@pytest.mark.parametrize(
    ("months", "warned"),
    [
        pytest.param([(4, 0.6, 0.2)] * 6, set(), id="nothing changes"),
        pytest.param([(4, 0.6, 0.2), (4, 0.6, 0.2), (30, 0.6, 0.2)], {("2026-03", "NG rate")}, id="more NG"),
        pytest.param(
            [(4, 0.6, 0.2), (4, 1.2, 0.2)],
            {("2026-02", "distribution of the drift score"), ("2026-02", "rate of images unlike the training set")},
            id="another camera",
        ),
        pytest.param(
            [(4, 0.6, 0.2), (4, 0.6, 0.6)], {("2026-02", "distribution of the uncertainty")}, id="the model doubts more"
        ),
    ],
)
def test_a_month_that_differs_gets_a_warning(
    months: list[tuple[int, float, float]],
    warned: set[tuple[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = write_log(tmp_path / "line.jsonl", months)
    assert main(["monitor", str(log)]) == 0
    out = tmp_path / "line-monitor"
    facts = facts_of(out)
    assert {(one["period"], one["what"]) for one in facts["changes"] if one["adjusted"] < 0.01} == warned
    assert len(facts["warnings"]) == len(warned)
    printed = capsys.readouterr().out
    assert printed.endswith(f"{out / 'monitor.html'}\n")
    assert ("differs beyond chance" in printed) == bool(warned)
    page = (out / "monitor.html").read_text()
    assert ("(changed)" in page) == bool(warned)
    assert page.count("<svg") >= 3
    assert "http" not in page.replace("http://www.w3.org", "")
    with (out / "monitor.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["period"], row["images"], row["ng"]) for row in rows] == [
        (f"2026-{number:02d}", "100", str(month[0])) for number, month in enumerate(months, 1)
    ]
    assert float(rows[0]["share_oil"]) == months[0][0] / 100


def test_numbers_of_a_log_by_hand(tmp_path: Path) -> None:
    log = tmp_path / "line.csv"
    log.write_text(
        "time,image,decision,classes,drift_score\n"
        "2026-05-31T23:30:00Z,a.png,OK,,0.5\n"
        '2026-06-01T01:30:00+02:00,b.png,NG,"oil, crack",1.5\n'  # still May in UTC
        "2026-06-01T00:00:00Z,c.png,,oil,\n"  # without a decision a defect counts
        "2026-06-07,d.png,,,0.25\n"
    )
    entries, problems = read_log(log)
    assert problems == []
    assert [entry.image for entry in entries] == ["a.png", "b.png", "c.png", "d.png"], "at one time in their order"
    assert [entry.is_rejected for entry in entries] == [False, True, True, False]
    may, june = in_periods(entries, "month")
    assert (may.name, may.images, may.rejected, dict(may.classes)) == ("2026-05", 2, 1, {"crack": 1, "oil": 1})
    assert may.beyond_border == 1
    assert may.quantiles("drift_score") == pytest.approx([1.0, 1.4, 1.49])
    assert (june.name, june.images, june.rejected) == ("2026-06", 2, 1)
    assert june.quantiles("uncertainty") is None
    assert [period.name for period in in_periods(entries, "day")] == ["2026-05-31", "2026-06-01", "2026-06-07"]
    assert [period.name for period in in_periods(entries, "week")] == ["2026-05-25", "2026-06-01"]
    assert compare_periods([may, june], may) == [], "too few images to compare"


def test_holm_and_the_exact_interval() -> None:
    # Sorted .01 .02 .03 times 3, 2, 1, never falling: .03, .04, .04.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []
    # Of 10 images none: 1 - 0.025 ** (1 / 10).
    assert proportion_interval(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert proportion_interval(0, 0) == (0, 1)


def test_broken_lines_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "line.jsonl", [(1, 0.5, 0.1)])
    with log.open("a") as file:
        file.write('[1]\n{"time": "yesterday"}\n{"image": "a.png"}\n{"time": "2026-01-01", "decision": "maybe"}\n{"ti')
    assert main(["monitor", str(log), "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "One month only" in captured.out
    assert "line 101: is no entry" in captured.err
    assert "line 102: is no entry (Invalid isoformat string: 'yesterday')" in captured.err
    assert "2 more lines" in captured.err
    assert "5 lines of the log could not be read" in (tmp_path / "out" / "monitor.html").read_text()
    entries, problems = read_log(log)
    assert (len(entries), len(problems)) == (100, 5)
    assert entries[0].time == datetime(2026, 1, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--by", "moth"], "--by moth: choose from month, week, day; did you mean 'month'?", id="a typo"),
        pytest.param(["--reference", "2031-01"], "the log has no such month; choose from 2026-01", id="no such month"),
        pytest.param(["--model", "nowhere"], "nowhere: no model there", id="no model"),
    ],
)
def test_mistakes_are_explained(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "line.jsonl", [(1, 0.5, 0.1)])
    assert main(["monitor", str(log), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "line-monitor").exists()


def test_a_file_that_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"holds no entry; .*line 1: is no entry"):
        read_log(tmp_path / "photo.jpg")
    with pytest.raises(UserError, match="cannot be read"):
        read_log(tmp_path / "absent.jsonl")


def test_a_change_of_the_model_is_said(tmp_path: Path) -> None:
    log = write_log(tmp_path / "line.jsonl", [(1, 0.5, 0.1)] * 2)
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:100], *(line.replace('"abc"', '"<b>new"') for line in lines[100:])]))
    assert main(["monitor", str(log)]) == 0
    page = (tmp_path / "line-monitor" / "monitor.html").read_text()
    assert "Several models wrote this log (abc; &lt;b&gt;new)" in page
