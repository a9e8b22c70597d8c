"""prepare: one typed function for each source of a data set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flexunet_pl.cli.parser import call
from flexunet_pl.core.console import note, say
from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.prepare.options import Settings

# The modules that do the work import numpy, scipy and more; --help does not wait for them.
if TYPE_CHECKING:
    from flexunet_pl.core.types import Problem
    from flexunet_pl.curation.prepare.builder import Outcome
    from flexunet_pl.curation.prepare.readers import Found
    from flexunet_pl.data.manifest import Row
    from flexunet_pl.data.palette import Palette

MASKS_TO_LOOK_AT = 200


def run(words: Sequence[str]) -> int:
    """Run the command."""
    return call("prepare", SOURCES, words)


def prepare_mvtec(
    src: Path,
    out: Path,
    good: Literal["all", "test", "none"] = "all",
    merge_defects: bool = False,
    **settings: Any,
) -> int:
    """Make a data set of a category of MVTec AD as downloaded, or of a folder of several.

    Args:
        src: The category's folder (with test and ground_truth), or the folder of several.
        out: The folder of the data set, new or empty.
        good: Which defect-free images to take: all, test (those of the test folder), or none.
        merge_defects: Whether all kinds of defects become one class "defect".
        **settings: The options of all sources, see Settings.
    """
    from flexunet_pl.curation.prepare.readers import read_mvtec

    found, problems = read_mvtec(src, good)
    if merge_defects:
        found = [replace(item, label="defect") if item.label else item for item in found]
    return _labelled(found, problems, src, out, Settings(**settings))


def prepare_folders(
    src: Path,
    out: Path,
    mask_suffix: str = "",
    defect_free: str | None = None,
    strip_prefix: str = "",
    **settings: Any,
) -> int:
    """Make a data set of class folders that hold images and two-valued masks, nested to any depth.

    Args:
        src: The folder of the class folders.
        out: The folder of the data set, new or empty.
        mask_suffix: Ending of a mask's name that its image's name lacks, such as _mask; by default the names are the
            same, and the mask is the file in a folder masks, or the PNG of the two.
        defect_free: The class folder whose images have no defect and need no mask; by default it is found by its
            masks, which mark nothing or are not there.
        strip_prefix: Prefix to remove from folder names to get class names, such as MT_.
        **settings: The options of all sources, see Settings.
    """
    from flexunet_pl.curation.prepare.class_folders import read_folders

    found, problems, notes = read_folders(src, mask_suffix, defect_free, strip_prefix)
    if notes:
        note(*notes)
    return _labelled(found, problems, src, out, Settings(**settings))


def prepare_pairs(src: Path, out: Path, mask_suffix: str = "", keep_splits: bool = False, **settings: Any) -> int:
    """Make a data set of images and masks, or split a data set with train, valid and test again.

    Masks are colour PNG, index PNG or npz; the palette is --palette FILE or SRC/palette.yaml.

    Args:
        src: Folder with images and masks, or with train/images and train/masks and so on.
        out: The folder of the data set, new or empty.
        mask_suffix: Ending of a mask's name that its image's name lacks, such as _mask.
        keep_splits: Whether every image stays in the split it is in now; leaks are reported then, not fixed.
        **settings: The options of all sources, see Settings.
    """
    from flexunet_pl.core.types import Problem, raise_problems
    from flexunet_pl.curation.palette_detection import grown_palette
    from flexunet_pl.curation.prepare.builder import build
    from flexunet_pl.curation.prepare.readers import read_pairs
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.data.layout import SPLITS

    chosen = Settings(**settings)
    palette = _palette_of_masks(src, chosen.palette)
    found, problems = read_pairs(src, mask_suffix)
    if keep_splits and any(item.split is None for item in found):
        problems.append(Problem("keep_splits needs train, valid and test in this folder", repair="leave it out"))
    raise_problems(problems, f"{src}: ", ", nothing was written")
    with pixel_limit(chosen.max_pixels):
        outcome = build(
            found,
            out,
            lambda before: grown_palette(palette.names, before or palette),
            chosen,
            kept_splits=SPLITS if keep_splits else (),
        )
        return _show(outcome, out)


def prepare_annotations(
    src: Path,
    out: Path,
    images: Path | None = None,
    line_width: float | None = None,
    unannotated: Literal["skip", "defect_free"] = "skip",
    keep_splits: bool = False,
    **settings: Any,
) -> int:
    """Make a data set of images with annotations: COCO, LabelMe, CVAT, Label Studio, YOLO or Pascal VOC.

    The content of the files says which format it is. Where shapes overlap, a later one covers an earlier one. Labels
    "background" and "ignore" are no classes.

    Args:
        src: The file of the annotations, or a folder with annotations and images at any depth.
        out: The folder of the data set, new or empty.
        images: The folder of the images, where it is not in SRC.
        line_width: Width in pixels of lines and points, which are refused without one.
        unannotated: What to do with images that no annotation names: skip, or take them as defect_free.
        keep_splits: Whether every image stays in the split that its folder names; leaks are reported then, not fixed.
        **settings: The options of all sources, see Settings.
    """
    from flexunet_pl.core.types import Problem, raise_problems
    from flexunet_pl.curation.prepare.annotated import annotation_notes, found_images, palette_maker
    from flexunet_pl.curation.prepare.builder import build
    from flexunet_pl.data.annotations.registry import read_annotations
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.data.layout import SPLITS
    from flexunet_pl.data.palette import Palette

    chosen = Settings(**settings)
    given = None if chosen.palette is None else Palette.load(chosen.palette)
    takes_all = unannotated == "defect_free"
    with pixel_limit(chosen.max_pixels):
        annotations = read_annotations(src, images, line_width)
        found, problems = found_images(annotations, src, images, takes_all)
        if keep_splits and any(item.split is None for item in found):
            what = "keep_splits needs every image in a folder train, valid or test"
            problems.append(Problem(what, repair="leave it out"))
        raise_problems(problems, f"{src}: ", ", nothing was written")
        if not annotations.labels:
            raise UserError(f"{src}: {annotations.format.title}, but no shape marks a defect; annotate some")
        palette_of = palette_maker(annotations, src, given)
        note(f"{src}: {annotations.format.title}, {len(found)} images", *annotation_notes(annotations, takes_all))
        return _show(build(found, out, palette_of, chosen, kept_splits=SPLITS if keep_splits else ()), out)


def prepare_masks(
    src: Path,
    out: Path,
    to: Literal["color", "index", "npz"] = "color",
    palette: Path | None = None,
    antialiased_masks: bool = False,
    update: bool = False,
    max_pixels: int | None = None,
) -> int:
    """Turn a folder of masks (colour PNG, index PNG, npz) into another of these forms.

    Args:
        src: The folder of the masks.
        out: The folder to write to, new or empty.
        to: color (PNG in exact palette colours), index (PNG of indices with the palette) or npz (one-hot, H x W x K).
        palette: YAML file with class names and colours, or a config that has them; by default palette.yaml in SRC or
            above it.
        antialiased_masks: Whether blended mask colours are moved to a neighbouring class.
        update: Whether OUT may hold masks already; only missing ones are added.
        max_pixels: The most pixels of a mask (default: 100 million).
    """
    from flexunet_pl.curation.conversion import convert_masks
    from flexunet_pl.data.image_files import pixel_limit

    colors = _palette_of_masks(src, palette)
    if out.is_dir() and any(out.iterdir()) and not update:
        raise UserError(f"{out}: is not empty; give a new folder, or --update true to add what is missing")
    with pixel_limit(max_pixels):
        written, moved = convert_masks(src, out, colors, to, antialiased_masks)
    say(f"{written} masks written to {out}" + (f", {moved:,} blended pixels moved to a class" if moved else ""))
    return 0


def prepare_synthetic(out: Path, images: int = 200, size: int = 512, seed: int = 0) -> int:
    """Draw a demo data set of made-up tiles with five kinds of defects; what is there already stays.

    Args:
        out: The folder of the data set: new, empty, or written by this command with the same numbers.
        images: How many pictures in all, at least 3.
        size: Side in pixels.
        seed: Seed of the drawing.
    """
    from flexunet_pl.curation.prepare.offline_augmentation import describe
    from flexunet_pl.data.palette import Palette
    from flexunet_pl.data.synthetic.dataset import TILE_PALETTE, write_dataset

    write_dataset(out, images, (size, size), seed)
    palette = Palette.from_mapping(TILE_PALETTE)
    return _record(out, describe(out, palette), palette)


def prepare_augment(
    src: Path,
    out: Path,
    augment: dict[str, Any] | None = None,
    copies: int = 0,
    seed: int = 0,
    update: bool = False,
) -> int:
    """Copy a prepared data set and add augmented variants of its training images.

    Args:
        src: The folder of a prepared data set.
        out: The folder of the new one, new or empty.
        augment: Transforms, as data.augment in a config; by default {preset: flexunet}, the original's variants.
        copies: Further variants of each image with each transform at its probability.
        seed: Seed of all random numbers.
        update: Whether OUT may hold some of it already; what is missing is added.
    """
    from flexunet_pl.curation.prepare.offline_augmentation import augment_dataset

    rows, palette = augment_dataset(
        src, out, {"preset": "flexunet"} if augment is None else augment, copies, seed, update
    )
    return _record(out, rows, palette)


def _labelled(found: "list[Found]", problems: "list[Problem]", src: Path, out: Path, settings: Settings) -> int:
    """Build a data set of images whose masks have two values and whose folders name the class."""
    from flexunet_pl.core.types import raise_problems
    from flexunet_pl.curation.palette_detection import check_class_name, grown_palette
    from flexunet_pl.curation.prepare.builder import build
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.data.palette import Palette

    raise_problems(problems, f"{src}: ", ", nothing was written")
    labels = sorted({item.label for item in found if item.label})
    for label in labels:
        check_class_name(label, src)
    given = None if settings.palette is None else Palette.load(settings.palette)
    with pixel_limit(settings.max_pixels):
        return _show(build(found, out, lambda before: grown_palette(labels, before or given), settings), out)


def _palette_of_masks(src: Path, given: Path | None) -> "Palette":
    """Return the palette given, else the one beside the masks.

    Raises:
        UserError: If there is none; the message lists the colours of the masks.
    """
    from flexunet_pl.curation.palette_detection import infer_palette
    from flexunet_pl.data.layout import PALETTE_FILE
    from flexunet_pl.data.palette import Palette

    if given is not None:
        return Palette.load(given)
    for folder in (src, src.parent):
        if (folder / PALETTE_FILE).is_file():
            return Palette.load(folder / PALETTE_FILE)
    message = f"{src}: has no {PALETTE_FILE}; write one with the class names and colours and give --palette FILE"
    try:
        masks = [path for path in sorted(src.rglob("*.png")) if "images" not in path.relative_to(src).parts]
        colors = ", ".join(str(list(color)) for color in infer_palette(masks[:MASKS_TO_LOOK_AT]).colors)
    except UserError:
        raise UserError(message) from None
    raise UserError(f"{message}. Colours that cover areas in its masks: {colors}")


def _show(outcome: "Outcome", out: Path) -> int:
    """Draw what was built and print a summary."""
    from flexunet_pl.curation.prepare.messages import outcome_lines
    from flexunet_pl.curation.prepare.overview import draw_overview

    draw_overview(out, outcome.rows, outcome.palette)
    say(*outcome_lines(out, outcome))
    return 0


def _record(out: Path, rows: "Sequence[Row]", palette: "Palette") -> int:
    """Write the manifest of a data set made by other means, draw it, and print a summary."""
    from flexunet_pl.curation.prepare.messages import content_lines
    from flexunet_pl.curation.prepare.overview import draw_overview
    from flexunet_pl.data.manifest import write_manifest

    write_manifest(out, rows)
    draw_overview(out, rows, palette)
    say(*content_lines(out, rows, palette))
    return 0


SOURCES: dict[str, Callable[..., int]] = {
    "mvtec": prepare_mvtec,
    "folders": prepare_folders,
    "pairs": prepare_pairs,
    "annotations": prepare_annotations,
    "masks": prepare_masks,
    "synthetic": prepare_synthetic,
    "augment": prepare_augment,
}
