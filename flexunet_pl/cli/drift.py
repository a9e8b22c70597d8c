"""drift: teach a run how far an image may be from its training set."""

from pathlib import Path

from flexunet_pl.core.console import say


def drift(run: Path, data: Path | None = None, quantile: float = 0.99, max_pixels: int | None = None) -> int:
    """Calibrate the drift score of a run, which says whether an image is like those the model was trained on.

    Writes RUN/drift.safetensors: a bank of features of the training images, and the border that good validation images
    set. From then on predict, export and infer write drift_score, which is above 1 for images beyond the border.

    Args:
        run: The run (its best checkpoint, or else its last), or a checkpoint.
        data: A data set with train and valid, each with images and masks, instead of the run's own.
        quantile: Share of good images that should be within the border; the rest are flagged by mistake.
        max_pixels: The most pixels of an image or mask (default: 100 million).
    """
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.evaluation.drift import calibrate

    with pixel_limit(max_pixels):
        say(*calibrate(run, data, quantile))
    return 0
