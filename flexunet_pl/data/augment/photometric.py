"""Changes of brightness and colour. They never see the mask."""

import math

import numpy as np

from flexunet_pl.data.augment.kinds import Color, FloatArray, Tone, register_transform
from flexunet_pl.data.augment.options import draw, interval, number

# Luma and two colour differences of NTSC television: turning the two about the luma axis turns the hue.
_TO_YIQ: FloatArray = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ: FloatArray = np.linalg.inv(_TO_YIQ).astype(np.float64)


@register_transform("brightness")
class Brightness(Tone):
    """Multiply by 1 plus or minus up to ``limit``."""

    limit: float = number(0.2, 0, 1)

    def curve(self, levels: FloatArray, mean: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002  not needed
        """Scale all levels."""
        return levels * (1 + rng.uniform(-self.limit, self.limit))


@register_transform("brightening")
class Brightening(Tone):
    """Multiply by ``alpha`` and add ``beta``, as the original does."""

    alpha: tuple[float, float] = interval((1.2, 1.2), 0, 10)
    beta: tuple[float, float] = interval((10, 10), -255, 255)

    def curve(self, levels: FloatArray, mean: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002  not needed
        """Scale and shift all levels."""
        return levels * draw(rng, self.alpha) + draw(rng, self.beta)


@register_transform("contrast")
class Contrast(Tone):
    """Multiply the distance from the image's mean by 1 plus or minus up to ``limit``."""

    limit: float = number(0.2, 0, 1)

    def curve(self, levels: FloatArray, mean: float, rng: np.random.Generator) -> FloatArray:
        """Spread the levels about ``mean``."""
        return mean + (levels - mean) * (1 + rng.uniform(-self.limit, self.limit))


@register_transform("gamma")
class Gamma(Tone):
    """Raise values, taken as shares of 255, to the power ``exponent``: below 1 lifts the shadows."""

    exponent: tuple[float, float] = interval((0.8, 1.25), 0.05, 20)

    def curve(self, levels: FloatArray, mean: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002  not needed
        """Bend the levels; values beyond 0..255 are clipped first."""
        bent: FloatArray = 255 * (levels.clip(0, 255) / 255) ** draw(rng, self.exponent)
        return bent


@register_transform("hue")
class Hue(Color):
    """Turn the hue by up to ``limit`` of the colour circle either way; greys and brightness stay."""

    limit: float = number(0.05, 0, 0.5)

    def matrix(self, rng: np.random.Generator) -> FloatArray:
        """Turn the two colour differences about the luma axis."""
        angle = 2 * math.pi * rng.uniform(-self.limit, self.limit)
        turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
        matrix: FloatArray = _FROM_YIQ @ turn @ _TO_YIQ
        return matrix


@register_transform("saturation")
class Saturation(Color):
    """Multiply the distance from grey by 1 plus or minus up to ``limit``."""

    limit: float = number(0.3, 0, 1)

    def matrix(self, rng: np.random.Generator) -> FloatArray:
        """Stretch the colour away from its own luma."""
        factor = 1 + rng.uniform(-self.limit, self.limit)
        return factor * np.eye(3) + (1 - factor) * np.tile(_TO_YIQ[0], (3, 1))
