"""A file appears whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import HOST, atomic_folder, atomic_path, write_json, write_text


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.json"
    write_json(path, {"dice": 1})
    before = path.read_bytes()

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == path.parent
            assert temporary.suffix == ".json"
            raise RuntimeError("the check failed")

    with pytest.raises(RuntimeError, match="the check failed"):
        fail()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "scores.json", {"dice": float("nan")})
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_text_do_not_stop_a_page(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "caf\udce9 \u00e9")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "caf\\udce9 \u00e9"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from flexunet_pl.core.files import atomic_folder, atomic_path
place = Path({str(tmp_path)!r})
with atomic_folder(place / "bundle") as folder, atomic_path(place / "a.png") as path:
    (folder / "half").write_text("x")
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    own = f".tmp-{HOST}-{os.getppid()}-abcd1234.png"  # of a process that runs
    foreign = ".tmp-00000000-1-abcd1234.png"  # of another machine
    for name in (own, foreign, ".tmp-notes.txt", "a.png"):
        (tmp_path / name).write_text(name)
    write_text(tmp_path / "b.txt", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [own, foreign, ".tmp-notes.txt", "a.png", "b.txt"]
    )


def test_an_error_names_what_a_temporary_file_stands_for(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "bundle") as folder, atomic_path(folder / "model.onnx"):
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(
        UserError, match=rf"^{tmp_path}/bundle/model\.onnx: cannot be written \(No space left on device\)"
    ):
        fail()
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "absent").read_text()
