"""The images of a report: pairs of image and truth, their palette and groups, and leaks from training images."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.types import Pair, Problem, raise_problems
from flexunet_pl.data.layout import PALETTE_FILE, SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE, read_manifest, sha256_of
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import find_images, find_pairs, image_size, size_problems
from flexunet_pl.data.sources import source_of

WORKERS = 2
NOT_EVALUATED = " in the data, nothing was evaluated"


class ImageSet(NamedTuple):
    """The images a model is evaluated on."""

    pairs: Sequence[Pair]  # image and truth
    root: Path | None  # the folder with splits that they come from; None where only their own folders are known
    antialiased: bool  # whether blended colours of the truth are moved to a neighbouring class
    groups: list[str] | None  # of each (such as photographs of one object) by the manifest; None without a manifest
    leaks: list[str]  # warnings that they are not independent of the training images; empty if nothing is known
    facts: dict[str, Any]  # their folders and counts, as plain data for the report


def find_images_with_truth(
    data: Path | None, split: str, images: Path | None, masks: Path | None, antialiased: bool
) -> ImageSet:
    """Find image and truth of each test image; the arguments are those of the report's ``Request``.

    Raises:
        UserError: If there are none, or files lack their partner.
    """
    if (images is None) != (masks is None):
        raise UserError("--images DIR and --masks DIR belong together; give both, or a data folder instead")
    root: Path | None = None
    if images is None or masks is None:
        if data is None:
            raise UserError("no data: name a data folder, or --images DIR and --masks DIR")
        root, folder = _folder_of(data, split)
        images, masks = folder / "images", folder / "masks"
    elif data is not None:
        raise UserError(f"{data}: --images and --masks replace the data folder; leave one of them out")
    if not masks.is_dir():
        raise UserError(f"{masks}: this folder does not exist; a report needs the truth of every image")
    pairs, problems = find_pairs(images, masks)
    raise_problems(problems, after=NOT_EVALUATED)
    if not pairs:
        raise UserError(f"{images}: none of its {len(find_images(images))} images has a mask in {masks}")
    facts: dict[str, Any] = {"images": str(images), "masks": str(masks)}
    facts |= {"split": None if root is None else split, "manifest_sha256": None}
    facts["sources"] = len({source_of(pair.name) for pair in pairs})  # by their names; a manifest may know better
    groups, leaks = None, []
    if root is not None:
        facts["root"] = str(root)
        group_of: dict[str, str] = {}
        if (root / MANIFEST_FILE).is_file():
            facts["manifest_sha256"] = sha256_of(root / MANIFEST_FILE)
            group_of = {row.file: row.group for row in read_manifest(root)}
            groups = [group_of.get(f"{split}/images/{pair.image.name}", f"only {pair.name}") for pair in pairs]
        leaks = _leaks(root, split, pairs, group_of)
    return ImageSet(pairs, root, antialiased, groups, leaks, facts)


def palette_of_truth(given: Path | None, found: ImageSet, models: Sequence[Palette | None]) -> Palette:
    """Return the palette that the truth is read with, and whose classes all models share.

    Raises:
        UserError: If there is none, or a model has other classes.
    """
    known = [palette for palette in models if palette is not None]
    if given is not None:
        palette = Palette.load(given)
    elif found.root is not None and (found.root / PALETTE_FILE).is_file():
        palette = Palette.load(found.root / PALETTE_FILE)
    elif known:
        palette = known[0]
    else:
        raise UserError(
            f"no palette: the predicted masks have none, and {PALETTE_FILE} is not in "
            f"{found.root if found.root is not None else 'the data'}; give --palette FILE, YAML with the class names "
            "and colours, background first, or a config with data.palette"
        )
    for other in known:
        if other.names != palette.names:
            raise UserError(
                f"the model knows the classes {', '.join(other.names)}, the data {', '.join(palette.names)}: they must "
                "be the same, in the same order; choose the data the model was trained for, or give --palette FILE"
            )
    return palette


def check_truth(found: ImageSet, palette: Palette) -> int:
    """Read every mask once, and the size of every image.

    Returns:
        How many blended pixels are moved to a neighbouring class.

    Raises:
        UserError: One report of all problems.
    """

    def check(pair: Pair) -> tuple[list[Problem], int]:
        try:
            mask_index, moved = read_mask(pair.mask, palette, found.antialiased)
            size = image_size(pair.image)
        except UserError as error:
            return [Problem(str(error).replace("data.antialiased_masks: true", "--antialiased_masks"))], 0
        return size_problems(pair.image, size, mask_index.shape), moved

    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(check, found.pairs))
    raise_problems([problem for found_here, _ in results for problem in found_here], after=NOT_EVALUATED)
    return sum(moved for _, moved in results)


def _folder_of(data: Path, split: str) -> tuple[Path | None, Path]:
    """Return the root with splits, if ``data`` is one, and the folder with images and masks."""
    if not data.is_dir():
        raise UserError(f"{data}: this folder does not exist; name a folder with train, valid and test, or with images")
    splits = [name for name in SPLITS if (data / name / "images").is_dir()]
    if split in splits:
        return data, data / split
    if splits:
        raise UserError(
            f"{data}: has no split {split!r}; choose --split {' or '.join(splits)}{suggestion(split, splits)}"
        )
    if (data / "images").is_dir():
        return None, data
    raise UserError(
        f"{data}: has neither {split}/images and {split}/masks nor images and masks; check the path, or name the "
        "folders with --images and --masks"
    )


def _leaks(root: Path, split: str, pairs: Sequence[Pair], group_of: Mapping[str, str]) -> list[str]:
    """Return a warning for each split with relatives of these images that the model may have learned from."""
    if split == "train":
        return ["These are training images: the scores do not say how the model does on other images."]
    audited = _audited_relatives(root, split)
    found_by = "file names" if audited is None else "the audit of this data set"
    relatives = _relatives_by_name(root, split, pairs, group_of) if audited is None else audited
    return [
        f"{count} of {len(pairs)} images have a relative in {other}, by {found_by}: the scores are better than for "
        "images of other sources."
        for other, count in relatives.items()
        if count and other in ("train", "valid")
    ]


def _audited_relatives(root: Path, split: str) -> dict[str, int] | None:
    """Return the relatives in each other split by the data set's audit, None where it was not audited."""
    try:
        leaks = json.loads((root / "audit.json").read_text(encoding="utf-8"))["leaks"][split]
        return {str(other): int(count) for other, count in leaks["with_relatives_in"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _relatives_by_name(root: Path, split: str, pairs: Sequence[Pair], group_of: Mapping[str, str]) -> dict[str, int]:
    """Return how many images have one of the same source in other splits, by their names and the manifest alone."""

    def marks(file: str) -> set[str]:
        by_name = {f"source {source_of(Path(file).stem)}"}
        return by_name | {f"group {group_of[file]}"} if file in group_of else by_name

    own = [marks(f"{split}/images/{pair.image.name}") for pair in pairs]
    counts = {}
    for other in SPLITS:
        if other != split and (root / other / "images").is_dir():
            files = [path.name for path in (root / other / "images").iterdir()]
            known = set().union(*(marks(f"{other}/images/{name}") for name in files))
            counts[other] = sum(not mine.isdisjoint(known) for mine in own)
    return counts
