"""A made-up speckled tile: the picture ground on which the synthetic defects are painted."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

Point = tuple[float, float]
Color = tuple[float, float, float]
Polyline = list[tuple[Point, float]]

# Shapes are drawn this many times larger and averaged down, so that their edges are soft.
SUPERSAMPLE = 4
# Lengths of the pattern are fractions of the picture's shorter side; below this many pixels it would alias.
SMALLEST_BLUR = 0.55


@dataclass(frozen=True)
class Scene:
    """A tile in the making: colours, a coordinate system and random numbers.

    Lengths and coordinates are (x, y) in units of the shorter side of the picture, with the origin in its centre, so
    that scenes look alike at every size.

    Attributes:
        rng: The source of all randomness.
        surface: Colours float32 (H, W, 3), about 0..255, painted in place.
        height: Height of the picture in pixels; the surface is larger, and the picture is its centre.
        width: Width of the picture in pixels.
    """

    rng: np.random.Generator
    surface: FloatArray
    height: int
    width: int

    @property
    def unit(self) -> int:
        """Return the pixels in one unit of length."""
        return min(self.height, self.width)

    @functools.cached_property
    def x(self) -> FloatArray:
        """Return the x coordinate of each column, float32 (1, W)."""
        return self._axis(1)[None, :]

    @functools.cached_property
    def y(self) -> FloatArray:
        """Return the y coordinate of each row, float32 (H, 1)."""
        return self._axis(0)[:, None]

    def _axis(self, dimension: int) -> FloatArray:
        pixels = self.surface.shape[dimension]
        return np.array((np.arange(pixels) + 0.5 - pixels / 2) / self.unit, dtype=np.float32)

    def place(self, reach: float) -> Point:
        """Return a random point whose distance from the picture's centre is at most ``reach`` of the half sides."""
        half_x, half_y = self.width / self.unit / 2, self.height / self.unit / 2
        return (float(self.rng.uniform(-reach, reach)) * half_x, float(self.rng.uniform(-reach, reach)) * half_y)

    def turned(self, centre: Point, angle: float) -> tuple[FloatArray, FloatArray]:
        """Return coordinates along and across the direction ``angle`` (radians) from ``centre``, each (H, W)."""
        return _turn(self.x - np.float32(centre[0]), self.y - np.float32(centre[1]), angle)

    def noise(self, blur: float, angle: float = 0.0, stretch: float = 1.0) -> FloatArray:
        """Return smooth noise float32 (H, W) of mean 0 and variance 1.

        Args:
            blur: Standard deviation of the Gaussian that smooths white noise, in units.
            angle: Direction of the grain in radians.
            stretch: How many times longer than wide the grain is.
        """
        coarse, sigma, shape = self._grid(blur)
        white = self.rng.standard_normal(shape, dtype=np.float32)
        field = self._enlarged(_blurred(white, sigma, angle, stretch), coarse)
        field -= field.mean()
        field /= field.std()
        return field

    def drops(self, count: float, radius: float, angle: float, stretch: float) -> FloatArray:
        """Return randomly scattered soft drops, float32 (H, W): about 1 in the middle of one, more where they meet.

        Args:
            count: Mean number of drops in a square unit.
            radius: Where a drop has fallen to 0.6, in units.
            angle: Direction of the drops' longer axis in radians.
            stretch: How many times longer than wide the drops are.
        """
        coarse, sigma, shape = self._grid(radius)
        pixels = shape[0] * shape[1]
        # In small pictures drops cannot be as small as asked for; then there are fewer, and they cover as much.
        mean = count * pixels * (coarse / self.unit) ** 2 * (radius * self.unit / (sigma * coarse)) ** 2
        position = self.rng.integers(pixels, size=self.rng.poisson(mean))
        weight = self.rng.uniform(0.6, 1.6, size=len(position))
        impulses = np.bincount(position, weight, minlength=pixels).astype(np.float32).reshape(shape)
        impulses *= np.float32(2 * np.pi * sigma**2 * stretch)
        return self._enlarged(_blurred(impulses, sigma, angle, stretch), coarse)

    def _grid(self, blur: float) -> tuple[int, float, tuple[int, int]]:
        """Return a grid that is fine enough for a blur in units: its step and the blur in it in pixels, its shape.

        A coarser grid, enlarged afterwards, looks the same and is many times faster.
        """
        sigma = max(blur * self.unit, SMALLEST_BLUR)
        coarse = max(1, int(sigma / 1.25))
        rows, columns = self.surface.shape[:2]
        return coarse, sigma / coarse, (_fast_length(rows / coarse), _fast_length(columns / coarse))

    def _enlarged(self, field: FloatArray, coarse: int) -> FloatArray:
        """Return a field from a grid of step ``coarse`` at the size of the surface, float32 (H, W)."""
        rows, columns = self.surface.shape[:2]
        if coarse > 1:
            box = (field.shape[1] * coarse, field.shape[0] * coarse)
            field = np.array(Image.fromarray(field).resize(box, Image.Resampling.BICUBIC))
        return field[:rows, :columns]

    def paint(self, coverage: FloatArray, color: Color | FloatArray) -> None:
        """Blend ``color`` (three numbers, or (H, W, 3)) over the surface with ``coverage`` (H, W) in 0..1."""
        target = np.asarray(color, dtype=np.float32)
        self.surface[...] += coverage[..., None] * (target - self.surface)

    def polygon(self, corners: list[Point]) -> FloatArray:
        """Return how much of each pixel a filled polygon covers, float32 (H, W) in 0..1."""
        canvas = self._canvas()
        ImageDraw.Draw(canvas).polygon([self._pixel(corner) for corner in corners], fill=255)
        return self._coverage(canvas)

    def lines(self, polylines: list[Polyline], widen: float = 1.0, smallest: float = 0.0) -> FloatArray:
        """Return how much of each pixel some lines cover, float32 (H, W) in 0..1.

        Args:
            polylines: Lines as points, each with its width in units.
            widen: Factor for all widths.
            smallest: No line is thinner than this, in pixels.
        """
        canvas = self._canvas()
        draw = ImageDraw.Draw(canvas)
        for polyline in polylines:
            for (start, width), (end, _) in itertools.pairwise(polyline):
                pen = max(width * widen * self.unit, smallest) * SUPERSAMPLE
                x, y = self._pixel(start)
                draw.line([(x, y), self._pixel(end)], fill=255, width=max(1, round(pen)))
                draw.ellipse([x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2], fill=255)
        return self._coverage(canvas)

    def _canvas(self) -> Image.Image:
        rows, columns = self.surface.shape[:2]
        return Image.new("L", (columns * SUPERSAMPLE, rows * SUPERSAMPLE))

    def _coverage(self, canvas: Image.Image) -> FloatArray:
        return np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float32) / np.float32(255)

    def _pixel(self, point: Point) -> Point:
        rows, columns = self.surface.shape[:2]
        return ((point[0] * self.unit + columns / 2) * SUPERSAMPLE, (point[1] * self.unit + rows / 2) * SUPERSAMPLE)


