"""One resampling for all geometric changes of a sample: bilinear for the image, nearest for the mask."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from flexunet_pl.data.augment.kinds import Coordinates, Field, FloatArray, Homography, Planes, Radial, UInt8Array
from flexunet_pl.data.palette import IGNORE_INDEX

Warp = Homography | Radial | Field


def source_points(warps: Sequence[Warp], height: int, width: int, rng: np.random.Generator) -> Coordinates:
    """Draw the parameters of ``warps`` and return where each output pixel looks in the source, float32 (H, W) each.

    The picture first undergoes the homographies, then the radial changes, in the order given; fields come last and
    add up.
    """
    matrix: FloatArray = np.eye(3)
    radials: list[Callable[[Coordinates], Coordinates]] = []
    x = torch.arange(width, dtype=torch.float32).expand(height, width)
    y = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    for warp in warps:
        match warp:
            case Homography():
                matrix = matrix @ warp.matrix(height, width, rng)
            case Radial():
                radials.append(warp.source(height, width, rng))
            case Field():
                shift_x, shift_y = warp.shifts(height, width, rng)
                x, y = x + shift_x, y + shift_y
    # What was done last to the picture is undone first on the way back to the source.
    for radial in reversed(radials):
        x, y = radial((x, y))
    return _project(matrix, x, y)


def _project(matrix: FloatArray, x: torch.Tensor, y: torch.Tensor) -> Coordinates:
    if np.array_equal(matrix, np.eye(3)):
        return x, y
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    across, down = a * x + b * y + c, d * x + e * y + f
    if g == 0 and h == 0:
        return across / i, down / i
    # Positive all over the frame; a field may lead a point beyond the horizon of an extreme perspective.
    depth = (g * x + h * y + i).clamp_(min=1e-6)
    return across / depth, down / depth


def sample(image: UInt8Array, mask: UInt8Array, points: Coordinates, *, ignore_outside: bool) -> Planes:
    """Read image (C, H, W) and mask (H, W) at ``points`` (h, w); return uint8 (C, h, w) and (h, w).

    Outside the source both show their mirror image, so every label stays true; with ``ignore_outside`` the image
    repeats its edge and the mask is 255 there.
    """
    height, width = mask.shape
    x, y = points
    if not ignore_outside:
        x, y = _mirrored(x, width), _mirrored(y, height)
    # Only the part of the source that the points reach is converted: a small crop of a large picture is cheap.
    rows, columns = _reached(y, height), _reached(x, width)
    image_part = image[:, rows, columns].astype(np.float32, order="C")
    mask_part = mask[rows, columns].astype(np.float32, order="C")[None]
    grid = torch.empty(*x.shape, 2)
    for axis, (position, part) in enumerate(((x, columns), (y, rows))):
        scale = 2 / (part.stop - part.start)
        torch.mul(position, scale, out=grid[..., axis]).add_((0.5 - part.start) * scale - 1)
    new_image = _read(image_part, grid, "bilinear").add_(0.5).to(torch.uint8).numpy()
    new_mask = _read(mask_part, grid, "nearest")[0].to(torch.uint8).numpy()
    if ignore_outside:
        outside = (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)
        new_mask[outside.numpy()] = IGNORE_INDEX
    return new_image, new_mask


def _mirrored(position: torch.Tensor, size: int) -> torch.Tensor:
    """Fold positions once about the outer edges of the first and the last pixel."""
    return (position + 0.5).abs_().sub_(size).abs_().neg_().add_(size - 0.5)


def _reached(position: torch.Tensor, size: int) -> slice:
    """Return the pixels of 0..``size`` around the positions, at least one."""
    first, last = (min(max(float(end), 0), size - 1) for end in position.aminmax())
    return slice(int(first), min(int(last) + 2, size))


def _read(part: npt.NDArray[np.float32], grid: torch.Tensor, mode: str) -> torch.Tensor:
    """Read float32 (C, H, W) at ``grid`` (h, w, 2), -1..1 from edge to edge; beyond it the edge repeats."""
    return torch.nn.functional.grid_sample(
        torch.from_numpy(part)[None], grid[None], mode=mode, padding_mode="border", align_corners=False
    )[0]
