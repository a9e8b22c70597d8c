"""How many planted label errors `audit DATA --labels RUN` finds among its first k places.

    python benchmarks/label_errors.py --data PATH/mvtec-tile-mini --out results/label-errors

Errors are planted into some masks of a copy of the data set: a defect is deleted, gets another class, is grown or
shrunk by some pixels, or a blob is invented. A network is trained for each fold of the copy, by `fit --folds`. A place
counts as found if image and kind agree and the boxes overlap. Further draws plant other errors, which the same networks
are asked about; they were trained on as many wrong labels. With ``--run`` a finished run is asked instead, about the
images that it has not trained on. What was trained is not trained again. The table is printed and written to
``OUT/table.md``. The data set's own label errors count as false positives, so precision is a lower bound.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import distance_transform_edt

from flexunet_pl.core.errors import UserError, print_user_error
from flexunet_pl.core.files import scratch_folder, write_json, write_text
from flexunet_pl.core.types import Pair
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.data.samples import find_pairs
from flexunet_pl.evaluation.held_out import HeldOut, Part, find_held_out
from flexunet_pl.evaluation.label_errors import LabelFinding, check_labels
from flexunet_pl.evaluation.label_regions import INVENTED, KINDS, MISSING, WRONG_CLASS, labelled_regions
from flexunet_pl.training.runs import checkpoint_file

Box = tuple[int, int, int, int]
Window = tuple[slice, slice]
Bools = npt.NDArray[np.bool_]
LEAST_OVERLAP = 0.1  # of the smaller box
SMALLEST = 50  # pixels of a defect that is deleted, swapped or regrown
BLOB = 0.05  # of the image's side: the radius of an invented defect
SHIFT = 0.012  # of the image's diagonal: how far an edge is moved, at least 3 pixels


@dataclass(frozen=True)
class Planted:
    """An error: the file of the image relative to the data set, its kind, and the box of the pixels it changed."""

    image: str
    kind: str
    box: Box


def plant(
    mask_index: UInt8Array, kind: str, num_classes: int, rng: np.random.Generator
) -> tuple[UInt8Array, Box] | None:
    """Return a mask uint8 (H, W) with an error of a kind, and the box it changed; None if there is no place."""
    changed = mask_index.copy()
    if kind == INVENTED:
        inside = _blob(mask_index, rng)
        if inside is None:
            return None
        changed[inside] = rng.integers(1, num_classes)
        return changed, _box_of(inside)
    found = [one for one in labelled_regions(mask_index, num_classes) if one[2].sum() >= SMALLEST]
    if not found:
        return None
    index, window, region = found[int(rng.integers(len(found)))]
    whole = np.zeros(mask_index.shape, dtype=bool)
    whole[window] = region
    if kind == MISSING:
        changed[whole] = 0
    elif kind == WRONG_CLASS:
        changed[whole] = rng.choice([other for other in range(1, num_classes) if other != index])
    else:
        pixels = max(3.0, SHIFT * float(np.hypot(*mask_index.shape)))
        shrunk = whole & (distance_transform_edt(whole) > pixels)
        if rng.random() < 0.5 and shrunk.sum() > whole.sum() / 4:
            changed[whole & ~shrunk] = 0
        else:
            changed[(distance_transform_edt(~whole) <= pixels) & (mask_index == 0)] = index
    return changed, _box_of(whole | (changed != mask_index))


def _blob(mask_index: UInt8Array, rng: np.random.Generator) -> Bools | None:
    """Return bool (H, W): an ellipse on background, away from every defect; None if there is no room."""
    height, width = mask_index.shape
    radius = BLOB * min(height, width)
    room = distance_transform_edt(np.pad(mask_index == 0, 1))[1:-1, 1:-1] > 3 * radius
    if not room.any():
        return None
    y, x = np.argwhere(room)[int(rng.integers(room.sum()))]
    down, across = radius * rng.uniform(0.6, 1.4, 2)
    rows, columns = np.ogrid[:height, :width]
    return np.asarray(((rows - y) / down) ** 2 + ((columns - x) / across) ** 2 <= 1)


def _box_of(region: Bools) -> Box:
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def write_planted(clean: Path, data: Path, pairs: Sequence[Pair], each: int, seed: int) -> list[Planted]:
    """Plant ``each`` errors of each kind into masks of ``data``, made anew from ``pairs`` of ``clean``, one a mask."""
    rng = np.random.default_rng(seed)
    palette = Palette.load(data / "palette.yaml")
    for pair in pairs:
        shutil.copyfile(pair.mask, data / pair.mask.relative_to(clean))
    order = [pairs[place] for place in rng.permutation(len(pairs))]
    planted = []
    for kind in KINDS * each:
        for pair in order:
            mask_index, _ = read_mask(pair.mask, palette, antialiased=True)
            done = plant(mask_index, kind, len(palette), rng)
            if done is not None:
                Image.fromarray(palette.decode(done[0])).save(data / pair.mask.relative_to(clean))
                planted.append(Planted(pair.image.relative_to(clean).as_posix(), kind, done[1]))
                order.remove(pair)
                break
    return planted


def is_found(one: LabelFinding, error: Planted) -> bool:
    """Return whether a finding is about a planted error: same image and kind, and boxes that overlap."""
    if one.image != error.image or one.kind != error.kind:
        return False
    shared = [min(one.box[side + 2], error.box[side + 2]) - max(one.box[side], error.box[side]) for side in (0, 1)]
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one.box, error.box))
    return min(shared) > 0 and shared[0] * shared[1] >= LEAST_OVERLAP * smaller


def precision_and_recall(findings: Sequence[LabelFinding], planted: Sequence[Planted], k: int) -> tuple[float, float]:
    """Return which share of the first k findings is about a planted error, and which share of the errors they name.

    With fewer than k findings, those that are missing count as wrong.
    """
    first = findings[:k]
    right = sum(any(is_found(one, error) for error in planted) for one in first)
    named = sum(any(is_found(one, error) for one in first) for error in planted)
    return right / k, named / len(planted)


def table(draws: Sequence[tuple[Sequence[LabelFinding], Sequence[Planted]]]) -> str:
    """Return precision and recall at k, for k = 1 and 2 times the number of errors, by kind and over all kinds."""
    lines = ["| kind | planted | precision at n | recall at n | recall at 2n | in the right image at n |"]
    lines += ["|---|---|---|---|---|---|"]
    for kind in (*KINDS, "all"):
        rows, total = [], 0
        for findings, planted in draws:
            errors = [error for error in planted if kind in (error.kind, "all")]
            mine = [one for one in findings if kind in (one.kind, "all")]
            if errors:
                n = len(errors)
                total += n
                images = {one.image for one in mine[:n]}
                right_image = sum(error.image in images for error in errors) / n
                recall_at_2n = precision_and_recall(mine, errors, 2 * n)[1]
                rows.append((*precision_and_recall(mine, errors, n), recall_at_2n, right_image))
        if rows:
            cells = " | ".join(f"{value:.2f}" for value in np.mean(rows, axis=0))
            lines.append(f"| {kind} | {total} | {cells} |")
    return "\n".join(lines)


def prepared(source: Path, out: Path, folds: int, config: str) -> tuple[Path, Path]:
    """Return the clean data set with folds, made once of all images of ``source``, and the copy for planted errors."""
    clean, data = out / "clean", out / "data"
    if not (clean / "manifest.csv").is_file():
        words = ["--palette", config, "--antialiased_masks", "true", "--test", "0", "--folds", str(folds)]
        flexunet("prepare", "pairs", str(source), str(clean), *words)
    if not data.is_dir():
        shutil.copytree(clean, data)
    return clean, data


def flexunet(*words: str) -> None:
    """Run a command in a process of its own; UserError if it fails."""
    if subprocess.run([sys.executable, "-m", "flexunet_pl", *words], check=False).returncode:
        raise UserError(f"flexunet {' '.join(words[:2])} failed; see above")


def moved(held_out: HeldOut, clean: Path, data: Path) -> HeldOut:
    """Return the same images, with the masks in ``data``."""

    def there(pair: Pair) -> Pair:
        return Pair(pair.name, data / pair.image.relative_to(clean), data / pair.mask.relative_to(clean))

    return held_out._replace(
        parts=[Part(part.checkpoint, [there(one) for one in part.pairs]) for part in held_out.parts]
    )


def checked(held_out: HeldOut, data: Path) -> list[LabelFinding]:
    """Return the findings of the networks on the masks as they are now."""
    with scratch_folder() as scratch:
        return check_labels(held_out, data, Palette.load(data / "palette.yaml"), scratch).findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant, train, check and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a data set of pairs, with the palette of the config")
    parser.add_argument("--run", type=Path, help="a run that was trained on --data, which is asked instead of new ones")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", default="configs/tile_strong.yaml")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--each", type=int, default=3, help="errors of each kind")
    parser.add_argument("--draws", type=int, default=10)
    options, others = parser.parse_known_args(arguments)
    try:
        if options.run is not None:
            clean, data, run = options.data, options.out / "data", options.run
            if not data.is_dir():
                shutil.copytree(clean, data)
        else:
            clean, data = prepared(options.data, options.out, options.folds, options.config)
            run = options.out / "run"
        if options.run is None and not checkpoint_file(run, "best").is_file():
            pairs, _ = find_pairs(clean / "train" / "images", clean / "train" / "masks")
            write_planted(clean, data, pairs, options.each, seed=0)
            words = ["--config", options.config, "--data.root", str(data), "--folds", str(options.folds)]
            length = ["--trainer.max_steps", str(options.steps), "--trainer.max_epochs", "-1"]
            flexunet("fit", *words, "--run_dir", str(run), "--trainer.max_time", "null", *length, *others)
        held_out = find_held_out(run, data if options.run is None else clean)
        original = moved(held_out, data, clean) if options.run is None else held_out
        draws = []
        for seed in range(options.draws):
            planted = write_planted(clean, data, original.pairs, options.each, seed)
            draws.append((checked(moved(original, clean, data), data), planted))
    except UserError as error:
        return print_user_error(error)
    text = table(draws)
    write_text(options.out / "table.md", text + "\n")
    write_json(
        options.out / "findings.json",
        [{"found": [vars(one) for one in found], "planted": [vars(one) for one in errors]} for found, errors in draws],
    )
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
