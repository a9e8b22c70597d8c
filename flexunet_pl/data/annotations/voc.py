"""Pascal VOC: a PNG in class colours for each image in ``SegmentationClass``, with ``labelmap.txt`` as CVAT writes it.

Without ``labelmap.txt`` the 20 classes of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ are meant. Index 255 and its
colour are ignored. Objects of a class are not told apart, so ``SegmentationObject`` is not read.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image, ImageOps

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_path, write_text
from flexunet_pl.core.types import Problem, collected
from flexunet_pl.data.annotations.fields import Place, shown
from flexunet_pl.data.annotations.formats import Document, Format, Reading, ReadOptions
from flexunet_pl.data.annotations.images import ImageFiles
from flexunet_pl.data.annotations.raster import IGNORE_LABEL
from flexunet_pl.data.annotations.regions import PredictedImage
from flexunet_pl.data.annotations.shapes import AnnotatedImage, Runs, Shape, runs_of
from flexunet_pl.data.image_files import open_image
from flexunet_pl.data.palette import IGNORE_INDEX, Color, Palette, UInt8Array

CLASS_FOLDER, OBJECT_FOLDER, IMAGE_FOLDERS = "SegmentationClass", "SegmentationObject", ("JPEGImages", "images")
LABELMAP, IMAGE_SET = "labelmap.txt", "ImageSets/Segmentation/default.txt"
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def voc_color(index: int) -> Color:
    """Return the colour of an index, 0..255, in VOC's colour map: its bits, spread over the three channels."""
    levels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            levels[channel] |= (index >> channel & 1) << (7 - bit)
        index >>= 3
    return levels[0], levels[1], levels[2]


def claims(document: Document) -> bool:
    """Return whether this is a folder of masks, or an XML with the boxes of an image."""
    return document.content is None or (isinstance(document.content, Element) and document.content.tag == "annotation")


def read(documents: Sequence[Document], files: ImageFiles, options: ReadOptions) -> Reading:  # noqa: ARG001  all readers take options
    """Read the masks of VOC."""
    reading = Reading()
    folders = [document.path for document in documents if document.content is None]
    if not folders:
        what = f"Pascal VOC with boxes only ({len(documents)} XML files), which do not say which pixels are the defect"
        reading.problems.append(Problem(what, documents[0].path, f"export masks, {CLASS_FOLDER}/NAME.png, as well"))
    for folder in folders:
        with collected(reading.problems):
            label_of = _labels(folder.parent)
            reading.labels += [label for label in label_of.values() if label not in reading.labels]
            for path in sorted(folder.rglob("*.png")):
                with collected(reading.problems):
                    reading.images.append(_annotated(path, label_of, files))
    return reading


def _labels(root: Path) -> dict[Color, str]:
    """Return the class of each colour."""
    ignored = {voc_color(IGNORE_INDEX): IGNORE_LABEL}
    path = root / LABELMAP
    if not path.is_file():
        return ignored | {voc_color(index): name for index, name in enumerate(CLASSES)}
    found: dict[Color, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text ({error}); export the annotations again") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        place = Place(path, f"line {number}")
        name, _, rest = line.partition(":")
        code = rest.partition(":")[0].strip()
        # Datumaro leaves out colours that are those of VOC.
        levels = [place.number(level, "colour") for level in code.split(",")] if code else voc_color(len(found))
        if len(levels) != 3 or not all(level == int(level) and 0 <= level <= 255 for level in levels):
            place.fail(f"{shown(line)} has no colour of three numbers 0..255", "write it as name:red,green,blue::")
        color = int(levels[0]), int(levels[1]), int(levels[2])
        if color in found:
            place.fail(f"{name!r} has the colour of {found[color]!r}", "give each class its own")
        found[color] = place.label(name, "name")
    return ignored | found


def _annotated(path: Path, label_of: dict[Color, str], files: ImageFiles) -> AnnotatedImage:
    images = files.with_stem(path.stem, IMAGE_FOLDERS)
    if len(images) != 1:
        what = f"{images[0]} and {images[1]} have its stem" if images else f"no image has the stem {path.stem!r}"
        raise UserError(f"{path}: {what}; put one image of this name into {IMAGE_FOLDERS[0]}, or give --images FOLDER")
    with open_image(path) as opened:
        is_index = opened.mode == "L"
        upright = ImageOps.exif_transpose(opened)
        pixels: UInt8Array = np.asarray(upright if is_index else upright.convert("RGB"))
    if is_index:  # the place of each class in the list, since no palette gives it a colour
        names = [label for label in label_of.values() if label != IGNORE_LABEL]
        label_of_code = dict(enumerate(names)) | {IGNORE_INDEX: IGNORE_LABEL}
        codes = pixels.astype(np.int64)
    else:
        label_of_code = {red << 16 | green << 8 | blue: label for (red, green, blue), label in label_of.items()}
        codes = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    shapes = []
    for code in np.unique(codes).tolist():
        marked = codes == code
        shown_code = f"index {code}" if is_index else f"colour {[code >> 16, code >> 8 & 255, code & 255]}"
        if code not in label_of_code:
            row, column = (int(place) for place in np.argwhere(marked)[0])
            raise UserError(
                f"{path}: {int(marked.sum())} pixels have the {shown_code}, first at row {row}, column {column}, which "
                f"is no class; add it to {LABELMAP}, or repaint them"
            )
        runs = Runs(runs_of(marked), *marked.shape)
        shapes.append(Shape(label_of_code[code], shown_code, (runs,)))
    return AnnotatedImage(images[0], path, (codes.shape[0], codes.shape[1]), tuple(shapes))


def write(folder: Path, images: Iterable[PredictedImage], palette: Palette) -> Path:
    """Write the masks of classes and of regions, ``labelmap.txt`` and the list of names."""
    names = []
    objects = np.array([voc_color(index) for index in range(256)], dtype=np.uint8)
    for image in images:
        stem = image.image.stem
        names.append(stem)
        _save(folder / CLASS_FOLDER / f"{stem}.png", Image.fromarray(palette.decode(image.mask_index)))
        numbers = np.zeros(image.size, dtype=np.uint8)
        for number, region in enumerate(image.regions):  # colours repeat after 254 regions
            numbers[region.full_mask(image.size)] = number % 254 + 1
        _save(folder / OBJECT_FOLDER / f"{stem}.png", Image.fromarray(objects[numbers]))
    classes = zip(palette.names, palette.colors, strict=True)
    lines = ["# label:color_rgb:parts:actions", *(f"{name}:{','.join(map(str, color))}::" for name, color in classes)]
    write_text(folder / LABELMAP, "\n".join([*lines, ""]))
    write_text(folder / IMAGE_SET, "".join(f"{name}\n" for name in names))
    return folder


def _save(path: Path, picture: Image.Image) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


FORMAT = Format("voc", "Pascal VOC", claims, read, write)
