"""Find the images and masks in folders as people have them: MVTec AD, class folders, pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexunet_pl.data.layout import SPLITS
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.data.samples import IMAGE_SUFFIXES, find_pairs
from flexunet_pl.data.sources import source_of
from flexunet_pl.errors import UserError, suggestion

# The mask of an image without any defect may be there, but must be empty.
NO_CLASS = ""
MASK_FOLDERS = ("masks", "mask", "ground_truth", "labels", "label")
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
    _check_folder(src)
    if good not in GOOD_CHOICES:
        raise UserError(f"good={good!r}; choose from {', '.join(GOOD_CHOICES)}")
    if _is_category(src):
        categories = {"": src}
    else:
        categories = {f"{folder.name}_": folder for folder in _folders(src) if _is_category(folder)}
    if not categories:
        raise UserError(
            f"{src}: neither a category of MVTec AD nor a folder of some; a category has test/DEFECT/000.png and "
            "ground_truth/DEFECT/000_mask.png"
        )
    found: list[Found] = []
    problems: list[str] = []
    for prefix, folder in categories.items():
        for test in _folders(folder / "test"):
            if test.name == "good":
                if good != "none":
                    found += [_good(path, src, f"{prefix}good_{path.stem}") for path in _images(test)]
            else:
                found += _defects(test, folder / "ground_truth" / test.name, src, prefix, problems)
        if good == "all" and (folder / "train" / "good").is_dir():
            found += [
                _good(path, src, f"{prefix}good_train_{path.stem}") for path in _images(folder / "train" / "good")
            ]
    return _unique(found, problems)


def read_folders(src: Path, mask_suffix: str = "", defect_free: str | None = None, strip_prefix: str = "") -> Reading:
    """Read class folders that hold images and two-valued masks, side by side or in folders below, nested as they like.

    Of two files with one stem the mask is the one in a folder called ``masks`` or so, else the only PNG.

    Args:
        src: The folder of the class folders.
        mask_suffix: What the stem of a mask has more than that of its image, such as ``_mask``.
        defect_free: The class folder whose images have no defect; they need no mask.
        strip_prefix: What to leave out of the folders' names to get the classes' names, such as ``MT_``.

    Returns:
        The images, and one line for each problem.

    Raises:
        UserError: If there is no class folder, or ``defect_free`` is none.
    """
    _check_folder(src)
    folders = {folder.name.removeprefix(strip_prefix): folder for folder in _folders(src)}
    if not folders:
        raise UserError(f"{src}: holds no class folder; it should hold one folder of images and masks for each class")
    if defect_free is not None:
        known = [*folders, *(folder.name for folder in folders.values())]
        if defect_free not in known:
            raise UserError(
                f"defect_free={defect_free!r} is no folder in {src}; choose from {', '.join(folders)}"
                f"{suggestion(defect_free, known)}"
            )
        defect_free = defect_free.removeprefix(strip_prefix)
    found: list[Found] = []
    problems: list[str] = []
    for label, folder in folders.items():
        images, masks = _told_apart(folder, mask_suffix, problems)
        for stem, mask in sorted(masks.items()):
            if stem not in images:
                problems.append(f"{mask}: a mask without image {stem!r} in {folder}; add it or move the mask away")
        for stem, image in sorted(images.items()):
            if stem not in masks and label != defect_free:
                problems.append(
                    f"{image}: has no mask in {folder}; add it, tell how masks are named with --mask_suffix, or "
                    "name the folder of images without defect with --defect_free"
                )
                continue
            found.append(
                Found(
                    name=f"{label}_{stem}",
                    origin=image.relative_to(src).as_posix(),
                    image=image,
                    mask=masks.get(stem),
                    label=NO_CLASS if label == defect_free else label,
                    source=f"{label}_{source_of(stem)}",
                )
            )
    return _unique(found, problems)


def read_pairs(src: Path) -> Reading:
    """Read ``images`` and ``masks``, or those of ``train``, ``valid`` and ``test``, with masks in a palette's colours.

    One picture under one name in two splits is taken once; two pictures under one name get their split's name, too.

    Raises:
        UserError: If there is no such tree.
    """
    _check_folder(src)
    roots: dict[str | None, Path] = {None: src} if (src / "images").is_dir() else {}
    if not roots:
        roots = {split: src / split for split in SPLITS if (src / split / "images").is_dir()}
    if not roots:
        raise UserError(f"{src}: has neither images and masks nor train/images and train/masks; check the path")
    problems: list[str] = []
    of_name: dict[str, Found] = {}
    for split, root in roots.items():
        pairs, complaints = find_pairs(root / "images", root / "masks")
        problems += complaints
        for pair in pairs:
            name = pair.name
            if name in of_name:
                if sha256_of(of_name[name].image) == sha256_of(pair.image):
                    continue
                name = f"{name}_{split}"
            origin = pair.image.relative_to(src).as_posix()
            of_name[name] = Found(name, origin, pair.image, pair.mask, None, source_of(pair.name), split)
    return _unique(list(of_name.values()), problems)


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


def _told_apart(folder: Path, mask_suffix: str, problems: list[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the images and the masks below ``folder``, by the stem of the image."""
    images: dict[str, list[Path]] = {}
    masks: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        inside = path.relative_to(folder).parts[:-1]
        is_mask = (
            path.stem.endswith(mask_suffix) if mask_suffix else any(part.lower() in MASK_FOLDERS for part in inside)
        )
        (masks if is_mask else images).setdefault(path.stem.removesuffix(mask_suffix), []).append(path)
    for stem, paths in images.items():
        pngs = [path for path in paths if path.suffix.lower() == ".png"]
        if not mask_suffix and stem not in masks and len(paths) == 2 and len(pngs) == 1:
            masks[stem] = pngs
            paths.remove(pngs[0])
    for stem, paths in [*images.items(), *masks.items()]:
        if len(paths) > 1:
            names = ", ".join(path.relative_to(folder).as_posix() for path in paths)
            problems.append(
                f"{folder}: cannot tell image from mask among {names}; name masks {stem}_mask.png and give "
                "--mask_suffix _mask, or keep them in a folder masks"
            )
    one_image, one_mask = (
        {stem: paths[0] for stem, paths in files.items() if len(paths) == 1} for files in (images, masks)
    )
    return one_image, one_mask


def _check_folder(src: Path) -> None:
    if not src.is_dir():
        raise UserError(f"{src}: this folder does not exist; check the path")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _unique(found: Sequence[Found], problems: list[str]) -> Reading:
    """Refuse two images of one name, and no image at all."""
    first: dict[str, Found] = {}
    for item in found:
        if item.name in first:
            problems.append(f"{item.image}: gets the name {item.name!r} that {first[item.name].image} has; rename one")
        first.setdefault(item.name, item)
    if not found and not problems:
        problems.append("no image was found; check the path")
    return sorted(first.values(), key=lambda item: item.name), problems
