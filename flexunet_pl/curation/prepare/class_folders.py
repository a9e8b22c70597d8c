"""Find images and two-valued masks in class folders, nested to any depth."""

from collections.abc import Collection, Mapping
from pathlib import Path

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.types import Problem
from flexunet_pl.curation.conversion import read_two_valued
from flexunet_pl.curation.prepare.readers import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    NO_CLASS,
    Found,
    check_folder,
    subfolders,
    unique,
)
from flexunet_pl.data.samples import IMAGE_SUFFIXES
from flexunet_pl.data.sources import source_of

# Usual endings of mask names, suggested when files lack a partner.
USUAL_MASK_SUFFIXES = ("_mask", "-mask", "_masks", "_gt", "_label", "_seg", "_m")

Files = dict[str, Path]


def read_folders(
    src: Path, mask_suffix: str = "", defect_free: str | None = None, strip_prefix: str = ""
) -> tuple[list[Found], list[Problem], list[str]]:
    """Read class folders that hold images and two-valued masks, side by side or in folders below, nested to any depth.

    Of two files with one stem the mask is the one in a folder called ``masks`` or so, else the only PNG.

    Args:
        src: The folder of the class folders.
        mask_suffix: Ending of a mask's stem that its image's stem lacks, such as ``_mask``.
        defect_free: The class folder whose images have no defect; they need no mask. By default it is each folder
            whose masks mark nothing, and the folder without masks if there is one.
        strip_prefix: Prefix to remove from folder names to get class names, such as ``MT_``.

    Returns:
        The images, the problems, and a line for each folder that was taken as defect-free.

    Raises:
        UserError: If there is no class folder, ``defect_free`` is none, or two folders give one class.
    """
    check_folder(src)
    folders = _class_folders(src, defect_free, strip_prefix)
    found: list[Found] = []
    problems: list[Problem] = []
    files = {label: _images_and_masks(folder, mask_suffix, problems) for label, folder in folders.items()}
    if defect_free is None:
        reason_of = _defect_free_folders(files, mask_suffix)
    else:
        reason_of = {defect_free.removeprefix(strip_prefix): ""}
    for label, folder in folders.items():
        images, masks = files[label]
        is_good = label in reason_of
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
    notes = [f"{folders[label]}: taken as defect-free, since {reason}" for label, reason in reason_of.items() if reason]
    return *unique(found, problems), notes


def _defect_free_folders(files: Mapping[str, tuple[Files, Files]], mask_suffix: str) -> dict[str, str]:
    """Return the labels of the folders without a defect, by their masks, with the reason.

    A folder without any mask counts if it is the only one, and others have masks that mark something.
    """
    reason_of: dict[str, str] = {}
    without_masks = []
    for label, (images, masks) in files.items():
        if masks and not any(_marks(mask) for mask in masks.values()):
            reason_of[label] = "no mask in it marks a pixel"
        elif images and not masks and not (mask_suffix == "" and _mask_suffixes(images, set(images))):
            without_masks.append(label)
    has_defects = len(reason_of) + len(without_masks) < len(files)
    if len(without_masks) == 1 and has_defects:
        reason_of[without_masks[0]] = "it is the only folder without masks"
    return reason_of if has_defects else {}


def _marks(mask: Path) -> bool:
    """Return whether a mask marks a pixel; one that cannot be read does, so that it is reported later."""
    try:
        return bool(read_two_valued(mask).any())
    except UserError:
        return True


def _mask_suffixes(images: Files, without: Collection[str]) -> dict[str, list[str]]:
    """Return the usual endings of masks in the names of images without mask, with the names that have them."""
    found = {
        ending: [key for key in sorted(without) if key.endswith(ending) and key.removesuffix(ending) in images]
        for ending in USUAL_MASK_SUFFIXES
    }
    return {ending: keys for ending, keys in found.items() if keys}


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
    for ending, as_masks in _mask_suffixes(images, without).items() if not mask_suffix else ():
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
