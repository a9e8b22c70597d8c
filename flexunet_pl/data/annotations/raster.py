"""Paint annotated shapes as class masks."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.annotations.shapes import AnnotatedImage
from flexunet_pl.data.image_files import open_image
from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array

# Names of labels, in lower case, that stand for no class of defects.
BACKGROUND_LABEL, IGNORE_LABEL = "background", "ignore"
SPECIAL_INDICES = {BACKGROUND_LABEL: 0, IGNORE_LABEL: IGNORE_INDEX}
ORIENTATION = 0x0112
ARRAY_SUFFIX = ".npy"


def paint(annotated: AnnotatedImage, size: tuple[int, int], index_of: Mapping[str, int]) -> UInt8Array:
    """Return the class mask uint8 (H, W) of an image: shapes in their order, so that a later one covers earlier ones.

    Shapes may be drawn for the image as it is shown, or as it is stored, where its EXIF orientation turns it; the size
    in the annotations says which. Where it fits both, they are drawn for the image as it is shown.

    Args:
        annotated: The image and its shapes.
        size: The (height, width) of the image as it is shown.
        index_of: The class index of each label; ``background`` and ``ignore``, in any case, are 0 and 255.

    Raises:
        UserError: If the size differs from that in the annotations, or a shape is wholly outside the image.
    """
    if annotated.size is None or annotated.size == size:
        return _painted(annotated, size, index_of)
    if annotated.size == size[::-1] and annotated.image.suffix.lower() != ARRAY_SUFFIX:
        with open_image(annotated.image) as opened:
            orientation = opened.getexif().get(ORIENTATION, 1)
        if orientation > 4:  # those that swap width and height
            stored = Image.fromarray(_painted(annotated, annotated.size, index_of))
            stored.getexif()[ORIENTATION] = orientation
            return np.asarray(ImageOps.exif_transpose(stored))
    (height, width), (own_height, own_width) = annotated.size, size
    raise UserError(
        f"{annotated.file}: is drawn for an image of {width} x {height}, but {annotated.image} has {own_width} x "
        f"{own_height} pixels; put the image there that was annotated, or annotate this one"
    )


def _painted(annotated: AnnotatedImage, size: tuple[int, int], index_of: Mapping[str, int]) -> UInt8Array:
    mask_index = np.zeros(size, dtype=np.uint8)
    for shape in annotated.shapes:
        value = SPECIAL_INDICES.get(shape.label.lower())
        value = index_of[shape.label] if value is None else value
        windows = [area.window(*size) for area in shape.areas]
        if not any(marked.any() for _, _, marked in windows) and not shape.is_empty:
            height, width = size
            raise UserError(
                f"{annotated.file}: {shape.name}: the shape {shape.label!r} lies outside {annotated.image.name} "
                f"({width} x {height} pixels); move the shape into the image, or delete it"
            )
        for top, left, marked in windows:
            mask_index[top : top + marked.shape[0], left : left + marked.shape[1]][marked] = value
    return mask_index
