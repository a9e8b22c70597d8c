"""The embedded demo data set: made-up speckled tiles with five kinds of defects, any size and any number."""

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_path, write_json
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.data.synthetic.defects import DEFECTS
from flexunet_pl.data.synthetic.surface import Scene, paint_tile

TILE_PALETTE: dict[str, list[int]] = {
    "background": [0, 0, 0],
    "crack": [0, 0, 255],
    "glue_strip": [255, 0, 0],
    "gray_stroke": [0, 255, 0],
    "oil": [255, 255, 0],
    "rough": [0, 255, 255],
}
GOOD = "good"
# Kinds come in turn; one source in eleven has no defect.
KINDS = (*DEFECTS, *DEFECTS, GOOD)
SECOND_DEFECT_SHARE = 0.2

# The pictures of one source are turned by these degrees; its name gives the angle, as in the original's data sets.
TURNS = (0, 4, 356, 8)
LARGEST_TURN = 8
LARGEST_SHIFT = 0.04

SMALLEST_SIDE = 16
# Three of five sources train: in a Latin square with the kinds, so that each kind is in each split after 25 sources.
SPLITS = ("train", "valid", "test", "train", "train")
SOURCES_FOR_ALL = 27
MARKER = "synthetic.json"
FORMAT = 1


def kind_of(source: int) -> str:
    """Return what a source shows first: the name of a defect, or "good"."""
    return KINDS[source % len(KINDS)]


def draw_sample(size: tuple[int, int], source: int, variant: int, seed: int) -> tuple[UInt8Array, UInt8Array]:
    """Draw one picture of a made-up tile and its mask; the same arguments give the same picture.

    Args:
        size: (height, width) in pixels, each at least 16.
        source: Which tile, from 0; its kind of defect follows from it.
        variant: Which picture of that tile, from 0: turned and shifted a little, cut out and lit differently.
        seed: Which world of tiles, from 0.

    Returns:
        image uint8 (H, W, 3), 0..255, and mask_index uint8 (H, W), positions in TILE_PALETTE.

    Raises:
        UserError: If a number is out of its range.
    """
    _check(size, {"source": source, "variant": variant, "seed": seed})
    height, width = size
    image, mask = _draw_source((height, width), source, seed)
    rng = np.random.default_rng([seed, source, variant + 1])
    transform = _view(size, image.size, TURNS[variant % len(TURNS)], rng)
    box = (width, height)
    colors = np.asarray(
        image.transform(box, Image.Transform.AFFINE, transform, Image.Resampling.BICUBIC), dtype=np.float32
    )
    mask_index = np.array(mask.transform(box, Image.Transform.AFFINE, transform, Image.Resampling.NEAREST))
    slopes = rng.normal(0, 0.03, size=2).astype(np.float32)
    light = 1 + slopes[0] * np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    light = light + slopes[1] * np.linspace(-1, 1, width, dtype=np.float32)[:, None]
    light *= np.float32(rng.uniform(0.88, 1.12))
    sensor = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(1.6)
    return np.clip(np.rint(colors * light + sensor), 0, 255).astype(np.uint8), mask_index


def write_dataset(root: Path, images: int, size: tuple[int, int], seed: int) -> None:
    """Write a data set of made-up tiles: root/{train,valid,test}/{images,masks}/NAME.png and root/palette.yaml.

    About 60, 20 and 20 of 100 pictures go to the three splits, all pictures of one source to the same. From 27
    pictures on, every kind of defect is in every split. ``crack_7`` and ``rotated_356_crack_7`` are two pictures of
    source 7. What is there already is left as it is and what is missing is drawn, so that an interrupted call may be
    repeated and a finished one costs nothing; nothing is ever deleted.

    Args:
        root: The folder; new, empty, or written with the same numbers.
        images: How many pictures in all, at least 3.
        size: (height, width) in pixels, each at least 16.
        seed: Which world of tiles, from 0.

    Raises:
        UserError: If a number is out of its range, or root holds anything else.
    """
    _check(size, {"seed": seed})
    if images < 3:
        raise UserError(f"images={images}: a demo data set has at least 3, one for each split; ask for 3 or more")
    _claim(root, {"format": FORMAT, "images": images, "height": size[0], "width": size[1], "seed": seed})
    palette = Palette.from_mapping(TILE_PALETTE)
    if not (root / "palette.yaml").exists():
        palette.save(root / "palette.yaml")
    for picture in _plan(images):
        image_path, mask_path = picture.paths(root)
        if image_path.exists() and mask_path.exists():
            continue
        image, mask_index = draw_sample(size, picture.source, picture.variant, seed)
        _write_png(image_path, image)
        _write_png(mask_path, palette.decode(mask_index))
    _refuse_strangers(root, images)


@dataclass(frozen=True)
class _Picture:
    """One picture of the plan: where it comes from and where it goes."""

    source: int
    variant: int

    @property
    def split(self) -> str:
        turn, position = divmod(self.source, len(KINDS))
        if kind_of(self.source) == GOOD:
            return SPLITS[turn % len(SPLITS)]
        cycle, kind = divmod(turn * (len(KINDS) - 1) + position, len(DEFECTS))
        return SPLITS[(cycle + kind) % len(SPLITS)]

    @property
    def name(self) -> str:
        turn = TURNS[self.variant]
        return f"{f'rotated_{turn}_' if turn else ''}{kind_of(self.source)}_{self.source}.png"

    def paths(self, root: Path) -> tuple[Path, Path]:
        return root / self.split / "images" / self.name, root / self.split / "masks" / self.name


