"""Open image files within a limit on pixels, as the inference file does."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.inference import onnx_infer

DEFAULT_MAX_PIXELS = onnx_infer.DEFAULT_MAX_PIXELS
# What the messages of the inference file say of its options, and what it is here.
OPTIONS = {
    "--max-pixels ": "data.max_pixels=",
    ", or use a tiled TIFF and --tile": ", in the other commands with --max_pixels",
}
SWAPPED_SIDES = (5, 6, 7, 8)  # orientations

_command_limit = DEFAULT_MAX_PIXELS


@contextlib.contextmanager
def pixel_limit(max_pixels: int | None) -> Iterator[None]:
    """Read files of up to ``max_pixels`` in this block wherever no limit is given, in all threads; None: 100 million.

    Raises:
        UserError: If it is below 1.
    """
    global _command_limit
    if max_pixels is not None and max_pixels < 1:
        raise UserError(f"--max_pixels {max_pixels} must be at least 1")
    before, _command_limit = _command_limit, DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
    try:
        yield
    finally:
        _command_limit = before


def limit_of(max_pixels: int | None) -> int:
    """Return the limit given, or that of :func:`pixel_limit`."""
    return _command_limit if max_pixels is None else max_pixels


@contextlib.contextmanager
def reading_errors() -> Iterator[None]:
    """Raise errors of the inference file as UserError that names the keys of a config."""
    try:
        yield
    except onnx_infer.InferenceError as error:
        message = str(error)
        for option, key in OPTIONS.items():
            message = message.replace(option, key)
        raise UserError(message) from error


@contextlib.contextmanager
def open_image(path: Path, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open an image file, not decoded yet; ``max_pixels`` as for :func:`limit_of`.

    Raises:
        UserError: If it is none, has more pixels, or the block cannot decode it.
    """
    with reading_errors(), onnx_infer.open_image(path, limit_of(max_pixels)) as image:
        yield image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (height, width) of an opened image after its orientation, without decoding it."""
    # Pillow's own size of a TIFF is upright where the tag, and not XMP, turns it.
    is_upright = getattr(image, "tag_v2", {}).get(onnx_infer.ORIENTATION) in SWAPPED_SIDES
    is_turned = image.getexif().get(onnx_infer.ORIENTATION) in SWAPPED_SIDES and not is_upright
    return image.size if is_turned else (image.height, image.width)
