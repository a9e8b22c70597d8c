"""The pictures that the weights ``surfaces`` of FlexUNet were trained on: many materials, sixteen kinds of defects.

The generator is frozen: a change of what it draws needs a new name for the weights. It shares the canvas of the demo
data set, not its tiles and defects.
"""

import numpy as np

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import UInt8Array
from flexunet_pl.data.synthetic.anomalies import KINDS, paint_defect
from flexunet_pl.data.synthetic.materials import MATERIALS
from flexunet_pl.data.synthetic.surface import Scene

# One class for each kind, so that the network is trained as it is used: one softmax over background and classes.
CLASSES = ("background", *KINDS)
SMALLEST_SIDE = 32
GOOD_EVERY = 4
SECOND_DEFECT_SHARE = 0.4
GREY_SHARE = 0.25


def plan_of(index: int) -> tuple[str, str | None]:
    """Return the material and the first defect, None for a good one, of a picture.

    One picture of four is good. The others show each defect on each material once in 256 pictures.
    """
    materials = list(MATERIALS)
    turn, position = divmod(index, GOOD_EVERY)
    if position == GOOD_EVERY - 1:
        return materials[turn % len(materials)], None
    cycle, kind = divmod((GOOD_EVERY - 1) * turn + position, len(KINDS))
    return materials[(cycle + kind) % len(materials)], KINDS[kind]


def draw_picture(size: tuple[int, int], index: int, seed: int) -> tuple[UInt8Array, UInt8Array]:
    """Draw one picture and its mask; the same arguments give the same picture.

    Args:
        size: (height, width) in pixels, each at least 32.
        index: Which picture, from 0; material and first defect follow from it.
        seed: Which world of pictures, from 0.

    Returns:
        image uint8 (H, W, 3), 0..255, and mask_index uint8 (H, W), positions in ``CLASSES``.

    Raises:
        UserError: If a number is out of its range.
    """
    if min(size) < SMALLEST_SIDE:
        raise UserError(f"size={list(size)} (height, width): a picture has {SMALLEST_SIDE} pixels a side or more")
    for name, value in {"index": index, "seed": seed}.items():
        if value < 0:
            raise UserError(f"{name}={value}: must be 0 or more")
    rng = np.random.default_rng([seed, index])
    scene = Scene(rng, np.zeros((*size, 3), dtype=np.float32), *size)
    material, first = plan_of(index)
    MATERIALS[material](scene)
    # A camera without colour would hide a change of colour.
    if is_grey := rng.random() < GREY_SHARE and (first is None or not first.startswith("tinted")):
        scene.surface[...] = scene.surface.mean(-1, keepdims=True)
    mask_index = np.zeros(size, dtype=np.uint8)
    if first is not None:
        kinds = [first]
        if rng.random() < SECOND_DEFECT_SHARE:
            kinds.append(str(rng.choice([kind for kind in KINDS if not (is_grey and kind.startswith("tinted"))])))
        taken = np.zeros(size, dtype=np.float32)
        for kind in kinds:
            coverage = paint_defect(scene, kind, taken)
            mask_index[coverage > 0.5] = CLASSES.index(kind)
            taken = np.maximum(taken, coverage)
    return _photograph(scene), mask_index


def _photograph(scene: Scene) -> UInt8Array:
    """Return the surface under uneven light, with the noise of a sensor, as uint8 (H, W, 3)."""
    rng = scene.rng
    slopes = rng.normal(0, 0.08, size=2).astype(np.float32)
    light = np.float32(rng.uniform(0.85, 1.15)) * (1 + slopes[0] * scene.x + slopes[1] * scene.y)
    noise = rng.standard_normal(scene.surface.shape, dtype=np.float32) * np.float32(rng.uniform(0.5, 4))
    seen: UInt8Array = np.clip(np.rint(scene.surface * light[..., None] + noise), 0, 255).astype(np.uint8)
    return seen
