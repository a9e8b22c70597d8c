"""Make palettes: colours for class names, and colours found in masks."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.distinct_colors import distinct_colors
from flexunet_pl.data.image_files import open_image
from flexunet_pl.data.palette import IGNORE_NAME, Color, Palette

BACKGROUND = "background"
BLACK = (0, 0, 0)
WHITE = (255, 255, 255)
# A class covers areas, while a blended colour runs along edges: at least this share of its pixels is inside an area.
LEAST_INSIDE = 0.1
# Colours of one mask that are counted; blended ones can be thousands.
MOST_COLORS = 64


def grown_palette(names: Iterable[str], base: Palette | None = None) -> Palette:
    """Return ``base`` (or a black background) with a colour for each new name; raise UserError beyond 255 classes.

    New colours differ from those of ``base``, from white and from each other for every kind of colour vision; colours
    of ``base`` stay.
    """
    known = Palette.to_mapping(base) if base is not None else {BACKGROUND: list(BLACK)}
    colors = distinct_colors([*((red, green, blue) for red, green, blue in known.values()), WHITE])
    new = {name: list(next(colors)) for name in dict.fromkeys(names) if name not in known}
    if base is None:
        return Palette.from_mapping(known | new)
    # Classes go on where those of the base end; ignore is no class and stays last.
    classes = {name: known[name] for name in base.names}
    grown = Palette.from_mapping(classes | new | {name: known[name] for name in known if name not in classes})
    return replace(grown, nearest=base.nearest)


def check_class_name(label: str, origin: Path) -> None:
    """Raise UserError if a folder's name cannot name a class: it has a meaning in palettes or breaks the manifest."""
    if label.lower() in (BACKGROUND, IGNORE_NAME) or ";" in label:
        raise UserError(f"{origin}: no class of defects can be called {label!r}; rename the folder")


def with_ignore(palette: Palette) -> Palette:
    """Return a palette that has an ignore colour: white if it is free, else another one."""
    if palette.ignore is not None:
        return palette
    color = WHITE if WHITE not in palette.colors else next(distinct_colors(palette.colors))
    return replace(palette, ignore=color)


def infer_palette(masks: Sequence[Path]) -> Palette:
    """Return a palette of the colours that cover areas in these masks, the commonest (or black) as background.

    Raises:
        UserError: If fewer than two such colours are found, or more than 255.
    """
    pixels: Counter[Color] = Counter()
    inside: Counter[Color] = Counter()
    for path in masks:
        try:
            with open_image(path) as image:
                rgb = image.convert("RGB")
        except UserError:
            continue  # the audit reports the file by itself
        codes = np.asarray(rgb).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
        # Inner pixels whose eight neighbours have their colour.
        areas = codes[1:-1, 1:-1][(minimum_filter(codes, 3) == maximum_filter(codes, 3))[1:-1, 1:-1]]
        counted = rgb.getcolors(rgb.width * rgb.height) or []
        for count, color in sorted(counted, reverse=True)[:MOST_COLORS]:
            assert isinstance(color, tuple)  # noqa: S101  the image is RGB
            red, green, blue = color
            pixels[red, green, blue] += count
            inside[red, green, blue] += int(np.count_nonzero(areas == (red << 16 | green << 8 | blue)))
    colors = [color for color, count in pixels.most_common() if inside[color] >= max(1, LEAST_INSIDE * count)]
    if BLACK in colors:
        colors.sort(key=lambda color: color != BLACK)
    if len(colors) < 2:
        raise UserError(
            f"the masks show {len(colors)} colours that cover areas, too few to derive classes from; name them in "
            "a file, background: [0, 0, 0] and so on, and give --palette FILE"
        )
    names = [BACKGROUND, *(f"class_{number}" for number in range(1, len(colors)))]
    return Palette(tuple(names), tuple(colors))
