"""Models that can be evaluated: a checkpoint, an exported model, a folder of predicted masks."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair
from flexunet_pl.curation.conversion import read_any_image
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.data.samples import MASK_SUFFIXES, ReadingRules, read_image
from flexunet_pl.data.sizing import resize_nearest
from flexunet_pl.inference.onnx_infer import Acceptance, Decision
from flexunet_pl.training.trained_model import load_network, model_file, user_errors

FloatArray = npt.NDArray[np.float32]


class ImagePrediction(NamedTuple):
    """What a model predicts for one image."""

    image: UInt8Array  # (H, W, C), as the model reads it
    mask_index: UInt8Array  # (H, W), the class of each pixel at the image's own size
    # (h, w, K) at the size the network saw, padding left out; K = 1 is the probability of the second of two classes.
    probabilities: FloatArray | None  # None where only masks are known
    defect_probability: float | None = None  # that the image shows any defect, 0..1
    decision: Decision | None = None  # whether the piece is good; None where only masks are known


class Clock:
    """A lock that adds up the ``seconds`` it is held, so that threads take turns in a network."""

    def __init__(self) -> None:
        """Start at 0."""
        self.seconds = 0.0
        self._turn = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Work in this block."""
        with self._turn:
            started = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - started


class Model(Protocol):
    """What a report evaluates.

    Attributes:
        palette: Class names and colours; None for a folder of masks without a palette, where the data's palette holds.
        facts: Plain data for the report: ``kind``, ``path`` and the like.
        clock: The time spent in its network.
    """

    palette: Palette | None
    facts: dict[str, Any]
    clock: "Clock"

    @property
    def acceptance(self) -> Acceptance:
        """When it calls a piece good."""

    def keep_small_regions(self) -> None:
        """From now on predict without the rule that makes small regions background."""

    def predict(self, pair: Pair) -> ImagePrediction:
        """Segment the image of a pair.

        Raises:
            UserError: If the image cannot be read, or there is no prediction for it.
        """


class NetworkModel:
    """A checkpoint, run by PyTorch on an accelerator if there is one, or an .onnx file, run on the CPU."""

    def __init__(self, file: Path) -> None:
        """Load the file; UserError if it is no model."""
        self.network = load_network(file)
        labels = self.network.labels
        self.palette: Palette | None = Palette(labels.names, labels.colors, labels.ignore)
        self.rules = ReadingRules(labels.channels, labels.sixteen_bit)
        self.facts = {
            "kind": "exported model" if file.suffix == ".onnx" else "checkpoint",
            "path": str(file),
            "sha256": sha256_of(file),
            "min_region_area": labels.min_region_area,
        }
        self.clock = Clock()

    @property
    def acceptance(self) -> Acceptance:
        """When it calls a piece good; see :class:`Model`."""
        return self.network.labels.acceptance

    def keep_small_regions(self) -> None:
        """Predict without the rule; see :class:`Model`."""
        self.network.labels = self.network.labels._replace(min_region_area=0)

    def predict(self, pair: Pair) -> ImagePrediction:
        """Segment the image of a pair; see :class:`Model`."""
        image = read_image(pair.image, self.rules)
        with user_errors(f"{pair.image}: "), self.clock.running():
            found = self.network.predict(image)
        if not np.isfinite(found.probabilities).all():
            raise UserError(
                f"{pair.image}: the model gives probabilities that are no numbers; its training has diverged: use an "
                "earlier checkpoint, or train again with a lower learning rate"
            )
        return ImagePrediction(image, *found[:4])


class PredictedMasks:
    """A folder of masks that some program predicted, one for each image, of the image's stem and size."""

    def __init__(self, path: Path) -> None:
        """Find the masks; UserError if there is none."""
        if not path.is_dir():
            raise UserError(f"--predictions {path}: this folder does not exist; name a folder of predicted masks")
        self.files = masks_in(path)
        if not self.files:
            raise UserError(f"{path}: no mask ({', '.join(MASK_SUFFIXES)}) in this folder; check the path")
        found = path / PALETTE_FILE
        self.palette: Palette | None = Palette.load(found) if found.is_file() else None
        self.colors = self.palette
        self.facts = {"kind": "predicted masks", "path": str(path), "masks": len(self.files)}
        self.clock = Clock()
        self.acceptance = Acceptance()

    def keep_small_regions(self) -> None:
        """Do nothing: these masks are as they are; see :class:`Model`."""

    def use(self, palette: Palette, pairs: list[Pair]) -> None:
        """Read masks with this palette unless the folder has its own; UserError if images lack a prediction."""
        self.colors = palette if self.palette is None else self.palette
        if lost := [pair.name for pair in pairs if pair.name not in self.files]:
            raise UserError(
                f"{self.facts['path']}: {len(lost)} of {len(pairs)} images have no predicted mask, first: "
                f"{', '.join(lost[:3])}; predict them, or check that the folder belongs to these images"
            )

    def predict(self, pair: Pair) -> ImagePrediction:
        """Read the predicted mask of a pair; see :class:`Model`."""
        if self.colors is None:
            raise ValueError("the masks have no palette; call use() first")
        image = read_any_image(pair.image)
        path = self.files[pair.name]
        mask_index, _ = read_mask(path, self.colors, antialiased=False)
        if mask_index.shape != image.shape[:2]:
            sizes = " and ".join(f"{height} x {width}" for height, width in (mask_index.shape, image.shape[:2]))
            raise UserError(
                f"{path}: the predicted mask and its image differ in size (height x width: {sizes}); bring the mask to "
                "the image's size by nearest neighbour"
            )
        if (mask_index >= len(self.colors)).any():
            raise UserError(f"{path}: predicts ignored pixels; a prediction gives every pixel a class")
        return ImagePrediction(image, mask_index, None)


def open_model(path: Path) -> Model:
    """Open a checkpoint, run folder, exported file, bundle or folder of masks.

    Raises:
        UserError: If it is not a model.
    """
    try:
        file = model_file(path)
    except UserError as error:
        if path.is_dir() and masks_in(path):
            return PredictedMasks(path)
        raise UserError(f"{error}, or a folder of predicted masks") from error
    return NetworkModel(file)


def masks_in(folder: Path) -> dict[str, Path]:
    """Return the mask files of a folder by their stems.

    Raises:
        UserError: If two share a stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith(".") and path.is_file():
            if path.stem in found:
                raise UserError(f"{path}: {found[path.stem].name} in the same folder has the same stem; remove one")
            found[path.stem] = path
    return found


def plane(probabilities: FloatArray, index: int, size: tuple[int, int]) -> FloatArray:
    """Return the probability of class ``index`` at an image's own ``size``, float32 (H, W), by nearest neighbour.

    Probabilities are float32 (h, w, K); with K = 1 that of class 1, and class 0 has the rest.
    """
    if probabilities.shape[2] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=2)
    return resize_nearest(probabilities[..., index], size)
