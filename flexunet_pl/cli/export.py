"""export: a checkpoint as a bundle."""

from pathlib import Path


def export(
    ckpt: Path,
    out: Path,
    formats: str = "onnx",
    int8: bool = False,
    calibration: Path | None = None,
    force: bool = False,
    antialiased_masks: bool = False,
    min_region_area: int | None = None,
) -> int:
    """Write a trained model as a folder that runs without this package, and without PyTorch.

    The folder holds model.onnx; infer.py, a program and a module that runs it; labels.json; README.md; summary.txt and
    model.png, which describe the network; and check.json, which says how the files were compared with the checkpoint.
    If a difference is above the tolerance, nothing is written.

    Args:
        ckpt: The checkpoint.
        out: The folder: new, empty, or an older bundle, which is replaced.
        formats: One or more of onnx, int8, keras, weights.h5, h5, separated by commas.
        int8: The same as int8 among the formats: model.int8.onnx, several times faster on CPUs with VNNI or AMX.
        calibration: Folder of typical images, or a folder with images and masks in it; it sets the ranges of int8, and
            the exported models are tried on it.
        force: Write model.int8.onnx even if its mDice (foreground) is more than 0.01 lower.
        antialiased_masks: Whether masks in the calibration folder have blended edges, as data.antialiased_masks says.
        min_region_area: Pixels below which infer makes a region background, in place of the checkpoint's.

    Returns:
        The exit code, 0.
    """
    from flexunet_pl.export import bundle

    return bundle.export(ckpt, out, formats, int8, calibration, force, antialiased_masks, min_region_area)
