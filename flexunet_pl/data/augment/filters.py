"""Blur, noise, sharpening, JPEG and holes. They never see the mask."""

import io
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import torch
from PIL import Image

from flexunet_pl.data.augment.kinds import Filter, UInt8Array, register_transform
from flexunet_pl.data.augment.options import draw, draw_whole, interval
from flexunet_pl.data.augment.smoothing import convolved, gaussian_weights

# 256 equally likely steps of the normal distribution: one random byte and one look-up make one normal number,
# fifteen times as fast as drawing it.
_NORMAL_STEPS = np.array([NormalDist().inv_cdf((step + 0.5) / 256) for step in range(256)])


@register_transform("blur")
class Blur(Filter):
    """Blur with a Gaussian of ``sigma`` pixels."""

    sigma: tuple[float, float] = interval((0.3, 1.5), 0.1, 50)

    def filter(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Convolve with a Gaussian cut off at three sigma."""
        weights = gaussian_weights(draw(rng, self.sigma))
        return _by_plane(image, lambda plane: convolved(plane, weights))


@register_transform("noise")
class Noise(Filter):
    """Add normal noise of standard deviation ``sigma`` grey levels, independent for each pixel and channel."""

    sigma: tuple[float, float] = interval((2, 8), 0, 128)

    def filter(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Add one of 256 equally likely steps of the distribution to each value."""
        steps = np.rint(_NORMAL_STEPS * draw(rng, self.sigma)).astype(np.int16)
        noisy = np.take(steps, rng.integers(0, 256, image.shape, dtype=np.uint8))
        noisy += image
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


@register_transform("sharpen")
class Sharpen(Filter):
    """Add ``k`` times the differences to the eight neighbours: the original's kernel of 1 + 8k amid -k."""

    k: tuple[float, float] = interval((1.0, 1.0), 0, 10)

    def filter(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Move away from the mean of the 3x3 neighbourhood, 9 times k as far as one stands from it."""
        amount = 9 * draw(rng, self.k)
        return _by_plane(image, lambda plane: torch.lerp(plane, convolved(plane, [1, 1, 1]), -amount))


@register_transform("jpeg")
class Jpeg(Filter):
    """Compress and read back as JPEG of ``quality``; with other than 3 channels, each on its own."""

    quality: tuple[float, float] = interval((60, 95), 1, 100, whole=True)

    def filter(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Encode and decode."""
        quality = draw_whole(rng, self.quality)
        if len(image) == 3:
            return np.ascontiguousarray(_through_jpeg(image.transpose(1, 2, 0), quality).transpose(2, 0, 1))
        return np.stack([_through_jpeg(plane, quality) for plane in image])


@register_transform("coarse_dropout")
class CoarseDropout(Filter):
    """Cover ``holes`` rectangles, each side a share ``size`` of the picture's, with the image's mean colour.

    The mask keeps its labels: the network has to infer from the surroundings.
    """

    holes: tuple[float, float] = interval((1, 6), 1, 1000, whole=True)
    size: tuple[float, float] = interval((0.03, 0.12), 0.001, 1)

    def filter(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Paint the holes, which are inside the picture and may overlap."""
        covered = np.array(image)
        height, width = image.shape[1:]
        color = np.rint(image[:, ::4, ::4].mean(axis=(1, 2))).astype(np.uint8)
        for _ in range(draw_whole(rng, self.holes)):
            rows = max(1, round(draw(rng, self.size) * height))
            columns = max(1, round(draw(rng, self.size) * width))
            top = int(rng.integers(height - rows + 1))
            left = int(rng.integers(width - columns + 1))
            covered[:, top : top + rows, left : left + columns] = color[:, None, None]
        return covered


def _through_jpeg(pixels: UInt8Array, quality: int) -> UInt8Array:
    """Return uint8 (H, W) or (H, W, 3) as it comes back from a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _by_plane(image: UInt8Array, change: Callable[[torch.Tensor], torch.Tensor]) -> UInt8Array:
    """Change each channel (H, W) of uint8 (C, H, W) as float32; round the results and cut them off at 0 and 255."""
    planes = [change(torch.from_numpy(plane.astype(np.float32))) for plane in image]
    rounded: UInt8Array = torch.stack([plane.clamp(0, 255).add_(0.5).to(torch.uint8) for plane in planes]).numpy()
    return rounded