def _plan(images: int) -> Iterator[_Picture]:
    """Yield every picture of a data set: up to four for each source, and fewer rather than too few sources."""
    variants = min(max(images // SOURCES_FOR_ALL, 1), len(TURNS))
    return (_Picture(*divmod(number, variants)) for number in range(images))


def _claim(root: Path, parameters: dict[str, int]) -> None:
    """Mark ``root`` as a data set made with ``parameters``, or refuse it if it holds anything else."""
    marker = root / MARKER
    repair = "give another folder, or move this one away"
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{marker}: cannot be read ({error}); {repair}") from error
        if found != parameters:
            raise UserError(f"{root}: holds demo data made with {found}, not with {parameters}; {repair}")
        return
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file, but demo data needs a folder; {repair}")
    if root.exists() and (foreign := sorted(_visible(root))):
        raise UserError(f"{root}: holds other files (such as {foreign[0]}) that demo data must not mix with; {repair}")
    write_json(marker, parameters)


def _refuse_strangers(root: Path, images: int) -> None:
    """Check that the folders hold the planned files only, all of which exist by now."""
    folders = [root / split / part for split in sorted(set(SPLITS)) for part in ("images", "masks")]
    if sum(1 for folder in folders for _ in _visible(folder)) == 2 * images:
        return
    planned = {path for picture in _plan(images) for path in picture.paths(root)}
    stranger = next(folder / name for folder in folders for name in _visible(folder) if folder / name not in planned)
    raise UserError(f"{stranger}: is not of the demo data set in {root}; move it elsewhere")


def _visible(folder: Path) -> Iterator[str]:
    """Yield the names in a folder but for hidden ones, such as files that are being written."""
    return (path.name for path in folder.iterdir() if not path.name.startswith("."))


def _write_png(path: Path, colors: UInt8Array) -> None:
    with atomic_path(path) as temporary:
        # Speckles hardly compress: the default level 6 takes four times as long for files no smaller.
        Image.fromarray(colors).save(temporary, compress_level=3)


def _check(size: tuple[int, int], counts: dict[str, int]) -> None:
    if min(size) < SMALLEST_SIDE:
        raise UserError(f"size={list(size)} (height, width): a made-up tile has {SMALLEST_SIDE} pixels a side or more")
    for name, value in counts.items():
        if value < 0:
            raise UserError(f"{name}={value}: must be 0 or more")


@functools.lru_cache(maxsize=1)
def _draw_source(size: tuple[int, int], source: int, seed: int) -> tuple[Image.Image, Image.Image]:
    """Paint a tile (RGB) and its class indices (L), larger than ``size`` by what a turned and shifted view may need.

    The last one is kept, since the pictures of a source are usually drawn one after the other.
    """
    height, width = size
    cosine, sine = math.cos(math.radians(LARGEST_TURN)), math.sin(math.radians(LARGEST_TURN))
    margin = 2 * LARGEST_SHIFT * min(size) + 2
    rows, columns = (math.ceil(side) for side in (height * cosine + width * sine, width * cosine + height * sine))
    shape = (rows + math.ceil(margin), columns + math.ceil(margin))
    rng = np.random.default_rng([seed, source, 0])
    scene = Scene(rng, np.zeros((*shape, 3), dtype=np.float32), height, width)
    paint_tile(scene)
    mask_index = np.zeros(shape, dtype=np.uint8)
    classes = list(TILE_PALETTE)
    if (kind := kind_of(source)) != GOOD:
        mask_index[DEFECTS[kind](scene)] = classes.index(kind)
        if rng.random() < SECOND_DEFECT_SHARE:
            before = scene.surface.copy()
            second = str(rng.choice([other for other in DEFECTS if other != kind]))
            covered = DEFECTS[second](scene)
            # Where defects overlap, a pixel's class would be ambiguous.
            if (covered & (mask_index > 0)).any():
                scene.surface[...] = before
            else:
                mask_index[covered] = classes.index(second)
    colors = np.clip(np.rint(scene.surface), 0, 255).astype(np.uint8)
    return Image.fromarray(colors), Image.fromarray(mask_index)


def _view(
    size: tuple[int, int], canvas: tuple[int, int], degrees: int, rng: np.random.Generator
) -> tuple[float, float, float, float, float, float]:
    """Return the affine map from picture to canvas (width, height) pixels: turned, shifted, slightly enlarged."""
    height, width = size
    zoom = float(rng.uniform(1.0, 1.12))
    cosine, sine = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    shift_x, shift_y = rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, size=2) * min(size)
    centre_x, centre_y = canvas[0] / 2 + float(shift_x), canvas[1] / 2 + float(shift_y)
    return (
        cosine,
        -sine,
        centre_x - cosine * width / 2 + sine * height / 2,
        sine,
        cosine,
        centre_y - sine * width / 2 - cosine * height / 2,
    )
