"""Find the images and masks in folders as people have them: MVTec AD, and images beside masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.data.samples import IMAGE_SUFFIXES, find_pairs
from flexunet_pl.data.sources import source_of

# The mask of an image without any defect may be there, but must be empty.
NO_CLASS = ""
# What others call our folders and splits, in any case.
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "ground_truth", "groundtruth", "gt", "labels", "label", "annotations")
SPLIT_NAMES = {split: split for split in SPLITS} | {"training": "train", "val": "valid", "validation": "valid"}
GOOD_CHOICES = ("all", "test", "none")


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
        source: Id of the photographed object, as its name tells.
        split: The split it was found in, if any.
    """

    name: str
    origin: str
    image: Path
    mask: Path | None
    label: str | None
    source: str
    split: str | None = None


Reading = tuple[list[Found], list[str]]


def read_mvtec(src: Path, good: str = "all") -> Reading:
    """Read a category of MVTec AD, or a folder of several.

    The tree is ``test/DEFECT/NNN.png`` with ``ground_truth/DEFECT/NNN_mask.png``, and ``good`` images without masks in
    ``train/good`` and ``test/good``. A class is called DEFECT, with several categories CATEGORY_DEFECT.

    Args:
        src: The category's folder, or the folder of several.
        good: Which images without defect to take: all, test (those of the test folder), or none.

    Returns:
        The images, and one line for each problem.

    Raises:
        UserError: If there is no such tree.
    """
    check_folder(src)
    if good not in GOOD_CHOICES:
        raise UserError(f"good={good!r}; choose from {', '.join(GOOD_CHOICES)}")
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
    problems: list[str] = []
    for prefix, folder in categories.items():
        tested = subfolders(folder / "test")
        problems += [
            f"{truth}: masks without a folder {folder / 'test' / truth.name}; add its images or move the masks away"
            for truth in subfolders(folder / "ground_truth")
            if truth.name not in {test.name for test in tested} and _images(truth)
        ]
        for test in tested:
            if test.name.lower() == "good":
                if good != "none":
                    found += [_good(path, src, f"{prefix}good_{path.stem}") for path in _images(test)]
            else:
                found += _defects(test, folder / "ground_truth" / test.name, src, prefix, problems)
        if good == "all" and (folder / "train" / "good").is_dir():
            found += [
                _good(path, src, f"{prefix}good_train_{path.stem}") for path in _images(folder / "train" / "good")
            ]
    return unique(found, problems)


def read_pairs(src: Path, mask_suffix: str = "") -> Reading:
    """Read ``images`` and ``masks``, or those of ``train``, ``valid`` and ``test``, with masks in a palette's colours.

    The splits may also lie within ``images`` and ``masks``. One picture under one name in two splits is taken once; two
    pictures under one name get their split's name, too.

    Args:
        src: The folder.
        mask_suffix: What the stem of a mask has more than that of its image, such as ``_mask``.

    Returns:
        The images, and one line for each problem.

    Raises:
        UserError: If there is no such tree.
    """
    check_folder(src)
    problems: list[str] = []
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


def _image_and_mask_folders(src: Path, problems: list[str]) -> list[tuple[str | None, Path, Path]]:
    """Return (split, images, masks), split by split or, where nothing is split, once.

    Raises:
        UserError: If there is no such tree.
    """
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
            problems.append(f"{folder}: holds images but is no split of its own; call it {', '.join(SPLITS)}")
        elif other is None:
            problems.append(f"{folder}: has no folder {MASK_FOLDERS[0]} beside its images; add it")
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


def _good(path: Path, src: Path, name: str) -> Found:
    return Found(name, path.relative_to(src).as_posix(), path, None, NO_CLASS, name)


def _defects(test: Path, truth: Path, src: Path, prefix: str, problems: list[str]) -> list[Found]:
    masks = {path.stem.removesuffix("_mask"): path for path in _images(truth)} if truth.is_dir() else {}
    images = {path.stem: path for path in _images(test)}
    for stem in sorted(images.keys() ^ masks.keys()):
        if stem in images:
            problems.append(f"{images[stem]}: {truth / f'{stem}_mask.png'} is missing; add it or move the image away")
        else:
            problems.append(f"{masks[stem]}: a mask without image {stem!r} in {test}; add it or move the mask away")
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
    """Check that the folder to read exists.

    Raises:
        UserError: If it does not.
    """
    if not src.is_dir():
        raise UserError(f"{src}: this folder does not exist; check the path")


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and what macOS adds to archives."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def unique(found: Sequence[Found], problems: list[str]) -> Reading:
    """Refuse two images of one name, and no image at all."""
    first: dict[str, Found] = {}
    for item in found:
        if item.name in first:
            problems.append(f"{item.image}: gets the name {item.name!r} that {first[item.name].image} has; rename one")
        first.setdefault(item.name, item)
    if not found and not problems:
        problems.append("no image was found; check the path")
    return sorted(first.values(), key=lambda item: item.name), problems
