"""What can be judged, behind one contract: a checkpoint, an exported model, a folder of predicted masks."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.conversion import read_any_image
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.data.samples import MASK_SUFFIXES, Pair, ReadingRules, read_image

FloatArray = npt.NDArray[np.float32]

WHAT_COUNTS = (
    "give a checkpoint (.ckpt), a run folder, an exported .onnx file, a bundle (a folder with model.onnx), or a folder "
    "of predicted masks"
)


class Seen(NamedTuple):
    """What a model makes of one image.

    Attributes:
        image: uint8 (H, W, C), as the model reads it.
        mask_index: uint8 (H, W), the class of each pixel at the image's own size.
        probabilities: float32 (h, w, K) at the size the network saw, padding left out; K = 1 is the probability of the
            second of two classes. None where only masks are known.
    """

    image: UInt8Array
    mask_index: UInt8Array
    probabilities: FloatArray | None


class Clock:
    """Lets one thread after the other work, and adds up how many ``seconds`` that took."""

    def __init__(self) -> None:
        """Start at 0."""
        self.seconds = 0.0
        self._turn = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Work in this block."""
        with self._turn:
            started = time.perf_counter()
            try:
                yield
            finally:
                self.seconds += time.perf_counter() - started


class Model(Protocol):
    """What a report judges.

    Attributes:
        palette: What class is what; None where a folder of masks does not say, and the data's palette holds.
        facts: What it is, as plain data: ``kind``, ``path`` and the like.
        clock: How long its network has worked.
    """

    palette: Palette | None
    facts: dict[str, Any]
    clock: "Clock"

    def keep_small_regions(self) -> None:
        """From now on look without the rule that makes small regions background."""

    def look(self, pair: Pair) -> Seen:
        """Segment the image of a pair.

        Raises:
            UserError: If the image cannot be read, or there is no prediction for it.
        """


class CheckpointModel:
    """A checkpoint, run by PyTorch on an accelerator if there is one."""

    def __init__(self, path: Path) -> None:
        """Load the checkpoint; UserError if it is none."""
        import torch

        from flexunet_pl.training.task import SegmentationTask

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task = SegmentationTask.from_checkpoint(path).to(self.device)
        self.palette: Palette | None = self.task.palette
        self.rules = ReadingRules(self.task.hparams["in_channels"], self.task.hparams["sixteen_bit"])
        self.min_region_area: int = self.task.hparams["min_region_area"]
        self.facts = _facts("checkpoint", path, self.min_region_area)
        self.clock = Clock()

    def keep_small_regions(self) -> None:
        """Look without the rule; see :class:`Model`."""
        self.min_region_area = 0

    def look(self, pair: Pair) -> Seen:
        """Segment the image of a pair; see :class:`Model`."""
        import torch

        from flexunet_pl.inference.onnx_infer import without_small_regions

        image = read_image(pair.image, self.rules)
        size = (image.shape[0], image.shape[1])
        planes = np.ascontiguousarray(self.task.sizing.fit_image(image).transpose(2, 0, 1))
        with self.clock.running(), torch.inference_mode():
            logits = self.task(torch.from_numpy(planes)[None].to(self.device))[0].float()
            scores = logits.sigmoid() if len(logits) == 1 else logits.softmax(0)
            mask = logits[0].sigmoid() > 0.5 if len(logits) == 1 else logits.argmax(0)
        height, width = self.task.sizing.content_size(*size)
        probabilities = scores[:, :height, :width].permute(1, 2, 0).cpu().numpy()
        native = self.task.sizing.restore_mask(mask.to(torch.uint8).cpu().numpy(), size)
        mask_index = without_small_regions(native, self.min_region_area)
        return Seen(image, mask_index, _checked(probabilities, pair))


class ExportedModel:
    """An exported .onnx file, run by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        """Load the file; UserError if it is no exported model."""
        from flexunet_pl.inference import onnx_infer

        try:
            self.model = onnx_infer.Model(path)
        except onnx_infer.InferenceError as error:
            raise UserError(str(error)) from error
        labels = self.model.labels
        self.palette: Palette | None = Palette(labels.names, labels.colors, labels.ignore)
        self.rules = ReadingRules(labels.channels, labels.sixteen_bit)
        self.facts = _facts("exported model", path, labels.min_region_area)
        self.clock = Clock()

    def keep_small_regions(self) -> None:
        """Look without the rule; see :class:`Model`."""
        self.model.labels = self.model.labels._replace(min_region_area=0)

    def look(self, pair: Pair) -> Seen:
        """Segment the image of a pair; see :class:`Model`."""
        from flexunet_pl.inference import onnx_infer

        image = read_image(pair.image, self.rules)
        try:
            with self.clock.running():
                found = self.model.predict(image)
        except onnx_infer.InferenceError as error:
            raise UserError(f"{pair.image}: {error}") from error
        return Seen(image, found.mask_index, _checked(found.probabilities, pair))


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

    def look(self, pair: Pair) -> Seen:
        """Read the predicted mask of a pair; see :class:`Model`."""
        if self.colors is None:
            raise ValueError("use() says which palette the masks have; call it first")
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
        return Seen(image, mask_index, None)


def open_model(path: Path) -> Model:
    """Return the model that a path stands for.

    Raises:
        UserError: If it is none.
    """
    if path.is_file():
        return ExportedModel(path) if path.suffix == ".onnx" else CheckpointModel(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such model; {WHAT_COUNTS}")
    if (path / "model.onnx").is_file():
        return ExportedModel(path / "model.onnx")
    for checkpoint in (path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt"):
        if checkpoint.is_file():
            return CheckpointModel(checkpoint)
    if masks_in(path):
        return PredictedMasks(path)
    raise UserError(f"{path}: this folder holds no model; {WHAT_COUNTS}")


def _facts(kind: str, path: Path, min_region_area: int) -> dict[str, Any]:
    return {"kind": kind, "path": str(path), "sha256": sha256_of(path), "min_region_area": min_region_area}


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

    Args:
        probabilities: float32 (h, w, K); with K = 1 that of class 1, and class 0 has the rest.
        index: The class.
        size: (height, width) of the image.
    """
    channel = probabilities[..., 0] if probabilities.shape[2] == 1 else probabilities[..., index]
    if probabilities.shape[2] == 1 and index == 0:
        channel = 1 - channel
    if channel.shape == size:
        return channel
    # Where the nearest neighbour lies is the same for every mask of this shape, so Pillow's own choice is asked for.
    rows = _nearest(channel.shape[0], size[0])
    columns = _nearest(channel.shape[1], size[1])
    return channel[rows[:, None], columns]


def _nearest(source: int, target: int) -> npt.NDArray[np.int64]:
    return np.minimum(((np.arange(target) + 0.5) * (source / target)).astype(np.int64), source - 1)


def _checked(probabilities: FloatArray, pair: Pair) -> FloatArray:
    if not np.isfinite(probabilities).all():
        raise UserError(
            f"{pair.image}: the model gives probabilities that are no numbers; its training has diverged: use an "
            "earlier checkpoint, or train again with a lower learning rate"
        )
    return probabilities
