"""A disk that is full or cannot be written to: one clear error, and what was there is whole."""

import contextlib
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexunet_pl.cli.main import main

Commands = dict[str, list[str]]
Mount = Callable[[int], Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow above ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that makes a small disk of so many bytes, or skips."""
    place = tmp_path / "disk"

    def make(size: int) -> Path:
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
        return place

    yield make
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


@pytest.fixture
def commands(tiny_run: Path, tiny_config: Path, tiny_data: Path) -> Commands:
    """Return a command of each kind that writes, without its output folder, which is put in place of OUT."""
    common = ["--config", str(tiny_config)]
    return {
        "fit": ["fit", *common, "--run_dir", "OUT"],
        "predict": [
            *("predict", *common, "--run_dir", str(tiny_run), "--data.predict_dir", str(tiny_data / "test" / "images")),
            *("--out", "OUT"),
        ],
        "export": [
            *("export", str(tiny_run / "checkpoints" / "best.ckpt"), "OUT", "--formats", "h5"),
            *("--force", "true"),
        ],
        "report": ["report", str(tiny_run), str(tiny_data), "--out", "OUT"],
        "prepare": [
            *("prepare", "pairs", str(tiny_data), "OUT", "--keep_splits", "true"),
            *("--palette", str(tiny_data / "palette.yaml")),
        ],
        "audit": ["audit", str(tiny_data), "--out", "OUT"],
    }


def run(words: list[str], out: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command with its output folder; return the exit code and what it printed as errors."""
    capfd.readouterr()
    code = main([str(out) if word == "OUT" else word for word in words])
    return code, capfd.readouterr().err


KINDS = ["fit", "predict", "export", "report", "prepare", "audit"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_grow_is_one_error_and_leaves_nothing_half_written(
    kind: str, commands: Commands, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with files_up_to(300):
        code, errors = run(commands[kind], out, capfd)
    assert code == 2, errors
    assert errors.count("error: ") == 1
    assert "cannot be written (File too large); raise the limit" in errors
    assert (tempfile.gettempdir() if kind in ("audit", "prepare") else str(out)) in errors
    assert ".tmp-" not in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize("kind", ["fit", "predict", "export", "report"])
def test_a_full_disk_leaves_what_was_there(
    kind: str, commands: Commands, mount: Mount, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = mount(8_000_000)
    out = disk / "out"
    assert run(commands[kind], out, capfd)[0] in (0, 1)
    before = contents(out)
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(bytes(free))
    again = [*commands[kind], "--ckpt_path", "last", "--trainer.max_epochs", "9"] if kind == "fit" else commands[kind]
    code, errors = run(again, out, capfd)
    assert code == 2, errors
    assert "No space left on device); free some space, or choose another folder" in errors
    assert "Traceback" not in errors
    after = contents(out)
    growing = ("tensorboard", "csv", "config.yaml") if kind == "fit" else ()
    assert {name: after.get(name) for name in before if not name.startswith(growing)} == {
        name: content for name, content in before.items() if not name.startswith(growing)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_read_only_is_one_error(
    kind: str, commands: Commands, mount: Mount, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = mount(100_000)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, errors = run(commands[kind], disk / "out", capfd)
    assert code == 2, errors
    assert errors.count("error: ") == 1
    assert "Read-only file system" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_in_the_place_of_a_folder_is_one_error(
    kind: str, commands: Commands, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    code, errors = run(commands[kind], tmp_path / "file" / "out", capfd)
    assert code == 2, errors
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    assert (tmp_path / "file").read_text() == "mine"


def test_checkpoints_are_renamed_within_their_folder(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder, which may be on another disk, it would be a copy that can be cut short."""
    renamed: list[tuple[Path, Path]] = []
    ordinary = Path.replace

    def replace(self: Path, target: Path) -> Path:
        renamed.append((self, Path(target)))
        return ordinary(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert main([str(tmp_path / "run") if word == "OUT" else word for word in commands["fit"]]) == 0
    checkpoints = [(source, target) for source, target in renamed if target.suffix == ".ckpt"]
    assert {target.name for _, target in checkpoints} == {"best.ckpt", "last.ckpt"}
    assert all(source.parent == target.parent for source, target in checkpoints)
