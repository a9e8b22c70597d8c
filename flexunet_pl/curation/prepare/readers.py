"""Find images and masks in MVTec AD folders and in folders of images and masks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Problem
from flexunet_pl.data.annotations.shapes import AnnotatedImage
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.data.samples import IMAGE_SUFFIXES, files_in, find_pairs
from flexunet_pl.data.sources import source_of

MOST_BYTES = 255  # of a file's name
# The mask of an image without any defect may be there, but must be empty.
NO_CLASS = ""
# Accepted names of folders and splits, in any case.
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "ground_truth", "groundtruth", "gt", "labels", "label", "annotations")
SPLIT_NAMES = {split: split for split in SPLITS} | {"training": "train", "val": "valid", "validation": "valid"}


@dataclass(frozen=True)
class Found:
    """One image to prepare.

    Attributes:
        name: The stem it gets in the data set, unique.
        origin: Its path relative to the folder it is prepared from, with slashes.
        image: The image file.
        mask: The mask file; None means that all of it is background.
        label: The class that a two-valued mask marks, NO_CLASS where it must be empty, or None where the mask is in the
            palette's colours or indices.
        source: Id of the photographed object, from its name.
        split: The split it was found in, if any.
        annotated: The shapes that make its mask, in place of a mask file.
    """

    name: str
    origin: str
    image: Path
    mask: Path | None
    label: str | None
    source: str
    split: str | None = None
    annotated: AnnotatedImage | None = None


# The images and the problems.
Reading = tuple[list[Found], list[Problem]]

_images = partial(files_in, suffixes=IMAGE_SUFFIXES)


def read_mvtec(src: Path, good: Literal["all", "test", "none"] = "all") -> Reading:
    """Read a category of MVTec AD, or a folder of several.

    The tree is ``test/DEFECT/NNN.png`` with ``ground_truth/DEFECT/NNN_mask.png``, and ``good`` images without masks in
    ``train/good`` and ``test/good``. A class is called DEFECT, with several categories CATEGORY_DEFECT.

    Args:
        src: The category's folder, or the folder of several.
        good: Which images without defect to take: all, test (those of the test folder), or none.

    Raises:
        UserError: If there is no such tree.
    """
    check_folder(src)
    if _is_category(src):
        categories = {"": src}
    else:
        categories = {f"{folder.name}_": folder for folder in subfolders(src) if _is_category(folder)}
    if not categories:
        raise UserError(
            f"{src}: neither a category of MVTec AD nor a folder of some; a category has test/DEFECT/000.png and "
            "ground_truth/DEFECT/000_mask.png"
        )
    found: list[Found] = []
    problems: list[Problem] = []
    for prefix, folder in categories.items():
        tested = subfolders(folder / "test")
        problems += [
            Problem(
                f"masks without a folder {folder / 'test' / truth.name}", truth, "add its images or move the masks away"
            )
            for truth in subfolders(folder / "ground_truth")
            if truth.name not in {test.name for test in tested} and _images(truth)
        ]
        for test in tested:
            if test.name.lower() == "good":
                if good != "none":
                    found += _good(test, src, f"{prefix}good")
            else:
                found += _defects(test, folder / "ground_truth" / test.name, src, prefix, problems)
        if good == "all" and (folder / "train" / "good").is_dir():
            found += _good(folder / "train" / "good", src, f"{prefix}good_train")
    return unique(found, problems)


def read_pairs(src: Path, mask_suffix: str = "") -> Reading:
    """Read ``images`` and ``masks``, or those of ``train``, ``valid`` and ``test``, with masks in a palette's colours.

    The splits may also be folders of ``images`` and ``masks``. The same picture under one name in two splits is taken
    once; different pictures under one name get their split's name too.

    Args:
        src: The folder.
        mask_suffix: Ending of a mask's stem that its image's stem lacks, such as ``_mask``.

    Raises:
        UserError: If there is no such tree.
    """
    check_folder(src)
    problems: list[Problem] = []
    of_name: dict[str, Found] = {}
    for split, images, masks in _image_and_mask_folders(src, problems):
        pairs, complaints = find_pairs(images, masks, mask_suffix)
        problems += complaints
        for pair in pairs:
            name = pair.name
            if name in of_name:
                if sha256_of(of_name[name].image) == sha256_of(pair.image):
                    continue
                name = f"{name}_{split}"
            origin = pair.image.relative_to(src).as_posix()
            of_name[name] = Found(name, origin, pair.image, pair.mask, None, source_of(pair.name), split)
    return unique(list(of_name.values()), problems)


def _image_and_mask_folders(src: Path, problems: list[Problem]) -> list[tuple[str | None, Path, Path]]:
    """Return (split, images, masks) of each split, or once without splits; raise UserError if there is no such tree."""
    images, masks = _part(src, IMAGE_FOLDERS), _part(src, MASK_FOLDERS)
    if images is not None and masks is not None and _images(images):
        return [(None, images, masks)]
    found: dict[str, tuple[Path, Path]] = {}
    for folder in subfolders(src if images is None else images):
        inside = _part(folder, IMAGE_FOLDERS) if images is None else folder
        if inside is None:
            continue
        split = SPLIT_NAMES.get(folder.name.lower())
        other = _part(folder, MASK_FOLDERS) if images is None else None if masks is None else masks / folder.name
        if split is None or split in found:
            problems.append(Problem("holds images but is no split of its own", folder, f"call it {', '.join(SPLITS)}"))
        elif other is None:
            problems.append(Problem(f"has no folder {MASK_FOLDERS[0]} beside its images", folder, "add it"))
        else:
            found[split] = inside, other
    if not found and not problems:
        raise UserError(f"{src}: has neither images and masks nor train/images and train/masks; check the path")
    return [(split, *found[split]) for split in SPLITS if split in found]


def _part(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first folder in ``folder`` with one of these names, in any case."""
    inside = {path.name.lower(): path for path in subfolders(folder)}
    return next((inside[name] for name in names if name in inside), None)


