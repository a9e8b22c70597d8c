"""An image as sent -> what a service answers."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flexunet_pl.inference.onnx_infer import InferenceError, Labels, Model, Prediction, Tiling, overlay, read_bytes

UInt8Array = npt.NDArray[np.uint8]
PICTURES = ("mask", "overlay")


def segment(
    model: Model, content: bytes, max_pixels: int, tiling: Tiling | None = None
) -> tuple[Prediction, UInt8Array]:
    """Decode an image file and segment it; return the prediction and the pixels uint8 (H, W, C).

    Raises:
        InferenceError: If it is no image, has too many pixels, or does not fit the model.
    """
    try:
        image = read_bytes(content, model.labels, max_pixels)
    except InferenceError as error:
        raise InferenceError(re.sub(r" <_io\.BytesIO[^>]*>", "", str(error))) from error
    return model.predict(image, tiling), image


def answer(name: str, found: Prediction, labels: Labels) -> dict[str, Any]:
    """Return what was found in the image ``name``, for JSON.

    ``decision``, ``score``, ``classes`` and ``regions`` are those of decisions.json; ``pixels`` are counted by class.
    """
    height, width = found.mask_index.shape
    pixels = np.bincount(found.mask_index.ravel(), minlength=len(labels.names))
    drift = found.drift_score
    return {
        "image": name,
        **labels.acceptance.to_mapping({name: found.decision})["pieces"][name],
        "threshold": labels.acceptance.threshold,
        "statement": labels.acceptance.statement,
        "height": height,
        "width": width,
        "uncertainty": round(found.uncertainty, 6),
        "drift_score": None if drift is None else round(drift, 6),
        "pixels": dict(zip(labels.names, pixels.tolist(), strict=False)),
    }


def picture(kind: str, found: Prediction, image: UInt8Array, labels: Labels) -> bytes:
    """Return a PNG of the image's size: the mask, indexed with the palette, or the image with the classes over it."""
    colors = labels.color_table()
    if kind == "overlay":
        drawn = Image.fromarray(overlay(image, found.mask_index, colors))
    else:
        drawn = Image.fromarray(found.mask_index)
        drawn.putpalette(colors.ravel().tolist())
    stream = io.BytesIO()
    drawn.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def with_pictures(
    facts: dict[str, Any], wanted: Sequence[str], found: Prediction, image: UInt8Array, labels: Labels
) -> dict[str, Any]:
    """Return the facts with the pictures that are wanted, base64 of PNG."""
    return facts | {
        kind: base64.b64encode(picture(kind, found, image, labels)).decode() for kind in PICTURES if kind in wanted
    }


def name_of(path: Path, taken: Sequence[str]) -> str:
    """Return the name under which a bundle is served: its folder's, or the stem of an .onnx file, made unique."""
    name = path.resolve().name if path.is_dir() else path.resolve().stem
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    return unique
