"""The Python API: load a model and predict, or train and export, as the commands of the same names do."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Prediction, Region
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.sizing import resize_nearest
from flexunet_pl.inference import onnx_infer
from flexunet_pl.training.runs import checkpoint_file
from flexunet_pl.training.trained_model import load_network, model_file, user_errors

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


class Model:
    """A trained model that segments images; get one from :func:`load_model`.

    Attributes:
        palette: Class names and colours; the position is the class index.
    """

    def __init__(self, network: onnx_infer.Model) -> None:
        """Wrap an exported network, or a checkpoint behind the same interface."""
        labels = network.labels
        self.palette = Palette(labels.names, labels.colors, labels.ignore)
        self._network = network

    def predict(
        self, image: str | Path | Image.Image | UInt8Array, *, tile: int | None = None, overlap: int | None = None
    ) -> Prediction:
        """Segment one image.

        Args:
            image: Image file, Pillow image, or array uint8 (H, W, C) or (H, W), 0..255.
            tile: Segment at the image's own size in tiles of this side, such as 512; by default the whole image at the
                model's working size.
            overlap: Overlap of the tiles in pixels (default: 128, or a quarter of the side if that is less).

        Returns:
            Mask and probabilities at the image's own size, the regions of defects, and OK or NG. Probabilities are
            resized by nearest neighbour like the mask, so the mask is their argmax except where the model removes
            small regions.

        Raises:
            UserError: If the image cannot be read or does not fit the model, or the tiles do not advance.
        """
        labels = self._network.labels
        if overlap is not None and tile is None:
            raise UserError(f"overlap={overlap} needs tile, the side of the tiles")
        with user_errors():
            tiling = None if tile is None else self._network.tiling(tile, overlap)
            if isinstance(image, Image.Image):
                pixels = onnx_infer.convert(image, labels, Path("image"))
            elif isinstance(image, np.ndarray):
                pixels = image[..., None] if image.ndim == 2 else image
            else:
                pixels = onnx_infer.read_image(Path(image), labels)
            found = self._network.predict(pixels, tiling)
        size = (found.mask_index.shape[0], found.mask_index.shape[1])
        probabilities = np.dstack([resize_nearest(plane, size) for plane in np.moveaxis(found.probabilities, 2, 0)])
        regions = _regions(found.decision, labels.names)
        scores = found.defect_probability, found.decision.verdict, found.uncertainty, found.drift_score
        return Prediction(found.mask_index, probabilities, regions, *scores)


def load_model(path: str | Path, *, device: str | None = None) -> Model:
    """Load a trained model.

    Args:
        path: Run folder (its best checkpoint, or else its last), checkpoint, bundle folder or .onnx file. Bundles and
            .onnx files do not need torch.
        device: Device of the network, such as "cpu" or "cuda". By default checkpoints use CUDA if there is a GPU, and
            bundles use the CPU.

    Raises:
        UserError: If there is no model, or it cannot be loaded.
    """
    return Model(load_network(model_file(Path(path)), device))


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        run_dir: The run folder, with config, checkpoints and curves; :func:`load_model` takes it.
        best_checkpoint: The best checkpoint by validation, or None if the run wrote none.
        scores: Losses and scores of the last epoch by name, such as ``val/loss``; with ``folds``, the means of the
            out-of-fold scores, such as ``mean_foreground_dice``.
    """

    run_dir: Path
    best_checkpoint: Path | None
    scores: dict[str, float]


def fit(config: str | Path | Sequence[str | Path] | None = None, **overrides: Any) -> Run:
    """Train a model as ``flexunet fit`` does.

    ``fit("configs/tile.yaml", model={"learning_rate": 1e-3}, trainer={"max_epochs": 5}, run_dir="runs/x")`` trains by a
    config, ``fit("mvtec_ad/tile", time="12m")`` by a plan for a folder.

    Args:
        config: A YAML file, or several, of which later ones win; or the folder or archive of a data set.
        **overrides: The options of ``flexunet fit``, which win over the files; those with dots are nested in maps.

    Raises:
        UserError: If an option or the data set is wrong, or the run folder is taken.
    """
    from flexunet_pl.curation.prepare.archives import is_archive
    from flexunet_pl.migrate.data_folder import project_data
    from flexunet_pl.planning.fit import fit_planned, fit_planned_folds
    from flexunet_pl.planning.request import read_request, without_length
    from flexunet_pl.training import lightning_cli
    from flexunet_pl.training.folds import Folds, fit_folds

    class FitCLI(lightning_cli.TrainerCLI):
        def parse_arguments(self, *arguments: Any) -> None:
            messages = io.StringIO()
            try:
                with contextlib.redirect_stderr(messages):
                    super().parse_arguments(*arguments)
            except SystemExit as stop:
                raise UserError(messages.getvalue().strip().removeprefix("error: ")) from stop
            sys.stderr.write(messages.getvalue())

    files = [] if config is None else [config] if isinstance(config, str | Path) else list(config)
    options = list(_options(overrides))
    if len(files) == 1 and (Path(files[0]).is_dir() or is_archive(Path(files[0]))):
        words, files = [str(files[0]), *options], []
    else:
        words = options
    request = None if files else read_request(words)
    if request is None:
        words = [*(f"--config={file}" for file in files), *without_length(words)]
    if "folds" in overrides:
        run_dir = (
            fit_folds(words, FitCLI)
            if request is None
            else fit_planned_folds(request, project_data(request.data), FitCLI)
        )
        return Run(run_dir, checkpoint_file(run_dir, "best"), _numbers(Folds.read(run_dir).out_of_fold or {}))
    if request is None:
        cli = lightning_cli.run(["fit", *words], FitCLI)
    else:
        cli = fit_planned(request, project_data(request.data), FitCLI)
    best = checkpoint_file(cli.run_dir, "best")
    scores = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    return Run(cli.run_dir, best if best.is_file() else None, scores)


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores that are one number."""
    return {name: float(value) for name, value in scores.items() if isinstance(value, float)}


def _options(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and not prefix:
            yield from _options(value, f"{key}.")
        else:
            text = str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)
            yield f"--{prefix}{key}={text}"


def _regions(decision: onnx_infer.Decision, names: Sequence[str]) -> tuple[Region, ...]:
    return tuple(
        Region(
            class_name=one.name,
            class_index=names.index(one.name),
            box=one.box,
            area=one.area,
            score=one.confidence,
            length=one.length,
            width=one.width,
            is_allowed=one.is_allowed,
        )
        for one in decision.regions or ()
    )