def _is_category(folder: Path) -> bool:
    return (folder / "test").is_dir() and (folder / "ground_truth").is_dir()


def _good(folder: Path, src: Path, start: str) -> list[Found]:
    named = [(f"{start}_{path.stem}", path) for path in _images(folder)]
    return [Found(name, path.relative_to(src).as_posix(), path, None, NO_CLASS, name) for name, path in named]


def _defects(test: Path, truth: Path, src: Path, prefix: str, problems: list[Problem]) -> list[Found]:
    masks = {path.stem.removesuffix("_mask"): path for path in _images(truth)} if truth.is_dir() else {}
    images = {path.stem: path for path in _images(test)}
    for stem in sorted(images.keys() ^ masks.keys()):
        if stem in images:
            what = f"{truth / f'{stem}_mask.png'} is missing"
            problems.append(Problem(what, images[stem], "add it or move the image away"))
        else:
            what = f"a mask without image {stem!r} in {test}"
            problems.append(Problem(what, masks[stem], "add it or move the mask away"))
    label = f"{prefix}{test.name}"
    return [
        Found(
            f"{label}_{stem}",
            image.relative_to(src).as_posix(),
            image,
            masks[stem],
            label,
            f"{label}_{source_of(stem)}",
        )
        for stem, image in images.items()
        if stem in masks
    ]


def check_folder(src: Path) -> None:
    """Raise UserError if the folder to read does not exist."""
    if not src.is_dir():
        raise UserError(f"{src}: this folder does not exist; check the path")


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and what macOS adds to archives."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def unique(found: Sequence[Found], problems: list[Problem]) -> Reading:
    """Refuse two images of one name, a name too long, and no image at all."""
    first: dict[str, Found] = {}
    for item in found:
        if item.name in first:
            what = f"gets the name {item.name!r} that {first[item.name].image} has"
            problems.append(Problem(what, item.image, "rename one"))
        first.setdefault(item.name, item)
        if (length := len(os.fsencode(f"{item.name}{item.image.suffix}"))) > MOST_BYTES:
            what = f"gets a name of {length} bytes in the data set, which file systems do not allow ({MOST_BYTES})"
            problems.append(Problem(what, item.image, "give it a shorter name"))
    if not found and not problems:
        problems.append(Problem("no image was found", repair="check the path"))
    return sorted(first.values(), key=lambda item: item.name), problems
