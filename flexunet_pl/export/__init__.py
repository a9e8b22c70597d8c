"""Checkpoint -> files that run elsewhere. The package can be called: ``flexunet_pl.export("runs/x", "exports/x")``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def export_model(  # noqa: PLR0913  the options of the command
    model: str | Path,
    out: str | Path,
    *,
    formats: str | Sequence[str] = "onnx",
    int8: bool = False,
    calibration: str | Path | None = None,
    force: bool = False,
    antialiased_masks: bool = False,
    min_region_area: int | None = None,
) -> Path:
    """Write a trained model as a bundle, as ``flexunet export`` does, and return its folder.

    Args:
        model: Run folder (its best checkpoint, or else its last) or checkpoint.
        out: Folder of the bundle: new, empty, or an older bundle, which is replaced.
        formats: Formats such as "onnx" and "keras".
        int8: Also write an 8-bit model.
        calibration: Folder of typical images; int8 needs it.
        force: Write the 8-bit model even if its scores are lower.
        antialiased_masks: Whether the masks of the calibration folder have blended edges.
        min_region_area: Pixels below which inference makes a defect background, instead of the checkpoint's value.

    Raises:
        UserError: If the checkpoint, the folder or an option is wrong, or the files differ from the checkpoint.
    """
    from flexunet_pl.export.bundle import export
    from flexunet_pl.training.runs import find_checkpoint

    export(
        find_checkpoint(Path(model)),
        Path(out),
        formats=formats if isinstance(formats, str) else ",".join(formats),
        int8=int8,
        calibration=None if calibration is None else Path(calibration),
        force=force,
        antialiased_masks=antialiased_masks,
        min_region_area=min_region_area,
    )
    return Path(out)


class _CallablePackage(ModuleType):
    """``flexunet_pl.export`` is this package and the function of the Python API; both must work."""

    __call__ = staticmethod(export_model)


sys.modules[__name__].__class__ = _CallablePackage
