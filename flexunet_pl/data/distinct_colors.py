"""Colours for classes that people with any kind of colour vision tell apart."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.palette import Color

FloatArray = npt.NDArray[np.float64]

# Okabe and Ito, Color Universal Design (2008), https://jfly.uni-koeln.de/color/. The three that pictures of errors use
# (orange, blue, reddish purple) come last.
SAFE_COLORS: tuple[Color, ...] = (
    (213, 94, 0),  # vermillion
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (230, 159, 0),  # orange
    (0, 114, 178),  # blue
    (204, 121, 167),  # reddish purple
)
# Linear RGB to what eyes without one kind of cone make of it: Machado, Oliveira and Fernandes, "A Physiologically-based
# Model for Simulation of Color Vision Deficiency", IEEE TVCG 15 (2009), severity 1.0.
DEFICIENCIES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
# Colours of the list that are closer than this to one in use are passed over.
LEAST_DISTANCE = 10.0
# What is chosen from after the list: no greys, which get lost on grey surfaces.
LEVELS = (0, 32, 64, 96, 128, 160, 192, 224, 255)
LEAST_SPREAD = 96


def distinct_colors(taken: Iterable[Color]) -> Iterator[Color]:
    """Yield colours without end that differ from those taken and from each other.

    The first are SAFE_COLORS, as far as they are not too close to a colour that is taken. Each later one is the
    farthest from all before it (Gonzalez' farthest-point traversal).
    """
    levels = np.array(LEVELS)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[np.ptp(grid, axis=1) >= LEAST_SPREAD]
    used = list(taken)
    for color in SAFE_COLORS:
        if not used or distances([color], used).min() >= LEAST_DISTANCE:
            used.append(color)
            yield color
    nearest = distances(grid, used).min(axis=1)
    while True:
        red, green, blue = grid[nearest.argmax()].tolist()
        yield red, green, blue
        nearest = np.minimum(nearest, distances(grid, [(red, green, blue)])[:, 0])


def distances(colors: npt.ArrayLike, others: npt.ArrayLike) -> FloatArray:
    """Return how far colours (N, 3) are from others (M, 3), sRGB 0..255, as (N, M): for the eye that sees least of it.

    The distance is CIE 1976 dE*ab, about 2 where it is just noticeable; the eyes are normal ones and DEFICIENCIES.
    """
    views = [np.eye(3), *map(np.array, DEFICIENCIES.values())]
    apart = [
        np.linalg.norm(_lab(colors, view)[:, None] - _lab(others, view)[None], axis=2)  # (N, M)
        for view in views
    ]
    return np.asarray(np.min(apart, axis=0))


def _lab(colors: npt.ArrayLike, view: FloatArray) -> FloatArray:
    """Map sRGB colours (N, 3), 0..255, to CIELAB (N, 3) at white D65, as seen through a matrix on linear RGB."""
    srgb = np.asarray(colors, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    seen = np.clip(linear @ view.T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = seen @ to_xyz.T / to_xyz.sum(axis=1)
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
