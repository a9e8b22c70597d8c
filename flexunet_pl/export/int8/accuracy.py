"""What an 8-bit copy of a model gives, against the model itself and against the truth."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError
from flexunet_pl.export.int8.calibration import Pictures
from flexunet_pl.export.verify import FloatArray, OnnxModel, UInt8Array, top_two_margin
from flexunet_pl.nn.metrics import confusion_matrix, scores_from_confusion

LARGEST_DROP = 0.01
PARTS_OF_A_PIXEL = 1000  # Dice is computed from whole numbers, and pixels may count in part


def check_int8(float_path: Path, int8_path: Path, pictures: Pictures) -> dict[str, Any]:
    """Compare an 8-bit model with the model it was made from.

    Without masks, the float model's mask stands in for the truth, and each pixel weighs as much as the model was
    decided there: the distance of its two most likely classes. That is by how much the expected number of right pixels
    falls if this pixel falls the other way. The float model's Dice is then 1.

    Returns:
        For check.json: share of pixels with the same class, largest and mean difference of a probability, the mean
        foreground Dice of the 8-bit masks against the float ones, and that of both against the truth (null if no
        foreground occurs), with what stood for the truth.
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
        "images": len(pictures.pairs),
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
    """Return a confusion matrix (classes, classes) in which a pixel counts as much as its best two classes are apart.

    Args:
        probabilities: What the float model gave, float32 (H, W, K).
        float_mask: What it chose, uint8 (H, W): the rows.
        mask: What is compared with it, uint8 (H, W): the columns.
        classes: How many there are.
    """
    places = float_mask.astype(np.int64) * classes + mask
    weights = top_two_margin(probabilities)
    counts = np.bincount(places.ravel(), weights=weights.ravel(), minlength=classes**2)
    return np.asarray(counts, dtype=np.float64).reshape(classes, classes)


def told(report: dict[str, Any]) -> str:
    """Return what a report says as one sentence."""
    before, after = (
        "n/a" if dice is None else f"{dice:.4f}"
        for dice in (report["foreground_dice_float"], report["foreground_dice_int8"])
    )
    return (
        f"8 bits, on {report['images']} images: {report['mask_agreement']:.2%} of the pixels have the same class, mean "
        f"foreground Dice {before} -> {after} (measured against {report['truth']})"
    )


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


def _dice(confusion: npt.NDArray[np.float64]) -> float | None:
    return scores_from_confusion(np.rint(confusion * PARTS_OF_A_PIXEL).astype(np.int64)).mean_foreground_dice
