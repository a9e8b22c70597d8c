"""How an image gets to the working size, and its mask back: one rule for every stage."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array

Value = TypeVar("Value", np.uint8, np.float32)

RESIZE_RULES = ("stretch", "letterbox", "none")


@dataclass(frozen=True)
class Sizing:
    """The working size and the rule that leads there.

    Attributes:
        height: Working height in pixels.
        width: Working width in pixels.
        rule: "stretch" (bilinear, aspect ignored), "letterbox" (scaled to fit, aspect kept, padded right and bottom),
            or "none" (native size; height and width do not matter).
    """

    height: int
    width: int
    rule: str = "stretch"

    def __post_init__(self) -> None:
        """Raise UserError if a side is below 1 or the rule is unknown."""
        if self.height < 1 or self.width < 1:
            raise UserError(f"data.image_size=[{self.height}, {self.width}] must be at least 1 a side")
        if self.rule not in RESIZE_RULES:
            raise UserError(f"data.resize={self.rule!r}; choose from {', '.join(RESIZE_RULES)}")

    def content_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image of this size has at the working size, padding left out."""
        if self.rule == "none":
            return height, width
        if self.rule == "stretch":
            return self.height, self.width
        scale = min(self.height / height, self.width / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def fit_image(self, image: UInt8Array) -> UInt8Array:
        """Map an image uint8 (H, W, C) to the working size: bilinear, padding by replication of the last pixels."""
        size = self.content_size(*image.shape[:2])
        scaled = image if image.shape[:2] == size else resize_bilinear(image, size)
        return self._padded(scaled, mode="edge")

    def fit_mask(self, mask_index: UInt8Array) -> UInt8Array:
        """Map a mask uint8 (H, W) to the working size: nearest neighbour, padding is ignore (255)."""
        scaled = resize_nearest(mask_index, self.content_size(*mask_index.shape))
        return self._padded(scaled, mode="constant", constant_values=IGNORE_INDEX)

    def restore_mask(self, mask_index: UInt8Array, size: tuple[int, int]) -> UInt8Array:
        """Map a mask uint8 at the working size back to an image's own ``size`` (height, width)."""
        height, width = self.content_size(*size)
        return resize_nearest(mask_index[:height, :width], size)

    def _padded(self, array: UInt8Array, **how: object) -> UInt8Array:
        if self.rule != "letterbox":
            return array
        missing = [(0, self.height - array.shape[0]), (0, self.width - array.shape[1])]
        missing += [(0, 0)] * (array.ndim - 2)
        return np.pad(array, missing, **how)  # type: ignore[call-overload,no-any-return]  # numpy types each mode alone


def resize_bilinear(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """Resize an image uint8 (H, W, C) to ``size`` (height, width) as Pillow does."""
    height, width = size

    def resized(pixels: UInt8Array) -> UInt8Array:
        return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))

    if image.shape[2] == 3:
        return resized(image)
    # Plane by plane: Pillow would weigh the colours of four channels by the last, as if it were alpha.
    return np.stack([resized(image[..., channel]) for channel in range(image.shape[2])], axis=2)


def resize_nearest(plane: npt.NDArray[Value], size: tuple[int, int]) -> npt.NDArray[Value]:
    """Resize a mask uint8 (H, W), or a plane float32 (H, W), to ``size`` (height, width) by nearest neighbour."""
    if plane.shape == size:
        return plane
    return np.array(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.NEAREST))