def paint_tile(scene: Scene) -> None:
    """Fill the scene's surface with dark drops of several sizes on a pale, cloudy, greenish grey ground."""
    rng = scene.rng
    scale = float(rng.uniform(0.85, 1.2))
    density = float(rng.uniform(0.85, 1.1)) / scale**2
    clouds = 1 + 0.16 * scene.noise(0.035)
    visible = np.ones(scene.surface.shape[:2], dtype=np.float32)
    for count, radius, opacity in ((1150, 0.0075, 0.88), (2100, 0.0052, 0.75), (3200, 0.0028, 0.6)):
        drops = scene.drops(count * density, radius * scale, angle=float(rng.uniform(0, np.pi)), stretch=1.15)
        visible *= 1 - np.float32(opacity) * smooth_step((drops * clouds - 0.2) / 1.15)
    ground = float(rng.uniform(140, 156)) + 6 * scene.noise(0.06) + 3 * scene.noise(0.012)
    ground_tint = rng.uniform((-6, 0, -6), (-2, 2, -1)).astype(np.float32)
    ink = float(rng.uniform(52, 60)) + 6 * scene.noise(0.02)
    ink_tint = np.array([1.5, -0.5, -2.5], dtype=np.float32)
    grey = ink + visible * (ground - ink)
    scene.surface[...] = grey[..., None] + (ink_tint + visible[..., None] * (ground_tint - ink_tint))


def smooth_step(ramp: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Map a ramp (H, W) to float32 0..1 with soft ends: 0 up to 0, 1 from 1 on."""
    clipped: FloatArray = np.clip(ramp, 0, 1, dtype=np.float32)
    return clipped * clipped * (3 - 2 * clipped)


def _fast_length(length: float) -> int:
    """Return the next whole number with no prime factor but 2, 3 and 5, for which Fourier transforms are fast."""
    number = math.ceil(length)
    while 30**20 % number:
        number += 1
    return number


def _blurred(field: FloatArray, sigma: float, angle: float, stretch: float) -> FloatArray:
    """Return a field (H, W) blurred by a Gaussian of ``sigma`` pixels, ``stretch`` times longer along ``angle``."""
    rows, columns = field.shape
    frequency_y = np.fft.fftfreq(rows).astype(np.float32)[:, None]
    frequency_x = np.fft.rfftfreq(columns).astype(np.float32)[None, :]
    along, across = _turn(frequency_x, frequency_y, angle)
    response = np.exp(np.float32(-2 * np.pi**2 * sigma**2) * ((stretch * along) ** 2 + across**2))
    return np.fft.irfft2(np.fft.rfft2(field) * response, s=field.shape).astype(np.float32)


def _turn(x: FloatArray, y: FloatArray, angle: float) -> tuple[FloatArray, FloatArray]:
    """Return coordinates along and across the direction ``angle``, in radians."""
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine
