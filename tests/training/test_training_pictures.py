"""Pictures of fixed images, their strip, what loggers get, and the table that a run prints."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import Palette
from flexunet_pl.training.callbacks import EpochPictures, ValidationTable
from flexunet_pl.training.epoch_pictures import STRIP_TILE, Shot, write_epoch, write_strip
from flexunet_pl.visualization.pictures import (
    BARS,
    ERROR_COLORS,
    INVENTED,
    MISSED,
    RIGHT,
    WRONG_CLASS,
    error_overlay,
    legend,
    line_chart,
    overlay,
)

PALETTE = Palette(("background", "crack", "oil"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
CALLBACKS = [
    *("--trainer.callbacks+", "flexunet_pl.training.callbacks.EpochPictures", "--trainer.callbacks.count", "2"),
    *(
        "--trainer.callbacks+",
        "flexunet_pl.training.callbacks.ValidationTable",
        "--trainer.callbacks.every_n_epochs",
        "2",
    ),
]
LOGGERS = """\
trainer:
  log_every_n_steps: 3
  logger:
    - class_path: lightning.pytorch.loggers.TensorBoardLogger
      init_args: {save_dir: ., name: tensorboard, version: ""}
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args: {save_dir: ., name: csv}
"""


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_run_shows_how_it_goes(tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loggers.yaml").write_text(LOGGERS)
    run = tmp_path / "run"
    fit = ["fit", "--config", str(tiny_config), "--config", str(tmp_path / "loggers.yaml"), "--run_dir", str(run)]
    assert main([*fit, *CALLBACKS, "--trainer.max_epochs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "Epoch 2: Scores of 6 images" in shown
    assert "Epoch 1:" not in shown
    assert "gray_stroke" in shown
    pictures = run / "epoch_pictures"
    assert {path.name for path in pictures.glob("*.*")} == {
        "epoch_0001.png",
        "epoch_0002.png",
        "strip.png",
        "strip.webp",
        "worst.png",
    }
    rows = [size_of(pictures / "rows" / f"{name}.png") for name in ("image", "truth", "0001", "0002")]
    assert set(rows) == {size_of(pictures / "rows" / "0001.png")}
    assert size_of(pictures / "strip.png") == (rows[0][0], 5 * rows[0][1])  # the truth once more at the end
    assert main([*fit, *CALLBACKS, "--trainer.max_epochs", "3", "--ckpt_path", "last"]) == 0
    assert size_of(pictures / "strip.png")[1] == 6 * rows[0][1]
    with Image.open(pictures / "strip.webp") as animation:
        assert getattr(animation, "n_frames", 1) == 3

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    names = [Path(str(tag)).name for tag in tags["images"]]
    assert len(names) == 2
    assert all(str(tag).startswith("samples/") for tag in tags["images"])
    assert len(events.Images(tags["images"][0])) == 3
    assert {"learning_rate", "speed/step_seconds", "speed/images_per_second", "val/dice/crack"} <= set(tags["scalars"])
    # 16 images in batches of 4 are 4 steps an epoch: logged after 3 of them and at the epoch's end.
    assert [event.step for event in events.Scalars("learning_rate")] == [2, 3, 6, 7, 10, 11]
    steps = events.Scalars("speed/step_seconds"), events.Scalars("speed/images_per_second")
    for seconds, rate in zip(*steps, strict=True):
        assert seconds.value * rate.value == pytest.approx(4, rel=1e-4)
    with (run / "csv" / "version_0" / "metrics.csv").open() as file:
        assert any(row.get("speed/step_seconds") for row in csv.DictReader(file))


def test_the_strip_leaves_out_epochs_that_a_broken_run_left(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), dtype=np.uint8)
    shot = Shot("a", np.full((40, 50, 3), 90, dtype=np.uint8), None, mask)
    write_strip(tmp_path, 3)
    assert list(tmp_path.iterdir()) == [], "nothing to show, nothing written"
    for epoch in (1, 2, 3, 4):
        write_epoch(tmp_path, epoch, [shot, shot], PALETTE)
    write_strip(tmp_path, 3)
    height = size_of(tmp_path / "rows" / "0001.png")[1]
    assert height > STRIP_TILE
    assert size_of(tmp_path / "strip.png")[1] == 4 * height, "images and three epochs; there is no truth"
    with Image.open(tmp_path / "strip.webp") as animation:
        assert getattr(animation, "n_frames", 1) in (1, 3)  # frames that are alike may be joined


def test_wrong_numbers_of_epochs_or_images_are_errors() -> None:
    with pytest.raises(UserError, match="strip_every=0 must be at least 1"):
        EpochPictures(strip_every=0)
    with pytest.raises(UserError, match="count=-1 must be a number of images, or 0 for no pictures"):
        EpochPictures(count=-1)
    with pytest.raises(UserError, match="worst=-1 must be a number of images, or 0 for no such picture"):
        EpochPictures(worst=-1)
    with pytest.raises(UserError, match="every_n_epochs=0 must be at least 1"):
        ValidationTable(every_n_epochs=0)


def test_errors_have_the_colour_of_their_kind() -> None:
    image = np.full((30, 60, 3), 120, dtype=np.uint8)
    truth, predicted = np.zeros((30, 60), dtype=np.uint8), np.zeros((30, 60), dtype=np.uint8)
    truth[10:20, 2:10] = 1  # missed
    predicted[10:20, 14:22] = 2  # invented
    truth[10:20, 26:34], predicted[10:20, 26:34] = 1, 2  # wrong class
    truth[10:20, 38:46] = predicted[10:20, 38:46] = 1  # right
    truth[10:20, 50:58], predicted[10:20, 50:58] = 255, 1  # nobody knows
    laid = error_overlay(image, truth, predicted)
    for kind, column in ((MISSED, 2), (INVENTED, 14), (WRONG_CLASS, 26), (RIGHT, 38)):
        assert tuple(laid[10, column]) == ERROR_COLORS[kind], "a full contour"
        filled = laid[15, column + 4].astype(int)
        if kind == RIGHT:
            assert tuple(filled) == tuple(laid[0, 0])
        else:
            nearest = min(ERROR_COLORS, key=lambda name: np.abs(filled - ERROR_COLORS[name]).sum())
            assert nearest == kind
    assert (laid[10:20, 50:58] == laid[0, 0]).all()


@pytest.mark.parametrize("weak", [None, 0, 1, 2], ids=["all", "no red", "no green", "no blue"])
def test_error_colours_differ_for_eyes_that_lack_a_cone(weak: int | None) -> None:
    # From linear RGB to what the three cones catch (Hunt, Pointer and Estevez); then one of them is left out.
    cones = np.array([[0.3139, 0.6395, 0.0465], [0.1554, 0.7579, 0.0867], [0.0177, 0.1094, 0.8728]])
    colors = (np.array(list(ERROR_COLORS.values())) / 255) ** 2.2
    seen = colors @ cones.T
    if weak is not None:
        seen = np.delete(seen, weak, axis=1)
    lightness = seen ** (1 / 2.2)
    apart = np.abs(lightness[:, None] - lightness).max(axis=2)
    assert apart[~np.eye(len(colors), dtype=bool)].min() > 0.07


def test_many_lines_differ_in_colour_or_dashes() -> None:
    drawn = line_chart({f"class {number}": [(0, number), (9, number)] for number in range(8)}, "scores")
    first = tuple(int(BARS[0][place : place + 2], 16) for place in (1, 3, 5))
    rows = np.flatnonzero((drawn == first).all(axis=2).sum(axis=1) > 100)
    lines = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    lengths = [(drawn[line] == first).all(axis=2).any(axis=0).sum() for line in lines]
    assert len(lengths) == 2, "the first colour comes again with the seventh line"
    assert lengths[0] < 0.9 * lengths[1], "which is dashed"


def test_a_legend_names_every_class_in_its_colour() -> None:
    drawn = legend(["crack", "oil"], [(255, 0, 0), (0, 255, 0)], width=200)
    for color in ((255, 0, 0), (0, 255, 0)):
        assert (drawn == color).all(axis=2).sum() > 100


def test_an_overlay_has_a_thin_fill_and_a_full_contour() -> None:
    image = np.full((9, 9, 3), 100, dtype=np.uint8)
    mask = np.zeros((9, 9), dtype=np.uint8)
    mask[2:7, 2:7] = 1
    mask[0, 0] = 255
    laid = overlay(image, mask, PALETTE.colors, opacity=0.5)
    assert tuple(laid[4, 4]) == (178, 50, 50)
    assert tuple(laid[2, 4]) == (255, 0, 0)
    assert tuple(laid[0, 0]) == tuple(laid[8, 8]) == (100, 100, 100)
    assert (image == 100).all(), "the image itself is left alone"


def test_frames_of_epochs_with_more_crops_fit_into_one_animation(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for number, size in enumerate([(90, 40), (90, 70), (120, 40)], start=1):
        Image.new("RGB", size, "gray").save(tmp_path / f"epoch_{number:04d}.png")
        Image.new("RGB", (30, 30), "gray").save(tmp_path / "rows" / f"{number:04d}.png")
    write_strip(tmp_path, 3)
    with Image.open(tmp_path / "strip.webp") as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]  # only animations have it
        assert animation.width >= 120
