"""Folders as people have them, made up: an MVTec AD category, magnets at several exposures, images and masks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from flexunet_pl.data.palette import Palette

UInt8Array = npt.NDArray[np.uint8]
PALETTE = Palette.from_mapping({"background": [0, 0, 0], "crack": [0, 0, 255], "oil": [255, 255, 0]})


def surface(seed: int, size: tuple[int, int] = (64, 64)) -> UInt8Array:
    """Return a made-up surface uint8 (H, W, 3) with structure of its own at every scale."""
    rng = np.random.default_rng(seed)
    levels = sum(
        weight * (field - field.mean()) / field.std()
        for weight, sigma in ((18.0, 1.2), (14.0, 3.0), (14.0, 8.0))
        for field in [gaussian_filter(rng.normal(size=size), sigma)]
    )
    return np.repeat((levels + 120).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def spot(size: tuple[int, int] = (64, 64), top: int = 10, left: int = 12, side: int = 9) -> npt.NDArray[np.bool_]:
    """Return bool (H, W), True in a square."""
    marked = np.zeros(size, dtype=bool)
    marked[top : top + side, left : left + side] = True
    return marked


def write_image(path: Path, pixels: UInt8Array) -> Path:
    """Write pixels as an image file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_pair(root: Path, split: str, name: str, seed: int, label: int, image: UInt8Array | None = None) -> None:
    """Write ``root/split/{images,masks}/name.png``: a surface and, for a label above 0, a square of that class."""
    pixels = surface(seed) if image is None else image
    marked = spot(pixels.shape[:2], top=8 + seed % 20, left=8 + seed * 7 % 30)
    mask_index = marked.astype(np.uint8) * np.uint8(label)
    write_image(root / split / "images" / f"{name}.png", pixels)
    write_image(root / split / "masks" / f"{name}.png", PALETTE.decode(mask_index))


def write_mvtec(root: Path, defects: Mapping[str, int], good: int = 6, size: tuple[int, int] = (64, 64)) -> Path:
    """Write a category of MVTec AD with the real tree and names.

    ``test/DEFECT/000.png`` with ``ground_truth/DEFECT/000_mask.png`` (0 and 255, one channel), ``test/good`` and
    ``train/good``, a readme and a licence.
    """
    seed = sum(map(ord, root.name)) * 1000
    for defect, count in defects.items():
        for number in range(count):
            seed += 1
            marked = spot(size, top=6 + number, left=10 + 3 * number)
            pixels = surface(seed, size)
            pixels[marked] //= 3
            write_image(root / "test" / defect / f"{number:03}.png", pixels)
            mask = marked.astype(np.uint8) * np.uint8(255)
            write_image(root / "ground_truth" / defect / f"{number:03}_mask.png", mask)
    for folder in ("train", "test"):
        for number in range(good):
            seed += 1
            write_image(root / folder / "good" / f"{number:03}.png", surface(seed, size))
    (root / "readme.txt").write_text("made up")
    (root / "license.txt").write_text("none")
    return root


def exposed(pixels: UInt8Array, gain: float, shift: int) -> UInt8Array:
    """Return a picture of the same thing: brighter or darker, its crop moved by some pixels."""
    height, width = pixels.shape[:2]
    cut = pixels[shift : height - 3 + shift % 2, 2 * shift : width - 5 + shift]
    return np.asarray((cut.astype(np.float32) * gain).clip(0, 255), dtype=np.uint8)


def write_magnets(root: Path, magnets: Mapping[str, int], exposures: int = 4) -> dict[str, str]:
    """Write class folders of magnets seen at several exposures, as magnetic-tile has them; return file -> magnet."""
    magnet_of: dict[str, str] = {}
    number = 1000
    for label, count in magnets.items():
        for magnet in range(count):
            number += 7919
            size = (120, 90 + 5 * (magnet % 3))
            pixels = surface(number, size)
            marked = spot(size, top=30, left=20 + magnet)
            if label != "MT_Free":
                pixels[marked] //= 4
            for exposure in range(exposures):
                name = f"exp{exposure + 1}_num_{number + 17 * exposure}"
                image = exposed(pixels, 0.6 + 0.25 * exposure, exposure % 3)
                mask = exposed(
                    np.repeat(marked[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255), 1, exposure % 3
                )
                grey = mask[..., 0] if label != "MT_Free" else np.zeros_like(mask[..., 0])
                write_image(root / label / "Imgs" / f"{name}.jpg", image[..., 0])
                write_image(root / label / "Imgs" / f"{name}.png", grey)
                magnet_of[f"{label}/Imgs/{name}.jpg"] = f"{label}_{magnet}"
    return magnet_of
