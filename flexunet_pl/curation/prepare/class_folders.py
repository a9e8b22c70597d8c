"""Find images and two-valued masks in class folders, nested to any depth."""

from collections.abc import Mapping
from pathlib import Path

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.types import Problem
from flexunet_pl.curation.prepare.readers import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    NO_CLASS,
    Found,
    Reading,
    check_folder,
    subfolders,
    unique,
)
from flexunet_pl.data.samples import IMAGE_SUFFIXES
from flexunet_pl.data.sources import source_of

# Usual endings of mask names, suggested when files lack a partner.
USUAL_MASK_SUFFIXES = ("_mask", "-mask", "_masks", "_gt", "_label", "_seg", "_m")

Files = dict[str, Path]


def read_folders(src: Path, mask_suffix: str = "", defect_free: str | None = None, strip_prefix: str = "") -> Reading:
    """Read class folders that hold images and two-valued masks, side by side or in folders below, nested to any depth.

    Of two files with one stem the mask is the one in a folder called ``masks`` or so, else the only PNG.

    Args:
        src: The folder of the class folders.
        mask_suffix: Ending of a mask's stem that its image's stem lacks, such as ``_mask``.
        defect_free: The class folder whose images have no defect; they need no mask.
        strip_prefix: Prefix to remove from folder names to get class names, such as ``MT_``.

    Raises:
        UserError: If there is no class folder, ``defect_free`` is none, or two folders give one class.
    """
    check_folder(src)
    folders = _class_folders(src, defect_free, strip_prefix)
    found: list[Found] = []
    problems: list[Problem] = []
    for label, folder in folders.items():
        images, masks = _images_and_masks(folder, mask_suffix, problems)
        is_good = defect_free is not None and label == defect_free.removeprefix(strip_prefix)
        problems += _unpaired(folder, images, masks, mask_suffix, is_good=is_good)
        stems = [Path(key).name for key in images]
        for key, image in sorted(images.items()):
            if key not in masks and not is_good:
                continue
            stem = Path(key).name
            # Pictures of one name in two folders of a class bear the folders' names too.
            name = stem if stems.count(stem) == 1 else key.replace("/", "_")
            source = name.removesuffix(stem) + source_of(stem)
            found.append(
                Found(
                    name=f"{label}_{name}",
                    origin=image.relative_to(src).as_posix(),
                    image=image,
                    mask=masks.get(key),
                    label=NO_CLASS if is_good else label,
                    source=f"{label}_{source}",
                )
            )
    return unique(found, problems)


def _class_folders(src: Path, defect_free: str | None, strip_prefix: str) -> dict[str, Path]:
    """Return the folder of each class, after checking ``defect_free``."""
    folders: dict[str, Path] = {}
    for folder in subfolders(src):
        label = folder.name.removeprefix(strip_prefix)
        if label in folders:
            raise UserError(
                f"{folders[label]} and {folder} both give the class {label!r} with strip_prefix={strip_prefix!r}; "
                "rename one, or leave the prefix"
            )
        folders[label] = folder
    if not folders:
        raise UserError(f"{src}: holds no class folder; it should hold one folder of images and masks for each class")
    known = [*folders, *(folder.name for folder in folders.values())]
    if defect_free is not None and defect_free not in known:
        raise UserError(
            f"defect_free={defect_free!r} is no folder in {src}; choose from {', '.join(folders)}"
            f"{suggestion(defect_free, known)}"
        )
    return folders


def _unpaired(folder: Path, images: Files, masks: Files, mask_suffix: str, *, is_good: bool) -> list[Problem]:
    """Return a line for each mask without image, and for each image that needs a mask and has none."""
    problems = [
        Problem(f"a mask without image {key!r} in {folder}", masks[key], "add it or move the mask away")
        for key in sorted(masks.keys() - images.keys())
    ]
    without = [] if is_good else sorted(images.keys() - masks.keys())
    for ending in USUAL_MASK_SUFFIXES if not mask_suffix else ():
        as_masks = [key for key in without if key.endswith(ending) and key.removesuffix(ending) in images]
        if as_masks:
            what = f"{len(as_masks)} files such as {images[as_masks[0]].name} look like masks"
            return [Problem(what, folder, f"if they are, give --mask_suffix {ending}"), *problems]
    repair = "add it, give the ending of mask names with --mask_suffix, or name the folder of defect-free images with "
    return problems + [Problem(f"has no mask in {folder}", images[key], repair + "--defect_free") for key in without]


def _images_and_masks(folder: Path, mask_suffix: str, problems: list[Problem]) -> tuple[Files, Files]:
    """Return the images and the masks below ``folder``.

    The key of both is the path of the image below ``folder`` without suffix, and without folders that only separate
    images from masks.
    """
    images: dict[str, list[Path]] = {}
    masks: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if any(part.startswith((".", "__MACOSX")) for part in inside) or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if not path.is_file():
            continue
        folders = inside[:-1]
        is_mask = (
            path.stem.endswith(mask_suffix) if mask_suffix else any(part.lower() in MASK_FOLDERS for part in folders)
        )
        kept = [part for part in folders if part.lower() not in (*MASK_FOLDERS, *IMAGE_FOLDERS)]
        key = "/".join([*kept, path.stem.removesuffix(mask_suffix) if is_mask else path.stem])
        (masks if is_mask else images).setdefault(key, []).append(path)
    for key, paths in images.items():
        pngs = [path for path in paths if path.suffix.lower() == ".png"]
        if not mask_suffix and key not in masks and len(paths) == 2 and len(pngs) == 1:
            masks[key] = pngs
            paths.remove(pngs[0])
    problems += [*_doubles(folder, images), *_doubles(folder, masks)]
    one_image, one_mask = (
        {key: paths[0] for key, paths in files.items() if len(paths) == 1} for files in (images, masks)
    )
    return one_image, one_mask


def _doubles(folder: Path, files: Mapping[str, list[Path]]) -> list[Problem]:
    return [
        Problem(
            f"which is the mask? {', '.join(path.relative_to(folder).as_posix() for path in paths)} have one name",
            folder,
            f"name masks {Path(key).name}_mask.png and give --mask_suffix _mask, or keep them in a folder masks",
        )
        for key, paths in files.items()
        if len(paths) > 1
    ]
