"""tune-min-area: the area below which predicted regions are noise."""

from pathlib import Path

from flexunet_pl.core.console import say


def tune_min_area(
    model: Path, data: Path, split: str = "valid", antialiased_masks: bool = False, max_pixels: int | None = None
) -> int:
    """Try areas below which a predicted region becomes background, and print which one helps on other images.

    Args:
        model: Checkpoint, run folder, .onnx file, bundle, or folder of predicted masks.
        data: A folder with train, valid and test, or one with images and masks.
        split: Which images choose; not those that the model is evaluated on later.
        antialiased_masks: Whether blended colours of the truth are moved to the nearest class.
        max_pixels: The most pixels of an image or mask (default: 100 million).
    """
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.evaluation.min_region_area import compare_areas

    with pixel_limit(max_pixels):
        say(*compare_areas(model, data, split, antialiased_masks))
    return 0
