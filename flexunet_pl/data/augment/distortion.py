"""Barrel and pincushion, and the two smooth random distortions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from flexunet_pl.data.augment.kinds import Coordinates, Field, Radial, register_transform
from flexunet_pl.data.augment.options import Interval, draw_one, number, numbers, points


@dataclass(frozen=True)
class _Lens(Radial):
    """The radial formula of barrel and pincushion.

    With R = width * radius, the centre (width * x, height * y), and a pixel at distance d from it: where 0 < d < R,
    the pixel shows the source at sin(pi * d / (2 * R)) ** amount times its offset from the centre; elsewhere itself.
    """

    radius: float = number(0.5, 0.01, 2)
    amount: float = number(0.5, 0.01, 4)
    centers: tuple[Interval, ...] = points(((0.5, 0.5),))

    def source(self, height: int, width: int, rng: np.random.Generator) -> Callable[[Coordinates], Coordinates]:
        """Draw one of the centres."""
        center = draw_one(rng, self.centers)
        center_x, center_y = width * center[0], height * center[1]
        reach = width * self.radius

        def radial(output: Coordinates) -> Coordinates:
            offset_x, offset_y = output[0] - center_x, output[1] - center_y
            distance = torch.hypot(offset_x, offset_y)
            # From d = R on the sine is held at 1, which leaves points where they are; at d = 0 the offset is 0.
            angle = (distance * (math.pi / 2 / reach)).clamp_(1e-6, math.pi / 2)
            factor = angle.sin_().pow_(self.amount)
            return center_x + factor * offset_x, center_y + factor * offset_y

        return radial


@register_transform("barrel")
class Barrel(_Lens):
    """Bulge outwards within a circle about one of ``centers``."""


@register_transform("pincushion")
class Pincushion(_Lens):
    """Pinch inwards within a circle about one of ``centers``."""

    amount: float = number(-0.5, -0.95, -0.01)


@register_transform("elastic")
class Elastic(Field):
    """Shift pixels by smooth noise, independently in x and y, with the strength of the original.

    The original smooths uniform noise with a Gaussian of ``sigmoids`` pixels in height, width and, by accident, over
    the three colour channels, and multiplies by ``alpha``. The shifts that result have a standard deviation of
    alpha / (2 * sqrt(2) * pi * sigma ** 2) pixels: 2.3 at alpha 1300 and sigma 8.
    """

    alpha: float = number(1300, 0, 1e6)
    sigmoids: tuple[float, ...] = numbers((8,), 1, 1000)

    def shifts(self, height: int, width: int, rng: np.random.Generator) -> Coordinates:
        """Draw one of the sigmas, then two fields."""
        sigma = float(draw_one(rng, self.sigmoids))
        deviation = self.alpha / (2 * math.sqrt(2) * math.pi * sigma**2)
        rows, columns = _bumps(height, sigma), _bumps(width, sigma)
        shift_x, shift_y = (rows @ _normal(rng, 2, rows.shape[1], columns.shape[1]) @ columns.T) * deviation
        return shift_x.float(), shift_y.float()


@register_transform("smooth_noise")
class SmoothNoise(Field):
    """Shift pixels along the slopes of a smooth random landscape.

    The landscape is normal noise smoothed with a Gaussian of ``gaussian_filter_rsigma`` pixels; the largest shift
    along each axis is one of ``distortions`` times the longer side. ``gaussian_filter_sigma`` stands in the names of
    offline files and changes nothing, here as in the original.
    """

    gaussian_filter_rsigma: float = number(40, 1, 1000)
    gaussian_filter_sigma: float = number(0.5, 0, 1000)
    distortions: tuple[float, ...] = numbers((0.02,), 0, 0.5)

    def shifts(self, height: int, width: int, rng: np.random.Generator) -> Coordinates:
        """Draw one of the strengths, then the landscape."""
        largest = draw_one(rng, self.distortions) * max(height, width)
        sigma = float(self.gaussian_filter_rsigma)
        rows, columns = _bumps(height, sigma), _bumps(width, sigma)
        noise = _normal(rng, rows.shape[1], columns.shape[1])
        shift_x = rows @ noise @ _bumps(width, sigma, slope=True).T
        shift_y = _bumps(height, sigma, slope=True) @ noise @ columns.T
        shift_x, shift_y = (shift * (largest / shift.abs().max()) for shift in (shift_x, shift_y))
        return shift_x.float(), shift_y.float()


def _bumps(size: int, sigma: float, *, slope: bool = False) -> torch.Tensor:
    """Return float64 (size, knots): at each pixel, the weight of Gaussian bumps that stand ``sigma`` apart.

    White noise on the knots, spread along both axes by these weights, is a smooth field of unit variance: the same
    as filtering white noise on all pixels, at a small part of the cost. With ``slope`` the weights are the slopes of
    the bumps.
    """
    knots = torch.arange(-4, math.ceil(size / sigma) + 5, dtype=torch.float64)
    distance = torch.arange(size, dtype=torch.float64)[:, None] / sigma - knots
    # The squares of bumps one sigma apart sum to sqrt(pi) wherever one stands.
    bumps: torch.Tensor = torch.exp(-0.5 * distance**2) / math.pi**0.25
    return _on_grid(-distance * bumps if slope else bumps)


def _normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return _on_grid(torch.from_numpy(rng.standard_normal(shape)))


def _on_grid(values: torch.Tensor) -> torch.Tensor:
    """Round to multiples of 1/4096, so that sums of products of three are exact in float64.

    Otherwise matrix products, and with them a few pixels, would depend on how many threads a process has.
    """
    return values.mul(4096).round_().div_(4096)
