"""Sixteen kinds of defects for pretraining: four geometries times four appearances."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from flexunet_pl.data.synthetic.materials import MATERIALS
from flexunet_pl.data.synthetic.surface import FloatArray, Point, Polyline, Scene, smooth_step

# Mean difference to the sound surface, in levels of 0..255, below which nobody would see a defect.
VISIBLE = 8.0


def line(scene: Scene) -> FloatArray:
    """Return the coverage of a thin line that wanders, sometimes with branches."""
    rng = scene.rng
    width = float(rng.uniform(0.008, 0.022))
    start, heading = scene.place(0.7), float(rng.uniform(0, 2 * np.pi))
    lines = [_wander(scene, start, heading, width, float(rng.uniform(0.15, 1.0)))]
    if rng.random() < 0.5:
        lines.append(_wander(scene, start, heading + float(rng.uniform(2.2, 4.0)), width, float(rng.uniform(0.1, 0.7))))
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.3 else 0):
        point, _ = lines[0][int(rng.integers(len(lines[0])))]
        lines.append(_wander(scene, point, heading + float(rng.uniform(-1.2, 1.2)), 0.6 * width, 0.2))
    return scene.lines(lines, smallest=1.5)


def spot(scene: Scene) -> FloatArray:
    """Return the coverage of one to five small round spots, close together."""
    rng = scene.rng
    centre = scene.place(0.75)
    distance = np.full(scene.surface.shape[:2], np.inf, dtype=np.float32)
    for _ in range(1 + int(rng.integers(0, 5)) * int(rng.random() < 0.4)):
        radius, angle = np.float32(rng.uniform(0.02, 0.075)), float(rng.uniform(0, np.pi))
        along, across = scene.turned(_near(rng, centre, 0.12), angle)
        distance = np.minimum(distance, np.hypot(along, across * np.float32(rng.uniform(1, 1.7))) - radius)
    return _inside(scene, distance, ragged=float(rng.uniform(0, 0.012)), grain=0.02)


def strip(scene: Scene) -> FloatArray:
    """Return the coverage of a long band, straight or bent, with even or ragged edges."""
    rng = scene.rng
    along, across = scene.turned(scene.place(0.6), float(rng.uniform(0, np.pi)))
    half_length, half_width = np.float32(rng.uniform(0.1, 0.4)), np.float32(rng.uniform(0.02, 0.075))
    bent = across - np.float32(rng.uniform(-1.2, 1.2) * (rng.random() < 0.6)) * along**2
    if rng.random() < 0.5:  # a strip of tape with corners
        distance = np.maximum(np.abs(along) - half_length, np.abs(bent) - half_width)
    else:  # the stroke of a pen
        distance = np.hypot(np.maximum(np.abs(along) - half_length, 0), bent) - half_width
    return _inside(scene, distance, ragged=float(rng.uniform(0, 0.015)), grain=0.012)


def patch(scene: Scene) -> FloatArray:
    """Return the coverage of a large area with an irregular outline."""
    rng = scene.rng
    along, across = scene.turned(scene.place(0.6), float(rng.uniform(0, np.pi)))
    radius = np.float32(rng.uniform(0.12, 0.3))
    distance = np.hypot(along, across * np.float32(rng.uniform(1, 2.2))) - radius
    return _inside(scene, distance, ragged=float(rng.uniform(0.02, 0.06)), grain=float(rng.uniform(0.03, 0.07)))


def darker(scene: Scene, coverage: FloatArray) -> FloatArray:
    """Return the surface darkened, float32 (H, W, 3)."""
    depth = np.float32(scene.rng.uniform(0.3, 0.9)) * _uneven(scene)
    shade = np.minimum(scene.surface * (1 - depth), scene.surface - np.float32(12))
    darkened: FloatArray = scene.surface + coverage[..., None] * (np.maximum(shade, 3) - scene.surface)
    return darkened


def brighter(scene: Scene, coverage: FloatArray) -> FloatArray:
    """Return the surface brightened, float32 (H, W, 3)."""
    height = np.float32(scene.rng.uniform(0.25, 0.85)) * _uneven(scene)
    light = np.maximum(scene.surface + (245 - scene.surface) * height, scene.surface + np.float32(12))
    brightened: FloatArray = scene.surface + coverage[..., None] * (np.minimum(light, 252) - scene.surface)
    return brightened


def tinted(scene: Scene, coverage: FloatArray) -> FloatArray:
    """Return the surface in another colour of about the same brightness, float32 (H, W, 3)."""
    hue = scene.rng.uniform(0, 2 * np.pi) + np.array([0.0, 2.0, 4.0]) * np.pi / 3
    tint = (np.cos(hue) * scene.rng.uniform(28, 80)).astype(np.float32)
    opacity = np.float32(scene.rng.uniform(0, 0.5))  # of the stain, behind which the texture is weaker
    mean = np.float32(opacity) * (scene.surface.mean((0, 1)) - scene.surface)
    stained: FloatArray = scene.surface + coverage[..., None] * (tint * _uneven(scene) + mean)
    return stained


def retextured(scene: Scene, coverage: FloatArray) -> FloatArray:
    """Return the surface blurred, roughened, or of another material, whichever of them can be seen."""
    for change in scene.rng.permutation(3):
        changed = scene.surface + coverage[..., None] * (TEXTURES[change](scene) - scene.surface)
        if _difference(scene.surface, changed, coverage) >= VISIBLE:
            return changed
    return changed


APPEARANCES: dict[str, Callable[[Scene, FloatArray], FloatArray]] = {
    "darker": darker,
    "brighter": brighter,
    "tinted": tinted,
    "retextured": retextured,
}
GEOMETRIES: dict[str, Callable[[Scene], FloatArray]] = {"line": line, "spot": spot, "strip": strip, "patch": patch}
KINDS = tuple(f"{appearance}_{geometry}" for geometry in GEOMETRIES for appearance in APPEARANCES)


def paint_defect(scene: Scene, kind: str, taken: FloatArray) -> FloatArray:
    """Paint a defect of ``kind``, a name in ``KINDS``, and return its coverage, float32 (H, W) in 0..1.

    Nothing is painted, and the coverage is 0, where no try covers a pixel visibly outside of ``taken`` (H, W).
    """
    appearance, geometry = kind.split("_")
    for _ in range(4):
        coverage = GEOMETRIES[geometry](scene)
        if (coverage > 0.5).sum() < 6 or ((coverage > 0.1) & (taken > 0.1)).any():
            continue
        changed = APPEARANCES[appearance](scene, coverage)
        if _difference(scene.surface, changed, coverage) >= VISIBLE:
            scene.surface[...] = changed
            return coverage
    return np.zeros_like(taken)


def _difference(before: FloatArray, after: FloatArray, coverage: FloatArray) -> float:
    """Return the mean difference of two surfaces under a coverage, of the channel that differs most."""
    inside = coverage > 0.5
    return float(np.abs(np.clip(after[inside], 0, 255) - np.clip(before[inside], 0, 255)).mean(0).max())


def _blurred(scene: Scene) -> FloatArray:
    colors = Image.fromarray(np.clip(scene.surface, 0, 255).astype(np.uint8))
    radius = float(scene.rng.uniform(0.012, 0.03)) * scene.unit
    return np.asarray(colors.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)


def _roughened(scene: Scene) -> FloatArray:
    angle, stretch = float(scene.rng.uniform(0, np.pi)), float(scene.rng.choice([1, 8]))
    noise = scene.noise(float(scene.rng.uniform(0.003, 0.012)), angle, stretch)
    return scene.surface + (np.float32(scene.rng.uniform(14, 40)) * noise)[..., None]


def _of_another_material(scene: Scene) -> FloatArray:
    """Return another surface with the mean colour and the contrast of this one."""
    other = Scene(scene.rng, np.zeros_like(scene.surface), scene.height, scene.width)
    MATERIALS[str(scene.rng.choice(list(MATERIALS)))](other)
    contrast = (scene.surface.std() + 12) / (other.surface.std() + 1)
    matched: FloatArray = scene.surface.mean((0, 1)) + (other.surface - other.surface.mean((0, 1))) * contrast
    return matched


TEXTURES = (_blurred, _roughened, _of_another_material)


def _uneven(scene: Scene) -> FloatArray:
    """Return a factor (H, W, 1) around 1, even or cloudy."""
    strength = np.float32(scene.rng.uniform(0, 0.35) * (scene.rng.random() < 0.6))
    factor: FloatArray = np.clip(1 + strength * scene.noise(float(scene.rng.uniform(0.01, 0.05))), 0.3, 1.3)
    return factor[..., None]


def _inside(scene: Scene, distance: FloatArray, ragged: float, grain: float) -> FloatArray:
    """Return the coverage of where ``distance`` (H, W) to an outline is negative, the outline made ragged by noise."""
    outline = distance + np.float32(ragged) * scene.noise(grain)
    softness = np.float32(scene.rng.uniform(0.006, 0.02))
    return smooth_step(0.5 - outline / softness)


def _near(rng: np.random.Generator, centre: Point, reach: float) -> Point:
    shift = rng.uniform(-reach, reach, 2)
    return (centre[0] + float(shift[0]), centre[1] + float(shift[1]))


def _wander(scene: Scene, start: Point, heading: float, width: float, length: float) -> Polyline:
    """Return a line of ``length`` that leaves ``start`` towards ``heading`` and wanders."""
    step, bend, (x, y) = 0.025, 0.0, start
    wildness = float(scene.rng.uniform(0, 0.25))
    polyline: Polyline = []
    for _ in range(math.ceil(length / step) + 1):
        polyline.append(((x, y), width * float(scene.rng.uniform(0.75, 1.2))))
        bend = 0.7 * bend + float(scene.rng.normal(0, wildness))
        x, y = x + step * math.cos(heading + bend), y + step * math.sin(heading + bend)
    return polyline
