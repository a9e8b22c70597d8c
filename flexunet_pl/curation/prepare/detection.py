"""Recognise how a folder holds images and masks, and read it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair, Problem, raise_problems
from flexunet_pl.curation.palette_detection import check_class_name, grown_palette, infer_palette
from flexunet_pl.curation.prepare.annotated import annotation_notes, found_images, palette_maker
from flexunet_pl.curation.prepare.class_folders import USUAL_MASK_SUFFIXES, read_folders
from flexunet_pl.curation.prepare.readers import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    SPLIT_NAMES,
    Found,
    Reading,
    read_mvtec,
    read_pairs,
    subfolders,
    unique,
)
from flexunet_pl.data.annotations.registry import Annotations, find_annotations
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import IMAGE_SUFFIXES, MASK_SUFFIXES, NO_MASK, files_in, spread
from flexunet_pl.data.sources import is_good_name, source_of

GROUPS_FILE = "groups.csv"
# Colours that cover areas in these masks are the classes; more masks seldom show another one.
MASKS_TO_LOOK_AT = 200
# A colour is called after a word of file names if at least this share of the images that show it alone has the word.
LEAST_NAMED = 0.9
LAYOUTS = (
    "test/DEFECT/NNN.png with ground_truth/DEFECT/NNN_mask.png (MVTec AD), a folder for each class with images and "
    "masks, images and masks, train, valid and test, each with images and masks, "
    "or images with annotations (COCO, LabelMe, CVAT, Label Studio, YOLO, Pascal VOC)"
)


@dataclass(frozen=True)
class Contents:
    """What a folder holds.

    Attributes:
        layout: How it is laid out, in words.
        found: The images.
        palette_of: Makes the palette from that of an earlier run, if any.
        has_colors: Whether masks show the colours of the palette, which then can't be chosen.
        groups: A CSV that says which images belong together, if there is one.
        notes: What was assumed, a line each.
    """

    layout: str
    found: list[Found]
    palette_of: Callable[[Palette | None], Palette]
    has_colors: bool = False
    groups: Path | None = None
    notes: list[str] = field(default_factory=list)


def is_split(folder: Path) -> bool:
    """Return whether a folder has images and masks to train and to validate with, in the layout that fit reads."""
    return all((folder / split / part).is_dir() for split in ("train", "valid") for part in ("images", "masks"))


def read_any(src: Path, palette: Palette | None = None, colors: Mapping[str, Sequence[int]] | None = None) -> Contents:
    """Read a folder in whichever layout it has.

    Args:
        src: The folder.
        palette: What the colours of its masks mean; by default ``src/palette.yaml``, else the colours found.
        colors: Names of some colours, used where there is no palette.

    Raises:
        UserError: If it has none of the layouts, or its files have problems; the message lists them.
    """
    if (src / "test").is_dir() and (src / "ground_truth").is_dir():
        return _labelled("MVTec AD", src, read_mvtec(src), palette, [])
    if not _has_masks(src) and (annotations := find_annotations(src)) is not None:
        return _annotated(src, annotations, palette)
    if _holds(src, IMAGE_FOLDERS) and _holds(src, MASK_FOLDERS):
        return _colored("images and masks", src, palette, colors)
    folders = subfolders(src)
    if len(folders) == 1 and not files_in(src, IMAGE_SUFFIXES):  # an archive often holds one folder
        return read_any(folders[0], palette, colors)
    if any(_holds(folder, IMAGE_FOLDERS) and _holds(folder, MASK_FOLDERS) for folder in folders) and any(
        folder.name.lower() in SPLIT_NAMES for folder in folders
    ):
        return _colored("splits with images and masks", src, palette, colors)
    if any((folder / "test").is_dir() and (folder / "ground_truth").is_dir() for folder in folders):
        return _labelled("several categories of MVTec AD", src, read_mvtec(src), palette, [])
    if len(folders) > 1 and any(_has_images(folder) for folder in folders):
        return _class_folders(src, folders, palette)
    raise UserError(f"{src}: holds no layout of images and masks that is known; it should hold {LAYOUTS}")


def _has_masks(src: Path) -> bool:
    """Return whether a folder for masks holds some; of annotated sets, these hold texts."""
    parts = [part for folder in (src, *subfolders(src)) for part in (folder, *subfolders(folder))]
    return any(part.name.lower() in MASK_FOLDERS and files_in(part, MASK_SUFFIXES) for part in parts)


def _annotated(src: Path, annotations: Annotations, palette: Palette | None) -> Contents:
    """Return images with annotations of a labelling tool."""
    found, problems = found_images(annotations, src, None)
    raise_problems(problems, f"{src}: ")
    if not annotations.labels:
        raise UserError(f"{src}: {annotations.format.title}, but no shape marks a defect; annotate some")
    groups = src / GROUPS_FILE
    return Contents(
        f"annotations in the format {annotations.format.title}",
        found,
        palette_maker(annotations, src, palette),
        groups=groups if groups.is_file() else None,
        notes=annotation_notes(annotations),
    )


def _holds(folder: Path, names: Sequence[str]) -> bool:
    return any(inside.name.lower() in names for inside in subfolders(folder))


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))


def _labelled(layout: str, src: Path, reading: Reading, palette: Palette | None, notes: list[str]) -> Contents:
    """Return images whose folders name the class."""
    found, problems = reading
    raise_problems(problems, f"{src}: ")
    labels = sorted({item.label for item in found if item.label})
    if not labels:
        raise UserError(f"{src}: {layout}, but no image shows a defect; add images with defects and their masks")
    for label in labels:
        check_class_name(label, src)
    groups = src / GROUPS_FILE
    return Contents(
        layout,
        found,
        lambda before: grown_palette(labels, before or palette),
        groups=groups if groups.is_file() else None,
        notes=notes,
    )


def _class_folders(src: Path, folders: Sequence[Path], palette: Palette | None) -> Contents:
    """Read class folders, with whichever ending of mask names leaves no file without partner."""
    starts = {re.match(r"[^\W_]*[_-](?=.)|", folder.name)[0] for folder in folders}  # type: ignore[index]  # it always fits
    prefix = starts.pop() if len(starts) == 1 else ""
    found, problems, notes = read_folders(src, strip_prefix=prefix)
    if problems:
        for ending in USUAL_MASK_SUFFIXES:
            again = read_folders(src, mask_suffix=ending, strip_prefix=prefix)
            if not again[1] and any(item.mask is not None for item in again[0]):
                found, problems, notes = again
                break
    if prefix:
        notes.append(f"{src}: {prefix} is taken off the names of the folders")
    return _labelled("a folder for each class", src, (found, problems), palette, notes)


def _colored(layout: str, src: Path, palette: Palette | None, colors: Mapping[str, Sequence[int]] | None) -> Contents:
    """Return images whose masks have a colour for each class."""
    found, problems = read_pairs(src, _mask_suffix(src))
    good = [good for problem in problems if (good := _good_without_mask(src, problem)) is not None]
    raise_problems([problem for problem in problems if _good_without_mask(src, problem) is None], f"{src}: ")
    found, problems = unique([*found, *good], [])
    raise_problems(problems, f"{src}: ")
    notes = [f"images without a mask that are good, as their names say: {len(good)}"] if good else []
    if palette is None and (src / PALETTE_FILE).is_file():
        palette = Palette.load(src / PALETTE_FILE)
    if palette is None:
        pairs = [Pair(item.name, item.image, item.mask) for item in found if item.mask is not None]
        palette = named_palette(pairs, colors)
        notes.append(palette_note(src, palette))
    groups = src / GROUPS_FILE
    chosen = palette
    return Contents(
        layout,
        found,
        lambda before: grown_palette(chosen.names, before or chosen),
        has_colors=True,
        groups=groups if groups.is_file() else None,
        notes=notes,
    )


def _good_without_mask(src: Path, problem: Problem) -> Found | None:
    """Return the image that a problem of pairing is about, if only its mask is missing and its name says it is good."""
    image = None if problem.file is None else Path(problem.file)
    if image is None or not problem.what.startswith(NO_MASK) or not is_good_name(image.stem):
        return None
    inside = [part.lower() for part in image.relative_to(src).parts]
    split = next((SPLIT_NAMES[part] for part in inside if part in SPLIT_NAMES), None)
    return Found(image.stem, image.relative_to(src).as_posix(), image, None, None, source_of(image.stem), split)


def _mask_suffix(src: Path) -> str:
    """Return the ending that all names of masks have and those of images lack, empty if there is none."""
    images: set[str] = set()
    masks: list[str] = []
    for folder in (src, *subfolders(src)):
        for part in subfolders(folder):
            if part.name.lower() in IMAGE_FOLDERS:
                images |= {path.stem for path in files_in(part, IMAGE_SUFFIXES)}
            elif part.name.lower() in MASK_FOLDERS:
                masks += [path.stem for path in files_in(part, MASK_SUFFIXES)]
    for ending in USUAL_MASK_SUFFIXES:
        if masks and all(name.endswith(ending) and name.removesuffix(ending) in images for name in masks):
            return ending
    return ""


def named_palette(pairs: Sequence[Pair], known: Mapping[str, Sequence[int]] | None = None) -> Palette:
    """Return a palette of the colours that cover areas in masks, named after their files where these agree.

    Args:
        pairs: Images and masks.
        known: Names of some colours, which come first and in this order.

    Raises:
        UserError: If the masks show fewer than two such colours.
    """
    chosen = spread(pairs, MASKS_TO_LOOK_AT)
    palette = infer_palette([pair.mask for pair in chosen])
    if len(palette) == 2 and set(palette.colors) <= {(0, 0, 0), (255, 255, 255)}:
        return replace(palette, names=(palette.names[0], "defect"))
    name_of = {tuple(color): name for name, color in (known or {}).items()}
    ordered = [color for color in name_of if color in palette.colors]
    colors = [*ordered, *(color for color in palette.colors if color not in name_of)]
    if palette.colors[0] in colors:
        colors.sort(key=lambda color: color != palette.colors[0])
    in_files = _names_in_files(chosen, replace(palette, colors=tuple(colors)))
    if not name_of and len(in_files) == len(colors) - 1:  # nothing else orders the classes
        colors[1:] = [colors[index] for index in sorted(in_files, key=lambda index: in_files[index])]
        in_files = dict(enumerate(sorted(in_files.values()), start=1))
    names = [
        in_files.get(index) or name_of.get(color) or f"class_{index}" for index, color in enumerate(colors) if index
    ]
    names = [name if names.count(name) == 1 else f"class_{index}" for index, name in enumerate(names, start=1)]
    return Palette((palette.names[0], *names), tuple(colors))


def palette_note(root: Path, palette: Palette) -> str:
    """Return a line that says which colours were taken as classes."""
    listed = ", ".join(f"{name} {list(color)}" for name, color in zip(palette.names, palette.colors, strict=True))
    return f"{root}: has no {PALETTE_FILE}; the colours that cover areas in its masks are taken as {listed}"


def _names_in_files(pairs: Sequence[Pair], palette: Palette) -> dict[int, str]:
    """Return the class indices whose files share a word: crack, where ``crack_3`` and ``crack_7`` show it alone."""
    words: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        try:
            mask_index, _ = read_mask(pair.mask, palette, antialiased=True)
        except UserError:
            continue
        shown = [index for index in range(1, len(palette)) if (mask_index == index).any()]
        if len(shown) == 1:
            words[shown[0]][re.sub(r"[\W_]*\d[\d\W_]*$", "", source_of(pair.name))] += 1
    found = {}
    for index, counts in words.items():
        word, count = counts.most_common(1)[0]
        if re.fullmatch(r"[A-Za-z][\w-]*", word) and count >= LEAST_NAMED * counts.total():
            found[index] = word
    return {index: word for index, word in found.items() if list(found.values()).count(word) == 1}
