"""What an 8-bit copy of a model gives, against the model itself and against the truth."""

from pathlib import Path
from typing import Any

import numpy as np

from flexunet_pl.errors import UserError
from flexunet_pl.export.calibration import Pictures
from flexunet_pl.export.verify import OnnxModel
from flexunet_pl.nn.metrics import ScoreTable, confusion_matrix, scores_from_confusion

LARGEST_DROP = 0.01


def check_int8(float_path: Path, int8_path: Path, pictures: Pictures) -> dict[str, Any]:
    """Compare an 8-bit model with the model it was made from.

    Without masks, the float model's masks stand in for the truth, which is stricter: every pixel that differs counts.

    Returns:
        For check.json: share of pixels with the same class, largest and mean difference of a probability, and the
        mean foreground Dice of both models (null if no foreground occurs), with what it was measured against.
    """
    classes = len(pictures.palette)
    models = {"float": OnnxModel(float_path), "int8": OnnxModel(int8_path)}
    confusion = {name: np.zeros((classes, classes), dtype=np.int64) for name in models}
    against_float = np.zeros((classes, classes), dtype=np.int64)
    largest, total, values = 0.0, 0.0, 0
    truths = pictures.masks() if pictures.have_masks else iter([])
    for image in pictures.images():
        results = {name: model(image[None]) for name, model in models.items()}
        truth = next(truths, results["float"][1][0])
        for name, (_, mask) in results.items():
            confusion[name] += confusion_matrix(truth, mask[0], classes)
        against_float += confusion_matrix(results["float"][1], results["int8"][1], classes)
        apart = np.abs(results["float"][0] - results["int8"][0])
        largest, total, values = max(largest, float(apart.max())), total + float(apart.sum()), values + apart.size
    return {
        "images": len(pictures.pairs),
        "truth": "masks" if pictures.have_masks else "masks of the float model",
        "mask_agreement": int(np.trace(against_float)) / max(int(against_float.sum()), 1),
        "largest_probability_difference": largest,
        "mean_probability_difference": total / max(values, 1),
        "foreground_dice_float": _dice(confusion["float"]),
        "foreground_dice_int8": _dice(confusion["int8"]),
    }


def refuse_loss(report: dict[str, Any], force: bool) -> None:
    """Refuse an 8-bit model whose mean foreground Dice is more than 0.01 lower, unless ``force``.

    Raises:
        UserError: If it is refused.
    """
    before, after = report["foreground_dice_float"], report["foreground_dice_int8"]
    if before is None or force:
        return
    drop = before - (after or 0.0)
    if drop > LARGEST_DROP:
        raise UserError(
            f"--int8: the mean foreground Dice drops by {drop:.4f}, from {before:.4f} to {after or 0.0:.4f}, on "
            f"{report['images']} images (measured against {report['truth']}; allowed {LARGEST_DROP}). Nothing was "
            "written. Give more and more typical images with --calibration, with masks if there are none, or accept "
            "the loss with --force"
        )


def _dice(confusion: Any) -> float | None:
    table: ScoreTable = scores_from_confusion(confusion)
    return table.mean_foreground_dice
