"""The kinds of transforms: what each may change, and in which form it says so."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

import numpy as np
import numpy.typing as npt
import torch

from flexunet_pl.data.augment.options import number

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
Planes = tuple[UInt8Array, UInt8Array]
"""Image uint8 (C, H, W), 0..255, and mask uint8 (H, W), class index, 255 = ignore."""

Partner = Callable[[], Planes]
"""Reads another training sample with the same number of channels; called only when one is needed."""

Coordinates = tuple[torch.Tensor, torch.Tensor]
"""Columns x and rows y in pixels, float32; the centre of the pixel at the top left is (0, 0)."""


@dataclass(frozen=True)
class Transform:
    """One augmentation, applied to a sample with probability ``p``."""

    p: float = number(0.5, 0, 1)


class Mix(Transform, ABC):
    """Brings in pixels and labels of other samples."""

    @abstractmethod
    def mix(self, image: UInt8Array, mask: UInt8Array, partner: Partner, rng: np.random.Generator) -> Planes:
        """Return a new pair of the same shapes; the given arrays stay as they are."""


class Flip(Transform, ABC):
    """Moves whole pixels: exact, without resampling."""

    @abstractmethod
    def flip(self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator) -> Planes:
        """Return views of image and mask of the same shapes."""


class Homography(Transform, ABC):
    """Maps straight lines to straight lines."""

    @abstractmethod
    def matrix(self, height: int, width: int, rng: np.random.Generator) -> FloatArray:
        """Draw the float64 (3, 3) matrix that takes an output point (x, y, 1) to its source point."""


class Radial(Transform, ABC):
    """Moves points along the rays from a centre."""

    @abstractmethod
    def source(self, height: int, width: int, rng: np.random.Generator) -> Callable[[Coordinates], Coordinates]:
        """Draw the function that takes output points to their source points."""


class Field(Transform, ABC):
    """Moves every pixel by its own, smoothly varying shift."""

    @abstractmethod
    def shifts(self, height: int, width: int, rng: np.random.Generator) -> Coordinates:
        """Draw the shifts in x and y, float32 (H, W) each, that lead from an output pixel to its source point."""


class Tone(Transform, ABC):
    """Maps each pixel value to another, the same for all pixels and channels."""

    @abstractmethod
    def curve(self, levels: FloatArray, mean: float, rng: np.random.Generator) -> FloatArray:
        """Map float64 (256,) output levels, 0..255 and perhaps beyond, to new ones.

        Args:
            levels: The output level of each pixel value so far.
            mean: The mean of the image at these levels.
            rng: Source of every random number.
        """


class Color(Transform, ABC):
    """Mixes the three channels of a colour image; images with another number of channels are left as they are."""

    @abstractmethod
    def matrix(self, rng: np.random.Generator) -> FloatArray:
        """Draw the float64 (3, 3) matrix that takes a colour (red, green, blue) to its new one."""


class Filter(Transform, ABC):
    """Changes an image in any other way; the mask stays."""

    @abstractmethod
    def filter(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Return a new image uint8 of the same shape (C, H, W); the given one stays as it is."""


KINDS = (Mix, Homography, Radial, Field, Flip, Tone, Color, Filter)
"""All kinds, in the order in which they act on a sample."""

TRANSFORMS: dict[str, type[Transform]] = {}
"""All transforms by their name in ``data.augment``, in the order in which they act."""

TransformT = TypeVar("TransformT", bound=Transform)


@dataclass_transform(frozen_default=True)
def register_transform(name: str) -> Callable[[type[TransformT]], type[TransformT]]:
    """Make a class of one of ``KINDS`` a frozen dataclass, unless it is one, and an entry of ``data.augment``.

    Its fields, declared with the functions of ``options``, are the entry's options. It acts after the transforms of
    its kind that were registered before.

    Raises:
        TypeError: If the class is of no kind.
        ValueError: If the name is taken.
    """

    def register(transform: type[TransformT]) -> type[TransformT]:
        if not issubclass(transform, KINDS):
            raise TypeError(f"transform {name!r} must derive from one of {', '.join(kind.__name__ for kind in KINDS)}")
        if name in TRANSFORMS:
            raise ValueError(f"a transform {name!r} is registered already; choose another name")
        if "__dataclass_fields__" not in vars(transform):
            transform = dataclass(frozen=True)(transform)
        entries: list[tuple[str, type[Transform]]] = [*TRANSFORMS.items(), (name, transform)]
        entries.sort(key=lambda item: [not issubclass(item[1], kind) for kind in KINDS])
        TRANSFORMS.clear()
        TRANSFORMS.update(entries)
        return transform

    return register
