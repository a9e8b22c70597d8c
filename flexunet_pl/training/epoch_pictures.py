"""Pictures of a few images after every epoch: one sheet per epoch, a strip of all epochs, an animation, the worst."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.files import atomic_path
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.visualization.pictures import (
    ERROR_COLORS,
    as_rgb,
    error_overlay,
    labelled_row,
    legend,
    overlay,
    panel,
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
        """Return image, truth, prediction and errors side by side, uint8 (H', W', 3)."""
        rgb = as_rgb(self.image)
        tiles = [(self.name, rgb)]
        if self.truth is not None:
            tiles.append(("truth", overlay(rgb, self.truth, palette.colors)))
        title = f"prediction: {self.note}" if self.note else "prediction"
        tiles.append((title, overlay(rgb, self.predicted, palette.colors)))
        if self.truth is not None:
            tiles.append(("errors", error_overlay(rgb, self.truth, self.predicted)))
        return panel(tiles)


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
    rows = {f"{epoch:04d}": [overlay(as_rgb(one.image), one.predicted, palette.colors) for one in shots]}
    rows["image"] = [as_rgb(shot.image) for shot in shots]
    if all(shot.truth is not None for shot in shots):
        rows["truth"] = [
            overlay(as_rgb(one.image), one.truth, palette.colors) for one in shots if one.truth is not None
        ]
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
    frames = [_frame(path) for n in numbers if (path := folder / f"epoch_{n:04d}.png").is_file()]
    if frames:
        durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
        with atomic_path(folder / ANIMATION) as temporary:
            options = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
            frames[0].save(temporary, format="WEBP", quality=80, method=2, **options)


def _save_sheet(path: Path, shots: Sequence[Shot], panels: Sequence[UInt8Array], palette: Palette) -> None:
    """Write panels below each other, with a legend."""
    has_truth = any(shot.truth is not None for shot in shots)
    names = [*palette.names[1:], *(ERROR_COLORS if has_truth else ())]
    colors = [*palette.colors[1:], *(ERROR_COLORS.values() if has_truth else ())]
    width = max(one.shape[1] for one in panels)
    save_picture(path, sheet([*panels, legend(names, colors, width)]))


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
