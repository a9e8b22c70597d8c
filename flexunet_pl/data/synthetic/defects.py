"""The five defects of a made-up tile: each paints itself on a scene and says which pixels it covers."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from flexunet_pl.data.synthetic.surface import BoolArray, FloatArray, Point, Polyline, Scene, smooth_step

# How far from the picture's centre, as a share of the half sides, the middle of a defect may be.
REACH = 0.68


def crack(scene: Scene) -> BoolArray:
    """Paint dark thin lines that run from a junction over the edges of the tile, sometimes with a bright chip."""
    rng = scene.rng
    junction = scene.place(0.6)
    heading = float(rng.uniform(0, 2 * np.pi))
    turns = (0.0, float(rng.uniform(2.6, 3.6))) if rng.random() < 0.3 else (0.0, *rng.uniform((1.7, 3.8), (2.6, 4.6)))
    # A hairline is 3 pixels wide at 512 x 512, a wide crack 9; a branch is thinner than the main crack.
    width = float(rng.uniform(0.006, 0.017))
    arms = [
        _wander(scene, junction, heading + turn, width * (0.55 if branch == 2 else 1))
        for branch, turn in enumerate(turns)
    ]
    shoulder = scene.lines(arms, widen=1.9, smallest=2.6)
    core = scene.lines(arms, widen=1.0, smallest=1.7)
    scene.paint(0.6 * shoulder, (92, 84, 76))
    if rng.random() < 0.1:
        scene.paint(core, (150, 138, 122))
        scene.paint(scene.lines(arms, widen=0.35, smallest=0.6), (52, 44, 40))
    else:
        depth = rng.uniform(12, 38)
        scene.paint(core, (depth + 3, depth, depth))
    mask = scene.lines(arms, widen=1.5, smallest=2.0) > 0.45
    if rng.random() < 0.3:
        along, across = scene.turned(junction, 0)
        distance = np.hypot(along, across) + np.float32(0.01) * scene.noise(0.006)
        radius = np.float32(rng.uniform(0.025, 0.055))
        burst = smooth_step(1.4 * (1 - distance / radius))
        scene.paint(burst * (1 - core), (236, 235, 226))
        mask |= burst > 0.3
    return mask


def glue_strip(scene: Scene) -> BoolArray:
    """Paint a torn piece of milky tape: the tile shows through blurred, its rim and folds are bright."""
    rng = scene.rng
    corners = _scrap(rng, scene.place(REACH))
    coverage = scene.polygon(corners)
    opacity = np.float32(rng.uniform(0.4, 0.68))
    milk = np.array([170, 173, 164], dtype=np.float32) + np.float32(rng.uniform(-14, 12))
    veil = milk + 5 * scene.noise(0.004, angle=float(rng.uniform(0, np.pi)), stretch=4)[..., None]
    scene.paint(coverage, (1 - opacity) * _blurred_surface(scene, float(rng.uniform(0.003, 0.007))) + opacity * veil)
    outline: Polyline = [(corner, 0.003) for corner in [*corners, corners[0]]]
    caught_light = np.clip(0.4 + 0.5 * scene.noise(0.03), 0, 0.9)
    scene.paint(caught_light * scene.lines([outline]) * coverage, (214, 216, 205))
    folds: list[Polyline] = []
    for _ in range(rng.integers(0, 4)):
        start, end = rng.choice(len(corners), size=2, replace=False)
        share = rng.uniform(0.1, 0.9, size=2)
        middle = np.mean(corners, axis=0)
        points = [share[0] * np.array(corners[start]) + (1 - share[0]) * middle, np.array(corners[end])]
        folds.append([((float(x), float(y)), float(rng.uniform(0.002, 0.006))) for x, y in points])
    scene.paint(0.75 * scene.lines(folds) * coverage, (226, 227, 216))
    return coverage > 0.5


def gray_stroke(scene: Scene) -> BoolArray:
    """Paint a short stroke of a dark crayon: bluish black, grainy, with a ragged edge."""
    rng = scene.rng
    angle = float(rng.uniform(0, np.pi))
    along, across = scene.turned(scene.place(REACH), angle)
    half_length = np.float32(rng.uniform(0.02, 0.19))
    radius = np.float32(rng.uniform(0.05, 0.095))
    bent = across - np.float32(rng.uniform(-1.6, 1.6)) * along**2
    distance = np.hypot(np.maximum(np.abs(along) - half_length, 0), bent) - radius
    distance += np.float32(0.014) * scene.noise(0.02) + np.float32(0.012) * scene.noise(0.006, angle, stretch=3)
    inside = smooth_step(0.5 - distance / np.float32(0.02))
    grain = scene.noise(0.003, angle + float(rng.uniform(0.3, 1.2)), stretch=2)
    # Crayon sticks to the heights of the surface, least near the edge of the stroke.
    cover = inside * np.clip(np.float32(rng.uniform(0.75, 0.95)) + 0.16 * grain, 0, 1)
    shade = float(rng.uniform(38, 54)) + 11 * scene.noise(0.002)
    scene.paint(cover, shade[..., None] + np.array([-2, 0, 3], dtype=np.float32))
    return inside > 0.5


def oil(scene: Scene) -> BoolArray:
    """Paint a transparent yellow puddle: specks stay visible, more saturated, with thin glints near the edge."""
    rng = scene.rng
    centre = scene.place(REACH - 0.1)
    along, across = scene.turned(centre, float(rng.uniform(0, np.pi)))
    along = along / np.float32(rng.uniform(1.0, 1.35))
    around = np.arctan2(across, along)
    radius = float(rng.uniform(0.12, 0.25))
    outline = np.full_like(around, 1)
    for wave in range(2, 6):
        outline += np.float32(rng.normal(0, 0.16 / wave)) * np.cos(wave * around + np.float32(rng.uniform(0, 6.3)))
    distance = radius * outline - np.hypot(along, across)
    if rng.random() < 0.25:
        tail = [_wander(scene, centre, float(rng.uniform(0, 2 * np.pi)), 0.06, length=radius + 0.2)]
        distance = np.maximum(distance, 0.03 * (2 * scene.lines(tail) - 1))
    distance += np.float32(0.004) * scene.noise(0.008)
    inside = smooth_step(0.5 + distance / np.float32(rng.uniform(0.012, 0.035)))
    strength = np.float32(rng.uniform(0.75, 1.15))
    thick = strength * (1 + 0.12 * scene.noise(0.03))[..., None]
    yellow = np.array([0.02, -0.05, -0.24], dtype=np.float32)
    wet = (scene.surface - 105) * np.float32(1.12) + 105
    scene.paint(inside, wet * np.clip(1 + yellow * thick, 0.2, 1.1) + np.float32(rng.uniform(-8, 8)))
    rim = np.exp(-((distance / np.float32(0.006)) ** 2)) * inside
    scene.paint(0.35 * rim, (88, 80, 44))
    glints = [_glint(scene, centre, radius) for _ in range(rng.integers(0, 4))]
    scene.paint(0.8 * scene.lines(glints) * inside, (222, 216, 150))
    return inside > 0.5


def rough(scene: Scene) -> BoolArray:
    """Paint a scuffed band: the pattern is rubbed to an even grey with fine scratches and bright dust."""
    rng = scene.rng
    angle = float(rng.uniform(0, np.pi))
    along, across = scene.turned(scene.place(0.5), angle)
    half_length = np.float32(rng.uniform(0.15, 0.5))
    half_width = np.float32(rng.uniform(0.07, 0.17))
    taper = 1 - np.float32(rng.uniform(-0.5, 0.5)) * along / half_length
    distance = np.maximum(np.abs(along) - half_length, np.abs(across) - half_width * np.clip(taper, 0.4, 1.6))
    distance += np.float32(0.025) * scene.noise(0.03) + np.float32(0.012) * scene.noise(0.01, angle, stretch=3)
    inside = smooth_step(0.5 - distance / np.float32(0.05))
    scratches = scene.noise(0.0025, angle + float(rng.uniform(-0.15, 0.15)), stretch=14)
    worn = np.clip(np.float32(rng.uniform(0.55, 0.8)) + 0.14 * scratches, 0, 0.95)
    dust = 5 * scene.noise(0.002) + 6 * scratches
    grey = float(rng.uniform(88, 106)) + dust
    scene.paint(inside * worn, grey[..., None] + np.array([-1, 1, 0], dtype=np.float32))
    groove = np.exp(-(((across - 0.01 * scene.noise(0.1)) / np.float32(0.012)) ** 2)) * inside
    scene.paint(0.35 * groove, (66, 70, 70))
    sparkle = smooth_step(scene.drops(900, 0.0016, 0, 1) - 0.5) * inside
    scene.paint(0.5 * sparkle, (205, 205, 196))
    return inside > 0.5


DEFECTS: dict[str, Callable[[Scene], BoolArray]] = {
    "crack": crack,
    "glue_strip": glue_strip,
    "gray_stroke": gray_stroke,
    "oil": oil,
    "rough": rough,
}


def _wander(scene: Scene, start: Point, heading: float, width: float, length: float | None = None) -> Polyline:
    """Return a line that leaves ``start`` (x, y) towards ``heading`` and wanders until ``length`` or the edge."""
    rng = scene.rng
    rows, columns = scene.surface.shape[:2]
    step = 0.03
    reach = (rows + columns) / scene.unit if length is None else length
    (x, y), thickness, bend = start, width, 0.0
    polyline: Polyline = []
    for _ in range(math.ceil(reach / step) + 1):
        polyline.append(((x, y), thickness))
        if max(abs(x) - columns / scene.unit / 2, abs(y) - rows / scene.unit / 2) > step:
            break
        bend = 0.75 * bend + float(rng.normal(0, 0.09))
        thickness = min(max(thickness * float(rng.uniform(0.88, 1.11)), 0.5 * width), 1.4 * width)
        x, y = x + step * math.cos(heading + bend), y + step * math.sin(heading + bend)
    return polyline


def _scrap(rng: np.random.Generator, centre: Point) -> list[Point]:
    """Return the corners of a piece torn off a strip: 3 or 4 sides, one of them frayed."""
    half = rng.uniform((0.07, 0.06), (0.2, 0.15))
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    corners += rng.normal(0, 0.22, size=corners.shape) * half
    if rng.random() < 0.35:
        corners = np.delete(corners, rng.integers(4), axis=0) * 1.15
    share = np.sort(rng.uniform(0.02, 0.98, size=9))[:, None]
    frayed = corners[-1] + share * (corners[0] - corners[-1]) + rng.normal(0, 0.006, size=(9, 2))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = np.concatenate([corners, frayed]) @ turn + centre
    return [(float(x), float(y)) for x, y in outline]


def _glint(scene: Scene, centre: Point, radius: float) -> Polyline:
    """Return a short arc inside a puddle's edge."""
    rng = scene.rng
    start, sweep = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7)
    distance = radius * rng.uniform(0.55, 0.95)
    angles = start + np.linspace(0, sweep, 8)
    width = float(rng.uniform(0.0015, 0.004))
    return [
        ((centre[0] + distance * math.cos(angle), centre[1] + distance * math.sin(angle)), width) for angle in angles
    ]


def _blurred_surface(scene: Scene, blur: float) -> FloatArray:
    """Return the colours so far blurred by ``blur`` units, float32 (H, W, 3)."""
    colors = Image.fromarray(np.clip(scene.surface, 0, 255).astype(np.uint8))
    return np.asarray(colors.filter(ImageFilter.GaussianBlur(blur * scene.unit)), dtype=np.float32)
