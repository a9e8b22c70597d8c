"""watch: a thin front for serving/watch.py."""

from pathlib import Path

from flexunet_pl.core.console import note
from flexunet_pl.core.errors import UserError
from flexunet_pl.inference.onnx_infer import DEFAULT_MAX_PIXELS, InferenceError, Model


def watch(
    bundle: Path,
    source: Path,
    out: Path,
    route: bool = False,
    overlays: bool = False,
    once: bool = False,
    interval: float = 0.5,
    settle: float = 1.0,
    patience: float = 30.0,
    threads: int | None = None,
    tile: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> int:
    """Segment each image that arrives in a folder: a mask, a JSON file and a line in OUT/results.csv, once.

    A killed or stopped process may be started again at any time; it goes on where the other was.

    Args:
        bundle: A bundle (a folder with model.onnx) or an .onnx file.
        source: The folder that images arrive in, subfolders included.
        out: The folder for the results, outside of it.
        route: Whether images move to OUT/ok, OUT/ng or OUT/failed.
        overlays: Whether overlays are written too, to OUT/overlays.
        once: Whether to end when all that is there has its results.
        interval: Seconds between two looks.
        settle: Seconds for which a file must stay as it is before it is taken for whole.
        patience: Seconds after which a file that cannot be read is taken for broken.
        threads: Threads of the engine (default: all cores).
        tile: Segment at native size in tiles of this side, such as 512.
        max_pixels: Most pixels of an image.
    """
    from flexunet_pl.serving.watch import Settings, run, watching

    settings = Settings(interval, settle, patience, route, overlays, max_pixels)
    try:
        model = Model(bundle, threads=threads)
        tiling = None if tile is None else model.tiling(tile)
    except InferenceError as error:
        raise UserError(str(error)) from error
    with watching(model, source, out, settings, tiling) as watch:
        note(f"watching {source}; results: {out}")
        run(watch, once)
    return 0
