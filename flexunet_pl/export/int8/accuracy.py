"""Compare an 8-bit model with the float model and with the ground truth."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError
from flexunet_pl.export.int8.calibration import Pictures
from flexunet_pl.export.verify import FloatArray, OnnxModel, UInt8Array, top_two_margin
from flexunet_pl.nn.metrics import ScoreTable, confusion_matrix

LARGEST_DROP = 0.01
PARTS_OF_A_PIXEL = 1000  # Dice is computed from whole numbers, and pixels may count in part


def check_int8(float_path: Path, int8_path: Path, pictures: Pictures) -> dict[str, Any]:
    """Compare an 8-bit model with the model it was made from.

    Without masks, the float model's mask is the reference, and each pixel is weighted by the margin between its two
    most likely classes: by that much the expected number of correct pixels falls if its class flips. The float model's
    Dice is then 1.

    Returns:
        For check.json: share of pixels with the same class, largest and mean difference of a probability, the mean
        foreground Dice of the 8-bit masks against the float ones, and the Dice of both against the truth (null if no
        foreground occurs), with the kind of truth.
    """
    classes = len(pictures.palette)
    models = {"float": OnnxModel(float_path), "int8": OnnxModel(int8_path)}
    confusion = {name: np.zeros((classes, classes)) for name in models}
    between = np.zeros((classes, classes))
    agreeing, largest, total, pixels, values = 0, 0.0, 0.0, 0, 0
    truths = pictures.masks()
    for image in pictures.images():
        results = {name: model(image[None]) for name, model in models.items()}
        expected, expected_mask = results["float"]
        probabilities, mask = results["int8"]
        truth = next(truths) if pictures.have_masks else None
        for name, (_, predicted) in results.items():
            if truth is not None:
                confusion[name] += confusion_matrix(truth, predicted[0], classes)
            else:
                confusion[name] += decided_confusion(expected[0], expected_mask[0], predicted[0], classes)
        between += confusion_matrix(expected_mask[0], mask[0], classes)
        apart = np.abs(expected - probabilities)
        largest, total, values = max(largest, float(apart.max())), total + float(apart.sum()), values + apart.size
        agreeing, pixels = agreeing + int((mask == expected_mask).sum()), pixels + mask.size
    return {
        "images": len(pictures.files),
        "mask_agreement": agreeing / pixels,
        "largest_probability_difference": largest,
        "mean_probability_difference": total / values,
        "foreground_dice_between": _dice(between),
        "truth": "masks" if pictures.have_masks else "the float model, where it was decided",
        **{f"foreground_dice_{name}": _dice(matrix) for name, matrix in confusion.items()},
    }


def decided_confusion(
    probabilities: FloatArray, float_mask: UInt8Array, mask: UInt8Array, classes: int
) -> npt.NDArray[np.float64]:
    """Return a confusion matrix (classes, classes) in which each pixel counts with the margin of its two best classes.

    The float model's ``probabilities`` (H, W, K) and mask uint8 (H, W), the rows, meet another mask, the columns.
    """
    places = float_mask.astype(np.int64) * classes + mask
    counts = np.bincount(places.ravel(), top_two_margin(probabilities).ravel(), minlength=classes**2)
    return np.asarray(counts, dtype=np.float64).reshape(classes, classes)


def summary_of(report: dict[str, Any]) -> str:
    """Return a report as one sentence."""
    dices = (report["foreground_dice_float"], report["foreground_dice_int8"])
    before, after = ("n/a" if dice is None else f"{dice:.4f}" for dice in dices)
    return (
        f"8 bits, on {report['images']} images: {report['mask_agreement']:.2%} of the pixels have the same class, mean "
        f"foreground Dice {before} -> {after} (measured against {report['truth']})"
    )


def refuse_loss(report: dict[str, Any], force: bool) -> None:
    """Raise UserError if the 8-bit model's mean foreground Dice is more than 0.01 lower, unless ``force``."""
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


def _dice(confusion: npt.NDArray[np.float64]) -> float | None:
    return ScoreTable(np.rint(confusion * PARTS_OF_A_PIXEL).astype(np.int64))["mean_foreground_dice"]
