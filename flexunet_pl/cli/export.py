"""export: a checkpoint as a bundle."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

BUNDLE = "bundle"  # in a run folder


def run(words: Sequence[str]) -> int:
    """Run the command; a run alone is exported into itself."""
    from flexunet_pl.cli.parser import call

    places = list(takewhile(lambda word: not word.startswith("-"), words))
    if len(places) == 1 and not any(word.partition("=")[0] == "--out" for word in words):
        from flexunet_pl.training.runs import is_run, named_run

        folder = named_run(Path(places[0]))
        if is_run(folder):
            words = [places[0], str(folder / BUNDLE), *words[1:]]
    return call("export", export, words)


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
        ckpt: The run (its best checkpoint, or else its last), or a checkpoint.
        out: The folder: new, empty, or an older bundle, which is replaced; for a run by default its folder bundle.
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
    from flexunet_pl.training.runs import find_checkpoint

    return bundle.export(
        find_checkpoint(ckpt), out, formats, int8, calibration, force, antialiased_masks, min_region_area
    )
