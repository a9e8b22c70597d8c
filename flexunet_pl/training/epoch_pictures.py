"""Pictures of a few images after every epoch: one sheet per epoch, a strip of all epochs, an animation, the worst."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.files import atomic_path
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.visualization.layers import Layer, draw_layers, filled, plain, scaled_image, scaled_mask
from flexunet_pl.visualization.markers import find_spots, mark
from flexunet_pl.visualization.pictures import (
    ERROR_COLORS,
    as_rgb,
    error_kinds,
    fitted_size,
    labelled_row,
    legend,
    overlay,
    paint_errors,
    save_picture,
    sheet,
)

STRIP, ANIMATION = "strip.png", "strip.webp"
WORST, WORST_PICTURE = 4, "worst.png"  # images that need a look, and where they are
STRIP_TILE = 128
FRAME_WIDTH, FRAME_MILLISECONDS, LAST_MILLISECONDS = 900, 500, 3000


@dataclass(frozen=True)
class Shot:
    """One image as a model sees it after an epoch.

    Attributes:
        name: Name of the image.
        image: uint8 (H, W, C).
        truth: uint8 (H, W), None where there is none.
        predicted: uint8 (H, W).
        note: What to say about the prediction, such as its score.
    """

    name: str
    image: UInt8Array
    truth: UInt8Array | None
    predicted: UInt8Array
    note: str = ""

    def panel(self, palette: Palette) -> UInt8Array:
        """Return image, truth, prediction and errors side by side, uint8 (H', W', 3), and crops of what is tiny."""
        fill = filled(palette.colors)
        layers = [Layer(self.name, plain)]
        if self.truth is not None:
            layers.append(Layer("truth", fill, (self.truth,)))
        layers.append(Layer(f"prediction: {self.note}" if self.note else "prediction", fill, (self.predicted,)))
        if self.truth is not None:
            layers.append(Layer("errors", paint_errors, (error_kinds(self.truth, self.predicted),)))
        return draw_layers(self.image, layers, find_spots(self.truth, self.predicted))

    def tile(self, mask_index: UInt8Array | None, palette: Palette) -> UInt8Array:
        """Return the image with a mask laid over it, uint8 (STRIP_TILE, W, 3), and rings around what is tiny in it."""
        size = fitted_size(self.image, STRIP_TILE)
        rgb = scaled_image(as_rgb(self.image), size)
        if mask_index is None:
            return rgb
        laid = overlay(rgb, scaled_mask(mask_index, size), palette.colors)
        return mark(laid, find_spots(mask_index, None), size[0] / self.image.shape[1])


def write_epoch(folder: Path, epoch: int, shots: Sequence[Shot], palette: Palette) -> list[UInt8Array]:
    """Write the pictures of an epoch: ``epoch_0001.png``, and its row of the strip into ``rows``.

    Args:
        folder: Folder for the pictures of all epochs.
        epoch: Number of the epoch, from 1.
        shots: The images.
        palette: Names and colours of the classes.

    Returns:
        The panel of each image.
    """
    panels = [shot.panel(palette) for shot in shots]
    _save_sheet(folder / f"epoch_{epoch:04d}.png", shots, panels, palette)
    rows = {f"{epoch:04d}": [shot.tile(shot.predicted, palette) for shot in shots]}
    rows["image"] = [shot.tile(None, palette) for shot in shots]
    if all(shot.truth is not None for shot in shots):
        rows["truth"] = [shot.tile(shot.truth, palette) for shot in shots]
    for label, tiles in rows.items():
        title = f"epoch {epoch}" if label.isdigit() else label
        save_picture(folder / "rows" / f"{label}.png", labelled_row(title, tiles, STRIP_TILE))
    return panels


def write_worst(folder: Path, shots: Sequence[Shot], palette: Palette) -> None:
    """Write ``worst.png``, the images that need a look; without any, an older picture is removed."""
    if shots:
        _save_sheet(folder / WORST_PICTURE, shots, [shot.panel(palette) for shot in shots], palette)
    else:
        (folder / WORST_PICTURE).unlink(missing_ok=True)


def write_strip(folder: Path, epochs: int) -> None:
    """Write ``strip.png``, a row an epoch, and ``strip.webp``, a frame an epoch, from what :func:`write_epoch` wrote.

    Pictures of epochs after ``epochs``, left by an interrupted run, are skipped.
    """
    numbers = [int(path.stem) for path in (folder / "rows").glob("*.png") if re.fullmatch(r"\d+", path.stem)]
    numbers = sorted(number for number in numbers if number <= epochs)
    if not numbers:
        return
    heads = [path for label in ("image", "truth") if (path := folder / "rows" / f"{label}.png").is_file()]
    rows = [*heads, *(folder / "rows" / f"{number:04d}.png" for number in numbers), *heads[1:]]
    save_picture(folder / STRIP, sheet([_read(path) for path in rows]))
    frames = _of_one_size([_frame(path) for n in numbers if (path := folder / f"epoch_{n:04d}.png").is_file()])
    if frames:
        durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
        with atomic_path(folder / ANIMATION) as temporary:
            options = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
            frames[0].save(temporary, format="WEBP", quality=80, method=2, **options)


def _of_one_size(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Pad frames at the right and below to the largest, since epochs that predict tiny defects have more crops."""
    width, height = (max((frame.size[axis] for frame in frames), default=0) for axis in (0, 1))
    padded = [Image.new("RGB", (width, height), "white") for _ in frames]
    for whole, frame in zip(padded, frames, strict=True):
        whole.paste(frame, (0, 0))
    return padded


def _save_sheet(path: Path, shots: Sequence[Shot], panels: Sequence[UInt8Array], palette: Palette) -> None:
    """Write panels below each other, with a legend."""
    width = max(one.shape[1] for one in panels)
    keys = [legend(palette.names[1:], palette.colors[1:], width, "classes:")]
    if any(shot.truth is not None for shot in shots):
        keys.append(legend(list(ERROR_COLORS), list(ERROR_COLORS.values()), width, "errors:"))
    save_picture(path, sheet([*panels, *keys]))


def _read(path: Path) -> UInt8Array:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _frame(path: Path) -> Image.Image:
    """Return an epoch's sheet with its number, no wider than a page."""
    rgb = _read(path)
    scale = min(1.0, FRAME_WIDTH / rgb.shape[1])
    size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
    picture = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
    return Image.fromarray(sheet([labelled_row(f"epoch {int(path.stem[-4:])}", [], 24), picture]))
