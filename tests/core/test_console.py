"""What commands print."""

import io
import subprocess
import sys
import warnings

import pytest

from flexunet_pl.core import console


def test_results_go_to_standard_output_and_notes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("one", "two")
    console.note("three")
    assert capsys.readouterr() == ("one\ntwo\n", "three\n")


def test_a_repeated_warning_is_printed_once_and_counted_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    console.flush_warnings()
    capsys.readouterr()
    for name in ("a", "b", "c"):
        console.warn(f"{name}.png: has an alpha channel", key="alpha")
    console.warn("lone")
    assert capsys.readouterr().err == "warning: a.png: has an alpha channel\nwarning: lone\n"
    console.flush_warnings()
    assert capsys.readouterr().err == "warning: 2 more like this: a.png: has an alpha channel\n"
    console.flush_warnings()
    assert capsys.readouterr().err == ""
    console.warn("d.png: has an alpha channel", key="alpha")
    assert capsys.readouterr().err == "warning: d.png: has an alpha channel\n"
    console.flush_warnings()


def test_a_repeated_line_is_new_once_and_counted_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert [console.is_first("stopped") for _ in range(3)] == [True, False, False]
    console.flush_warnings()
    assert capsys.readouterr().err == "2 more like this: stopped\n"
    assert console.is_first("stopped")
    console.flush_warnings()


def test_only_the_first_of_several_processes_warns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    console.warn("odd")
    console.flush_warnings()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    console.warn("odd")
    assert capsys.readouterr().err == "warning: odd\n"
    console.flush_warnings()


def test_a_warning_of_pillow_is_printed_once_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with console.count_python_warnings():
        for size in (1, 2, 3):
            warnings.warn_explicit(f"image of {size} pixels", UserWarning, "Image.py", 7, module="PIL.Image")
    console.flush_warnings()
    assert capsys.readouterr().err.splitlines() == [
        "warning: image of 1 pixels",
        "warning: 2 more like this: image of 1 pixels",
    ]


def test_a_process_that_ends_without_flushing_still_prints_the_counts() -> None:
    program = "from flexunet_pl.core.console import warn\nfor _ in range(3): warn('odd')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["warning: odd", "warning: 2 more like this: odd"]


def test_importing_the_console_imports_no_rich() -> None:
    program = "import sys, flexunet_pl.core.console; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_numbers_are_aligned_right_and_text_left() -> None:
    assert console.table(["class", "pixels"], [["crack", 12345], ["(none)", 7]]) == (
        "class   pixels\ncrack   12,345\n(none)       7"
    )


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "printed"),
    [pytest.param(_Terminal(), True, id="terminal"), pytest.param(io.StringIO(), False, id="file or pipe")],
)
def test_progress_shows_a_bar_on_a_terminal_only(
    stream: io.StringIO, printed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    assert list(console.progress(range(5), "Reading images")) == [0, 1, 2, 3, 4]
    assert ("Reading images" in stream.getvalue()) == printed
