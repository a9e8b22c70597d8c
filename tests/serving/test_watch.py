"""A watched folder: each image once, whole files only, and nothing lost or doubled by kills."""

import csv
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from onnx_models import GREEN, RED, write_model
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.inference.onnx_infer import Model
from flexunet_pl.serving.arrivals import Arrivals
from flexunet_pl.serving.watch import FAILED, Settings, watching

NOW = Settings(settle=0, patience=0, interval=0.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(write_model(tmp_path_factory.mktemp("model") / "model.onnx"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def draw(path: Path, color: tuple[int, int, int] = GREEN) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 12, 3), color, np.uint8)).save(path)


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def look(model: Model, source: Path, out: Path, settings: Settings = NOW) -> int:
    with watching(model, source, out, settings) as watch:
        return watch.look()


def test_an_image_gets_a_mask_a_file_and_a_line_once(model: Model, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    draw(source / "b.png")
    draw(source / "left" / "a.png", RED)
    draw(source / "left" / ".hidden.png")
    (source / "notes.txt").write_text("no image")
    assert look(model, source, out) == 2
    assert look(model, source, out) == 0
    assert {line["image"]: line["decision"] for line in lines(out)} == {"b.png": "NG", "left/a.png": "OK"}
    assert np.asarray(Image.open(out / "masks" / "b.png")).tolist() == [[1] * 12] * 8
    facts = json.loads((out / "results" / "left" / "a.json").read_text())
    assert facts["pixels"] == {"background": 96, "crack": 0, "oil": 0}
    assert sorted(path.name for path in source.rglob("*.png")) == [".hidden.png", "a.png", "b.png"]


def test_another_picture_under_the_same_name_is_another_piece(model: Model, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    draw(source / "part.png")
    look(model, source, out)
    draw(source / "part.png", RED)
    os.utime(source / "part.png", ns=(1, 1))
    draw(source / "PART.jpg", RED)
    assert look(model, source, out) == 2
    assert [line["results"] for line in lines(out)] == ["part", "part-2", "PART-3"]
    assert (np.asarray(Image.open(out / "masks" / "part.png")) == 1).all()


def test_a_file_that_still_grows_is_waited_for(model: Model, source: Path, tmp_path: Path) -> None:
    draw(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    with watching(model, source, tmp_path / "out", Settings(settle=0.2, patience=30, interval=0.01)) as watch:
        with (source / "slow.png").open("wb") as stream:
            for start in range(0, len(content), 30):
                stream.write(content[start : start + 30])
                stream.flush()
                assert watch.look() == 0
                time.sleep(0.05)
        assert watch.look() == 0  # not for long enough as it is
        time.sleep(0.3)
        assert watch.look() == 1


def test_a_copy_that_pauses_is_no_broken_file_until_patience_ends(model: Model, source: Path, tmp_path: Path) -> None:
    draw(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (source / "slow.png").write_bytes(content[:40])
    (source / "reserved.png").touch()  # some copies begin with an empty file
    with watching(model, source, tmp_path / "out", Settings(settle=0, patience=0.3, interval=0.01)) as watch:
        assert watch.look() == 0
        (source / "slow.png").write_bytes(content)
        assert watch.look() == 1
        (source / "broken.png").write_bytes(content[:40])
        assert watch.look() == 0
        time.sleep(0.4)
        assert watch.look() == 1
    assert [line["error"][:40] for line in lines(tmp_path / "out")] == ["", "image: cannot be read as an image; repla"]


def test_a_file_has_arrived_after_it_stayed_as_it_is(source: Path) -> None:
    arrivals = Arrivals(source, settle=2)
    draw(source / "a.png")
    assert arrivals.look(10) == []
    assert arrivals.look(11) == []
    assert [version.file for version in arrivals.look(12)] == ["a.png"]
    os.utime(source / "a.png", ns=(5, 5))
    assert arrivals.look(13) == []
    assert [version.mtime_ns for version in arrivals.look(15)] == [5]


def test_images_move_to_the_folder_of_their_decision(model: Model, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, color in (("bad.png", GREEN), ("good.png", RED)):
        draw(source / name, color)
    (source / "none.png").write_bytes(b"none")
    settings = Settings(settle=0, patience=0, route=True, overlays=True)
    assert look(model, source, out, settings) == 3
    moved = sorted(
        path.relative_to(out).as_posix() for folder in ("ok", "ng", FAILED) for path in (out / folder).iterdir()
    )
    assert moved == ["failed/none.png", "ng/bad.png", "ok/good.png"]
    assert not list(source.iterdir())
    assert (out / "overlays" / "bad.png").is_file()
    # The same name again: the image that was moved stays.
    draw(source / "bad.png", RED)
    assert look(model, source, out, settings) == 1
    assert (out / "ok" / "bad-2.png").is_file()


@pytest.mark.parametrize("step", ["mask", "json", "finish", "line", "move"])
def test_what_a_kill_leaves_out_is_done_by_the_next(
    step: str, model: Model, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    settings = Settings(settle=0, patience=0, route=True)
    draw(source / "a.png")

    class Killed(BaseException):
        pass

    def killed(*_arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        place = {
            "mask": "flexunet_pl.serving.watch.write_bytes",
            "json": "flexunet_pl.serving.watch.write_json",
            "finish": "flexunet_pl.serving.journal.Journal.finish",
            "line": "flexunet_pl.serving.watch._columns",
            "move": "flexunet_pl.serving.watch.Watch._move",
        }[step]
        watched = watching(model, source, out, settings)
        with watched as watch:
            patched.setattr(place, killed)
            with pytest.raises(Killed):
                watch.look()
    look(model, source, out, settings)
    assert [line["image"] for line in lines(out)] == ["a.png"]
    assert [path.name for path in (out / "ng").iterdir()] == ["a.png"]
    assert not list(source.iterdir())


def test_a_torn_last_line_is_written_again(model: Model, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a.png", "b.png"):
        draw(source / name)
    look(model, source, out)
    whole = (out / "results.csv").read_bytes()
    (out / "results.csv").write_bytes(whole[:-7])
    look(model, source, out)
    assert (out / "results.csv").read_bytes() == whole


def test_names_that_are_no_text_are_taken(model: Model, source: Path, tmp_path: Path) -> None:
    draw(source / "a.png")
    (source / "a.png").rename(os.fsdecode(os.fsencode(source) + b"/\xff.png"))
    assert look(model, source, tmp_path / "out", Settings(settle=0, patience=0, route=True)) == 1
    assert lines(tmp_path / "out")[0]["image"] == "\\udcff.png"


def test_one_output_has_one_writer_outside_of_the_input(model: Model, source: Path, tmp_path: Path) -> None:
    with watching(model, source, tmp_path / "out", NOW), pytest.raises(UserError, match="another process writes"):
        look(model, source, tmp_path / "out")
    with pytest.raises(UserError, match="lies in the watched folder"):
        look(model, source, source / "out")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        look(model, source / "nowhere", tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".journal.sqlite").write_text("no database, and long enough to be none" * 40)
    with pytest.raises(UserError, match="cannot be used"):
        look(model, source, tmp_path / "other")


def test_the_command_ends_when_all_is_done(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(source / "a.png")
    (source / "b.png").write_bytes(b"none")
    path = write_model(tmp_path / "model.onnx")
    words = [str(path), str(source), str(tmp_path / "out"), "--once", "--settle", "0.05", "--interval", "0.02"]
    assert main(["watch", *words, "--patience", "0.2"]) == 0
    assert "1 ng" in capsys.readouterr().err
    assert [line["image"] for line in lines(tmp_path / "out")] == ["a.png", "b.png"]


KILLS = 100
# Forked children start at once, since their parent has imported all that they need.
PROGRAM = textwrap.dedent("""
    import os, random, signal, sys, time
    from pathlib import Path
    from flexunet_pl.inference.onnx_infer import Model
    from flexunet_pl.serving.watch import Settings, run, watching
    import flexunet_pl.serving.journal, onnxruntime, PIL.PngImagePlugin

    model, source, out, kills, images = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:])
    chance = random.Random(0)
    settings = Settings(settle=0, patience=0, interval=0.01, route=True)
    number = 0
    content = (source.parent / "image.png").read_bytes()
    def done():
        return len(list((out / "results").glob("*.json")))

    for kill in range(kills + 1):
        before = done()
        assert kill < kills or before > images / 5, f"the kills hit nothing but the start: {before} done"
        for _ in range(images // kills if kill < kills else 0):
            temporary = source / f".{number}.png"
            temporary.write_bytes(content)
            temporary.rename(source / f"{number}.png")
            number += 1
        child = os.fork()
        if child == 0:
            with watching(Model(model, threads=1), source, out, settings) as watch:
                run(watch, once=kill == kills)
            os._exit(0)
        if kill < kills:
            ends, target = time.monotonic() + 10, before + chance.randrange(-2, 8)
            # Somewhere in the work on one of the first images, or while the process starts.
            while time.monotonic() < ends and done() < target:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        expected = 0 if kill == kills else -signal.SIGKILL
        assert os.waitstatus_to_exitcode(status) == expected, status
""")


@pytest.mark.full
def test_a_hundred_kills_lose_and_double_nothing(source: Path, tmp_path: Path) -> None:
    path, images = write_model(tmp_path / "model.onnx"), 500
    draw(tmp_path / "image.png")
    words = [str(path), str(source), str(tmp_path / "out"), str(KILLS), str(images)]
    subprocess.run([sys.executable, "-c", PROGRAM, *words], check=True, timeout=300)
    out = tmp_path / "out"
    assert sorted(line["image"] for line in lines(out)) == sorted(f"{number}.png" for number in range(images))
    for folder, ending in (("masks", "png"), ("results", "json"), ("ng", "png")):
        assert {path.name for path in (out / folder).iterdir()} == {f"{number}.{ending}" for number in range(images)}
    for number in range(images):
        assert json.loads((out / "results" / f"{number}.json").read_text())["decision"] == "NG"
        assert (np.asarray(Image.open(out / "masks" / f"{number}.png")) == 1).all()
    assert not list(source.iterdir())
