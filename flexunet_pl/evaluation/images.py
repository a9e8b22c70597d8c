"""Which images a report is about: pairs of image and truth, their palette and groups, and whether they leak."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.data.layout import PALETTE_FILE, SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE, read_manifest, sha256_of
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import Pair, find_images, find_pairs, image_size
from flexunet_pl.data.sources import source_of

WORKERS = 2
MOST_PROBLEMS = 20


@dataclass(frozen=True)
class ImageSet:
    """The images a model is judged on.

    Attributes:
        pairs: Image and truth of each.
        root: The folder with splits that they are from, None where only their own folders are known.
        split: Their split, None without root.
        antialiased: Whether blended colours of the truth are moved to a neighbouring class.
        groups: What each belongs to (photographs of one object, say), by the manifest; None without one.
        leaks: Sentences that say that they are not independent of the training images; empty if nothing is known.
        facts: Where they are from, as plain data.
    """

    pairs: Sequence[Pair]
    root: Path | None
    split: str | None
    antialiased: bool
    groups: list[str] | None
    leaks: list[str]
    facts: dict[str, Any]


def find_images_with_truth(
    data: Path | None, split: str, images: Path | None, masks: Path | None, antialiased: bool
) -> ImageSet:
    """Find image and truth of each test image.

    Args:
        data: A folder with train, valid and test, or with images and masks; or None.
        split: Which split of ``data``.
        images: Folder of images, instead of ``data``.
        masks: Folder of masks, instead of ``data``.
        antialiased: Whether blended colours of the truth are moved to a neighbouring class.

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
        raise UserError(f"{data}: --images and --masks stand instead of a data folder; leave one of them out")
    if not masks.is_dir():
        raise UserError(f"{masks}: this folder does not exist; a report needs the truth of every image")
    pairs, problems = find_pairs(images, masks)
    _raise_all(problems)
    if not pairs:
        raise UserError(f"{images}: none of its {len(find_images(images))} images has a mask in {masks}")
    name = split if root is not None else None
    facts: dict[str, Any] = {"images": str(images), "masks": str(masks), "split": name}
    facts["manifest_sha256"] = None
    facts["sources"] = len({source_of(pair.name) for pair in pairs})  # by their names; a manifest may know better
    groups, leaks = None, []
    if root is not None:
        facts["root"] = str(root)
        if (root / MANIFEST_FILE).is_file():
            facts["manifest_sha256"] = sha256_of(root / MANIFEST_FILE)
        groups = _groups(root, split, pairs)
        leaks = _leaks(root, split, pairs)
    return ImageSet(pairs, root, name, antialiased, groups, leaks, facts)


def read_palette(path: Path) -> Palette:
    """Read a palette from a YAML file, or from ``data.palette`` of a config.

    Raises:
        UserError: If it holds none.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--palette {path}: cannot be read as YAML ({error}); give a palette or a config") from error
    if isinstance(content, dict) and isinstance(content.get("data"), dict) and "palette" in content["data"]:
        return Palette.from_mapping(content["data"]["palette"], f"{path}: data.palette")
    return Palette.from_mapping(content, str(path))


def palette_of_truth(given: Path | None, found: ImageSet, models: Sequence[Palette | None]) -> Palette:
    """Return the palette that the truth is read with, and whose classes all models share.

    Raises:
        UserError: If there is none, or a model has other classes.
    """
    known = [palette for palette in models if palette is not None]
    if given is not None:
        palette = read_palette(given)
    elif found.root is not None and (found.root / PALETTE_FILE).is_file():
        palette = Palette.load(found.root / PALETTE_FILE)
    elif known:
        palette = known[0]
    else:
        raise UserError(
            f"nothing says which colour is what: predicted masks bring no palette, and {PALETTE_FILE} is not in "
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

    def check(pair: Pair) -> tuple[str | None, int]:
        assert pair.mask is not None  # noqa: S101  find_pairs gives pairs with a mask only
        try:
            mask_index, moved = read_mask(pair.mask, palette, found.antialiased)
            size = image_size(pair.image)
        except UserError as error:
            return str(error).replace("data.antialiased_masks: true", "--antialiased_masks"), 0
        if mask_index.shape != size:
            sizes = " and ".join(f"{height} x {width}" for height, width in (size, mask_index.shape))
            return f"{pair.image}: image and mask differ in size (height x width: {sizes}); crop one to the other", 0
        return None, moved

    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(check, found.pairs))
    _raise_all([problem for problem, _ in results if problem is not None])
    return sum(moved for _, moved in results)


def _raise_all(problems: Sequence[str]) -> None:
    if problems:
        lines = [f"  {number}. {problem}" for number, problem in enumerate(problems[:MOST_PROBLEMS], start=1)]
        if len(problems) > MOST_PROBLEMS:
            lines.append(f"  and {len(problems) - MOST_PROBLEMS} more")
        count = f"{len(problems)} problem{'s'[: len(problems) > 1]}"
        raise UserError("\n".join([f"{count} in the data, nothing was judged:", *lines]))


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


def _groups(root: Path, split: str, pairs: Sequence[Pair]) -> list[str] | None:
    """Return the group of each pair by the manifest, a group of its own for one it does not list; None without one."""
    if not (root / MANIFEST_FILE).is_file():
        return None
    group_of = {row.file: row.group for row in read_manifest(root)}
    return [group_of.get(f"{split}/images/{pair.image.name}", f"only {pair.name}") for pair in pairs]


def _leaks(root: Path, split: str, pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence for each split with relatives of these images that the model may have learned from."""
    if split == "train":
        return ["These are training images: the scores say how well they were learned, not how well others will do."]
    audited = _audited_relatives(root, split)
    witness = "file names" if audited is None else "the audit of this data set"
    relatives = _relatives_by_name(root, split, pairs) if audited is None else audited
    return [
        f"{count} of {len(pairs)} images have a relative in {other}, by {witness}: the scores are better than for "
        "images of other sources."
        for other, count in relatives.items()
        if count and other in ("train", "valid")
    ]


def _audited_relatives(root: Path, split: str) -> dict[str, int] | None:
    """Return what the data set's audit says of this split, None where it was not audited."""
    try:
        leaks = json.loads((root / "audit.json").read_text(encoding="utf-8"))["leaks"][split]
        return {str(other): int(count) for other, count in leaks["with_relatives_in"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _relatives_by_name(root: Path, split: str, pairs: Sequence[Pair]) -> dict[str, int]:
    """Return how many images have one of the same source in other splits, by their names and the manifest alone."""
    group_of: dict[str, str] = {}
    if (root / MANIFEST_FILE).is_file():
        group_of = {row.file: row.group for row in read_manifest(root)}

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
