"""What limits each class: the Dice it would have if one kind of its wrong pixels were right.

    python benchmarks/limits.py results/tile/strong-seed0/checkpoints/last.ckpt --data PATH/mvtec-tile-mini --out limits

Each wrong pixel of a class is of one kind:

- edge: among the ``REACH`` pixels on either side of the contour of the class in the truth;
- overlooked: further inside, and background in the prediction;
- mixed up: further from the edge, and one foreground class taken for another;
- invented: further outside, on background.

The table is printed and written to ``OUT/limits.md``; ``OUT/limits.png`` draws what each kind costs.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from flexunet_pl.core.errors import UserError, print_user_error
from flexunet_pl.core.files import write_text
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array
from flexunet_pl.evaluation.evaluator import open_with_truth
from flexunet_pl.visualization.pictures import bar_chart, contour, save_picture

REACH = 3
KINDS = ("edge", "overlooked", "mixed up", "invented")
IntArray = npt.NDArray[np.int64]


def count_errors(truth: UInt8Array, predicted: UInt8Array, num_classes: int) -> IntArray:
    """Count pixels of two masks uint8 (H, W), truth 255 = ignore.

    Returns:
        int64 (num_classes, 1 + 2 * len(KINDS)): for each class its right pixels, then for each kind how many the truth
        has and the prediction lacks, and how many the other way round.
    """
    counts = np.zeros((num_classes, 1 + 2 * len(KINDS)), np.int64)
    counted = truth != IGNORE_INDEX
    for index in range(1, num_classes):
        true, said = truth == index, (predicted == index) & counted
        if not (true.any() or said.any()):
            continue
        counts[index, 0] = (true & said).sum()
        edge = contour(true.astype(np.uint8))
        near = distance_transform_edt(~edge) < REACH if edge.any() else np.zeros_like(true)
        missed, extra = true & ~said, said & ~true
        others = {
            "overlooked": predicted == 0,
            "mixed up": np.where(true, predicted != 0, truth != 0),
            "invented": truth == 0,
        }
        kinds = {"edge": near, **{kind: where & ~near for kind, where in others.items()}}
        for place, kind in enumerate(KINDS):
            counts[index, 1 + 2 * place] = (missed & kinds[kind]).sum()
            counts[index, 2 + 2 * place] = (extra & kinds[kind]).sum()
    return counts


def dice_without(counts: IntArray, kind: str | None) -> float:
    """Return the Dice of a class from its row of counts, with the wrong pixels of one kind made right."""
    right, errors = counts[0], counts[1:].reshape(len(KINDS), 2).copy()
    if kind is not None:
        right = right + errors[KINDS.index(kind), 0]
        errors[KINDS.index(kind)] = 0
    return float(2 * right / max(2 * right + errors.sum(), 1))


def table(counts: Mapping[str, IntArray]) -> str:
    """Return a Markdown table with a row for each class."""
    rows = [["class", "Dice", *(f"without {kind}" for kind in KINDS)], ["---", *["---:"] * (1 + len(KINDS))]]
    rows += [[name, *(f"{dice_without(one, kind):.3f}" for kind in (None, *KINDS))] for name, one in counts.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(words: Sequence[str] | None = None) -> int:
    """Do what the module says and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint, exported model or folder of predicted masks")
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--split", default="valid", help="which images of it (default: valid)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table and the picture")
    options = parser.parse_args(words)
    try:
        model, images, palette = open_with_truth(options.model, options.data, options.split, True)
        total = np.zeros((len(palette), 1 + 2 * len(KINDS)), np.int64)
        for pair in images.pairs:
            truth, _ = read_mask(pair.mask, palette, images.antialiased)
            total += count_errors(truth, model.predict(pair).mask_index, len(palette))
        there = {
            name: row
            for name, row in zip(palette.names[1:], total[1:], strict=True)
            if row[0] or row[1::2].any()  # in the truth; without it there is no Dice to raise
        }
        costs = {
            kind: {n: round(dice_without(row, kind) - dice_without(row, None), 3) for n, row in there.items()}
            for kind in KINDS
        }
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "limits.md", table(there))
        save_picture(options.out / "limits.png", bar_chart(costs, "What limits each class", "Dice lost to it"))
    except (UserError, OSError) as error:
        return print_user_error(error if isinstance(error, UserError) else UserError(str(error)))
    print(table(there))
    return 0


if __name__ == "__main__":
    sys.exit(main())
