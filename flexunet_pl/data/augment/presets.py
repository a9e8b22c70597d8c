"""Presets of transforms, and the names that the original has for transforms and options."""

from collections.abc import Mapping
from typing import Any

ORIGINAL_NAMES: Mapping[str, str] = {
    "deformation": "elastic",
    "distortion": "smooth_noise",
    "barrdistortion": "barrel",
    "pincdistortion": "pincushion",
    "sharpening": "sharpen",
}
"""Names of the original that differ from ours; both are understood."""

ORIGINAL_LISTS: Mapping[str, str] = {"angles": "rotation", "shrinks": "shrink", "shears": "shear"}
"""Lists of the original that stand beside its transforms, and the transform that has them as an option here."""

ORIGINAL_OPTIONS: Mapping[str, str] = {"alpah": "alpha"}
"""Options as the original spells them."""

_CENTERS = [[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.7, 0.7]]

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "none": {},
    "light": {
        "hflip": {"p": 0.5},
        "vflip": {"p": 0.5},
        "right_angle": {"p": 0.5},
        "brightness": {"p": 0.5, "limit": 0.2},
    },
    "full": {
        "mosaic": {"p": 0.05},
        "copy_paste": {"p": 0.3},
        "rotation": {"p": 0.3, "limit": 15},
        "shrink": {"p": 0.05, "shrinks": [0.8]},
        "scale": {"p": 0.3, "factor": [0.8, 1.25]},
        "shear": {"p": 0.15, "limit": 0.1},
        "perspective": {"p": 0.15, "limit": 0.08},
        "barrel": {"p": 0.1, "radius": 0.4, "amount": 0.3, "centers": _CENTERS},
        "pincushion": {"p": 0.1, "radius": 0.4, "amount": -0.3, "centers": _CENTERS},
        "elastic": {"p": 0.15, "alpha": 1300, "sigmoids": [8, 12]},
        "smooth_noise": {"p": 0.15, "gaussian_filter_rsigma": 40, "distortions": [0.01, 0.02]},
        "hflip": {"p": 0.5},
        "vflip": {"p": 0.5},
        "right_angle": {"p": 0.5},
        "brightness": {"p": 0.4, "limit": 0.2},
        "contrast": {"p": 0.4, "limit": 0.2},
        "gamma": {"p": 0.2, "exponent": [0.8, 1.25]},
        "hue": {"p": 0.15, "limit": 0.03},
        "saturation": {"p": 0.2, "limit": 0.3},
        "blur": {"p": 0.15, "sigma": [0.3, 1.2]},
        "noise": {"p": 0.2, "sigma": [2, 8]},
        "sharpen": {"p": 0.1, "k": [0.03, 0.15]},
        "jpeg": {"p": 0.1, "quality": [60, 95]},
        "coarse_dropout": {"p": 0.1, "holes": [1, 6], "size": [0.03, 0.12]},
    },
    # Names, options and values of the original. It has no probabilities: it makes one picture for each operation.
    "flexunet": {
        "rotation": {"p": 0.5, "angles": [90, 180, 270]},
        "shrink": {"p": 0.2, "shrinks": [0.8]},
        "shear": {"p": 0, "shears": []},
        "barrel": {"p": 0.2, "radius": 0.5, "amount": 0.5, "centers": [[0.5, 0.5]]},
        "pincushion": {"p": 0.2, "radius": 0.5, "amount": -0.5, "centers": [[0.5, 0.5]]},
        "elastic": {"p": 0.2, "alpha": 1300, "sigmoids": [8]},
        "smooth_noise": {"p": 0.2, "gaussian_filter_rsigma": 40, "gaussian_filter_sigma": 0.5, "distortions": [0.02]},
        "hflip": {"p": 0.5},
        "vflip": {"p": 0.5},
        "brightening": {"p": 0.2, "alpha": 1.2, "beta": 10},
        "sharpen": {"p": 0.1, "k": 1.0},
    },
}
