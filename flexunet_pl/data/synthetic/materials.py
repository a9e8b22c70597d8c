"""Twelve families of surfaces for pretraining: each paints a scene with a material of random colours and scale."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from flexunet_pl.data.synthetic.surface import FloatArray, Polyline, Scene, smooth_step

Color = npt.NDArray[np.float32]


def speckled_tile(scene: Scene) -> None:
    """Paint drops of two sizes on a cloudy ground."""
    scale = _scale(scene)
    share = np.ones(scene.surface.shape[:2], dtype=np.float32)
    for count, radius in ((900, 0.009), (2400, 0.005)):
        drops = scene.drops(count / scale**2, radius * scale, angle=_angle(scene), stretch=1.2)
        share *= 1 - np.float32(0.85) * smooth_step(drops)
    _mix(scene, share + 0.05 * scene.noise(0.05), *_tones(scene, 50, 120))


def wood(scene: Scene) -> None:
    """Paint growth rings that wander along the grain, and fine fibres."""
    angle, scale = _angle(scene), _scale(scene)
    _, across = scene.turned((0.0, 0.0), angle)
    bent = across + np.float32(scene.rng.uniform(0.01, 0.05)) * scene.noise(0.08 * scale, angle, stretch=4)
    rings = 0.5 + 0.5 * np.sin(bent * np.float32(2 * np.pi * scene.rng.uniform(5, 16) / scale))
    fibres = scene.noise(0.003 * scale, angle, stretch=25)
    _mix(scene, 0.6 * rings**2 + 0.2 + 0.18 * fibres, *_tones(scene, 25, 80, warmth=22))


def brushed_metal(scene: Scene) -> None:
    """Paint long parallel scratches under an uneven shine."""
    angle, scale = _angle(scene), _scale(scene)
    _, across = scene.turned((0.0, 0.0), angle)
    shine = np.cos(across * np.float32(scene.rng.uniform(1, 4)) + np.float32(scene.rng.uniform(0, 6)))
    scratches = scene.noise(0.0028 * scale, angle, stretch=40) + 0.6 * scene.noise(0.01 * scale, angle, stretch=20)
    _mix(scene, 0.5 + 0.25 * shine + 0.16 * scratches, *_tones(scene, 35, 90, warmth=5))


def weave(scene: Scene) -> None:
    """Paint threads that cross, each a little different."""
    angle, scale = _angle(scene), _scale(scene)
    along, across = scene.turned((0.0, 0.0), angle)
    pitch = np.float32(2 * np.pi / (scene.rng.uniform(0.022, 0.05) * scale))
    warp, weft = (
        np.sin(axis * pitch + 0.5 * scene.noise(0.03, angle + turn, stretch=5))
        for axis, turn in ((along, np.pi / 2), (across, 0.0))
    )
    over = smooth_step(0.5 + 3 * np.sin(along * pitch / 2) * np.sin(across * pitch / 2))
    threads = over * np.abs(warp) + (1 - over) * np.abs(weft)
    _mix(scene, threads + 0.1 * scene.noise(0.004), *_tones(scene, 40, 110))


def leather(scene: Scene) -> None:
    """Paint bulging cells between dark creases."""
    scale = _scale(scene)
    creases = np.minimum(np.abs(scene.noise(0.012 * scale)), np.abs(scene.noise(0.016 * scale)))
    _mix(scene, smooth_step(2.2 * creases) + 0.08 * scene.noise(0.05), *_tones(scene, 30, 80, warmth=18))


def concrete(scene: Scene) -> None:
    """Paint clouds of several sizes with dark pores."""
    scale = _scale(scene)
    clouds = 0.5 * scene.noise(0.1) + 0.5 * scene.noise(0.025 * scale) + 0.6 * scene.noise(0.004 * scale)
    pores = smooth_step(scene.drops(float(scene.rng.uniform(20, 160)), 0.006 * scale, 0.0, 1.0) - 0.3)
    _mix(scene, 0.6 + 0.2 * clouds - 0.7 * pores, *_tones(scene, 40, 90, warmth=6))


def carpet(scene: Scene) -> None:
    """Paint dense tufts of two yarns, in rows."""
    angle, scale = _angle(scene), _scale(scene)
    _, across = scene.turned((0.0, 0.0), angle)
    rows = np.sin(across * np.float32(2 * np.pi / (scene.rng.uniform(0.02, 0.06) * scale)))
    tufts = scene.noise(0.006 * scale, angle, stretch=1.6) + 0.6 * scene.noise(0.003)
    dark, bright = _tones(scene, 40, 120, warmth=20)
    _mix(scene, 0.5 + 0.2 * tufts + np.float32(scene.rng.uniform(0, 0.2)) * rows, dark, bright)
    yarn = smooth_step(0.5 + 2 * scene.noise(0.01 * scale)) * np.float32(scene.rng.uniform(0, 0.5))
    scene.paint(yarn, _color(scene, 20))


def granite(scene: Scene) -> None:
    """Paint grains of three minerals with sharp borders."""
    scale = _scale(scene)
    dark, bright = _tones(scene, 80, 160)
    _mix(scene, smooth_step(0.5 + 5 * scene.noise(0.007 * scale)), dark, bright)
    scene.paint(smooth_step(4 * (scene.noise(0.009 * scale) - 0.6)), _color(scene, 25))
    scene.paint(smooth_step(4 * (scene.noise(0.004 * scale) - 1.2)), dark - 15)


def plastic(scene: Scene) -> None:
    """Paint an even colour with soft shading and a faint orange peel."""
    shading = 0.35 * scene.noise(float(scene.rng.uniform(0.15, 0.4)))
    peel = np.float32(scene.rng.uniform(0, 0.12)) * scene.noise(0.006 * _scale(scene))
    _mix(scene, 0.5 + shading + peel, *_tones(scene, 12, 40, warmth=40))


def mesh(scene: Scene) -> None:
    """Paint a grid of wires, bright or dark, before a ground that is out of focus."""
    angle, scale = _angle(scene), _scale(scene)
    along, across = scene.turned((0.0, 0.0), angle)
    pitch = np.float32(scene.rng.uniform(0.05, 0.12) * scale)
    thickness = np.float32(scene.rng.uniform(0.12, 0.35))
    wobble = np.float32(0.04) * scene.noise(0.05)
    wires = np.zeros(scene.surface.shape[:2], dtype=np.float32)
    for axis in (along, across):
        distance = np.abs((axis / pitch + wobble) % 1 - 0.5)
        wires = np.maximum(wires, smooth_step(0.5 + (thickness - distance) * 8))
    dark, bright = _tones(scene, 70, 150)
    ground, metal = (dark, bright) if scene.rng.random() < 0.5 else (bright, dark)
    _mix(scene, wires + 0.07 * scene.noise(0.005), ground, metal)


def cast_metal(scene: Scene) -> None:
    """Paint a grainy relief lit from one side."""
    angle, scale = _angle(scene), _scale(scene)
    relief = scene.noise(0.012 * scale) + 0.7 * scene.noise(0.005 * scale)
    slope_y, slope_x = np.gradient(relief)
    lit: FloatArray = slope_x * np.float32(np.cos(angle)) + slope_y * np.float32(np.sin(angle))
    lit /= lit.std() + np.float32(1e-6)
    _mix(scene, 0.5 + 0.18 * lit + 0.12 * scene.noise(0.12), *_tones(scene, 40, 100, warmth=6))


def paper(scene: Scene) -> None:
    """Paint a fine fleece with single fibres, some bright, some dark."""
    scale = _scale(scene)
    fleece: FloatArray = 0.5 * scene.noise(0.003) + 0.5 * scene.noise(0.02 * scale)
    _mix(scene, 0.5 + 0.25 * fleece, *_tones(scene, 15, 50, warmth=10))
    for tone in (np.float32(-28), np.float32(24)):
        fibres: list[Polyline] = []
        for _ in range(int(scene.rng.integers(15, 60))):
            (x, y), heading = scene.place(1.0), _angle(scene)
            points = [(x, y)]
            for _ in range(4):
                heading += float(scene.rng.normal(0, 0.4))
                x, y = x + 0.025 * float(np.cos(heading)), y + 0.025 * float(np.sin(heading))
                points.append((x, y))
            fibres.append([(point, 0.003) for point in points])
        scene.surface[...] += tone * (scene.lines(fibres, smallest=0.6) * np.float32(0.8))[..., None]


MATERIALS: dict[str, Callable[[Scene], None]] = {
    "speckled_tile": speckled_tile,
    "wood": wood,
    "brushed_metal": brushed_metal,
    "weave": weave,
    "leather": leather,
    "concrete": concrete,
    "carpet": carpet,
    "granite": granite,
    "plastic": plastic,
    "mesh": mesh,
    "cast_metal": cast_metal,
    "paper": paper,
}


def _scale(scene: Scene) -> float:
    return float(np.exp(scene.rng.uniform(-0.35, 0.7)))


def _angle(scene: Scene) -> float:
    return float(scene.rng.uniform(0, 2 * np.pi))


def _color(scene: Scene, warmth: float) -> Color:
    """Return a random colour whose channels differ by about ``warmth``."""
    tint = scene.rng.normal(0, warmth, 3)
    color: Color = (scene.rng.uniform(50, 205) + tint - tint.mean()).astype(np.float32)
    return color


def _tones(scene: Scene, least: float, most: float, warmth: float = 12.0) -> tuple[Color, Color]:
    """Return a dark and a bright colour, apart by between ``least`` and ``most`` levels."""
    half = scene.rng.uniform(least, most) / 2
    middle = scene.rng.uniform(30 + half, 225 - half)
    tint = scene.rng.normal(0, warmth, 3)
    dark, bright = (middle + side * half + scene.rng.uniform(0.5, 1) * (tint - tint.mean()) for side in (-1, 1))
    return dark.astype(np.float32), bright.astype(np.float32)


def _mix(scene: Scene, share: FloatArray, dark: Color, bright: Color) -> None:
    """Fill the scene with ``dark`` where ``share`` (H, W) is 0 and ``bright`` where it is 1."""
    scene.surface[...] = dark + np.clip(share, -0.4, 1.4).astype(np.float32)[..., None] * (bright - dark)
