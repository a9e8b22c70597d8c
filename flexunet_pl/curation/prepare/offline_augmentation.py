"""Derive a manifest for a data set without one, and a data set with augmented training images."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flexunet_pl.core.console import progress
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Problem, collected, raise_problems
from flexunet_pl.curation.conversion import png_bytes, read_any_image
from flexunet_pl.curation.looks import Looks
from flexunet_pl.curation.prepare.output_folder import add_file, claim, refuse_unplanned_files
from flexunet_pl.curation.prepare.readers import MOST_BYTES
from flexunet_pl.data.layout import PALETTE_FILE, SPLITS
from flexunet_pl.data.manifest import MANIFEST_FILE, Row, count_pixels, read_manifest, sha256_of
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import find_pairs
from flexunet_pl.data.sources import source_of

WORKERS = 2


def describe(root: Path, palette: Palette) -> list[Row]:
    """Return the rows of a data set ``root/SPLIT/{images,masks}``, sources by name; raise UserError of all problems."""
    problems: list[Problem] = []
    rows: list[Row] = []
    for split in SPLITS:
        if not (root / split / "images").is_dir():
            continue
        pairs, complaints = find_pairs(root / split / "images", root / split / "masks")
        problems += complaints
        for pair in pairs:
            source = source_of(pair.name)
            file = pair.image.relative_to(root).as_posix()
            with collected(problems):
                pixels = count_pixels(read_mask(pair.mask, palette, antialiased=False)[0], palette)
                rows.append(Row(file, source, source, pixels, split, sha256_of(pair.image)))
    raise_problems(problems, f"{root}: ", ", nothing was written")
    return rows


def augment_dataset(
    src: Path, out: Path, augment: Mapping[str, Any], copies: int, seed: int, update: bool
) -> tuple[list[Row], Palette]:
    """Copy a data set with augmented variants of its training images; return manifest, not yet written, and palette.

    Raises:
        UserError: If ``src`` is no prepared data set, has folds, or ``augment`` asks for what cannot be done offline.
    """
    from flexunet_pl.data.augment.offline import offline_name, offline_samples, offline_variants  # needs torch

    if not (src / PALETTE_FILE).is_file() or not (src / MANIFEST_FILE).is_file():
        raise UserError(
            f"{src}: lacks {PALETTE_FILE} or {MANIFEST_FILE}, so it is no prepared data set; make one of it with "
            "`python -m flexunet_pl prepare pairs`"
        )
    palette = Palette.load(src / PALETTE_FILE)
    rows = read_manifest(src)
    if any(row.fold is not None for row in rows):
        raise UserError(
            f"{src}: has folds, where a variant of an image would validate it; augment while training (data.augment)"
        )
    variants = offline_variants(augment, copies)
    claim(out, update)
    own = {row.name: row.split for row in rows}
    training = [row.name for row in rows if row.split == "train"]
    new = {offline_name(variant.prefix, name): "train" for name in training for variant in variants}
    if too_long := [name for name in new if len(os.fsencode(f"{name}.png")) > MOST_BYTES]:
        raise UserError(
            f"{src}: the name {too_long[0]}.png of a variant is longer than the {MOST_BYTES} bytes that file systems "
            "allow; give its image a shorter name"
        )
    refuse_unplanned_files(out, own | new)
    palette.save(out / PALETTE_FILE)
    if (looks := Looks.load(src)) is not None:
        looks.save(out)

    def copied(row: Row) -> list[Row]:
        mask = f"{row.split}/masks/{row.name}.png"
        add_file(out / mask, (src / mask).read_bytes())
        add_file(out / row.file, (src / row.file).read_bytes())
        return [row, *varied(row)] if row.split == "train" else [row]

    def varied(row: Row) -> Iterator[Row]:
        planes = np.ascontiguousarray(read_any_image(src / row.file).transpose(2, 0, 1))
        mask_index, _ = read_mask(src / "train" / "masks" / f"{row.name}.png", palette, antialiased=False)
        missing = [variant for variant in variants if offline_name(variant.prefix, row.name) not in own]
        for name, image, mask in offline_samples(row.name, planes, mask_index, missing, seed):
            file = f"train/images/{name}.png"
            add_file(out / "train" / "masks" / f"{name}.png", png_bytes(palette.decode(mask)))
            add_file(out / file, png_bytes(np.ascontiguousarray(image.transpose(1, 2, 0))))
            yield replace(row, file=file, pixels=count_pixels(mask, palette), sha256=sha256_of(out / file))

    with ThreadPoolExecutor(WORKERS) as pool:
        groups = progress(pool.map(copied, rows), "Augmenting images", len(rows))
        return [new for group in groups for new in group], palette
