"""Scores accumulated over batches and processes: an int64 confusion matrix and the original's soft coefficients.

Everything is accumulated in integers: the scores are the same to the last bit for every order of the images and every
split into batches, threads and processes.
"""

import math

import torch
import torchmetrics
from torch import Tensor

from flexunet_pl.nn.metric_registry import METRICS, Metric, register_metric
from flexunet_pl.nn.score_table import IGNORE_INDEX, ScoreTable, confusion_matrix

# Plugins import what they need to declare a metric from here, after the package's own metrics are registered.
__all__ = ["METRICS", "Metric", "ScoreTable", "Scores", "confusion_matrix", "mask_from_logits", "register_metric"]

# Per-image values are summed in units of 2^-32. They must be below 2^16 in size (larger ones, infinities and NaN are
# counted as unsound and make the mean NaN): 2^15 images of the largest value then fit into 63 bits.
_UNIT = 2.0**-32
_LARGEST_VALUE = 2.0**16
EDGE = 2  # pixels: what is wrong this near to an outline of the truth is an error of the edge
_IMAGE_MEANS = ("mean_image_dice", "dice_coef_multiclass", "dice_coef_foreground", "loss")


def mask_from_logits(logits: Tensor) -> Tensor:
    """Map logits (N, K, H, W) to class indices int64 (N, H, W): the largest, or p > 0.5 of a single channel."""
    if logits.shape[1] == 1:
        return (logits[:, 0].float().sigmoid() > 0.5).long()
    # argmax gives the same, eight times slower on a CPU unless the logits are channels_last.
    return logits.max(1).indices


class Scores(torchmetrics.Metric):
    """Accumulate a :class:`ScoreTable` over batches and processes.

    No update waits for the accelerator; a truth that is neither a class nor 255, or a prediction that is no class, is
    therefore reported when the table is computed.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor
    strays: Tensor
    images: Tensor
    sums: Tensor

    def __init__(self, num_classes: int) -> None:
        """Count ``num_classes`` palette entries, background included; 2 for the network with one sigmoid channel."""
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes} must count background and foreground; give 2 or more")
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("strays", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # A row for each of _IMAGE_MEANS: sum of the sound values, how many they are, how many are unsound.
        self.add_state("sums", torch.zeros(len(_IMAGE_MEANS), 3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, mask: Tensor, loss: Tensor | None = None) -> None:
        """Add a batch scored at one size.

        Args:
            logits: Float (N, K, H, W), or (N, 1, H, W) with one sigmoid channel for class 1.
            mask: Truth, class index uint8 (N, H, W), 255 = ignore.
            loss: Float (N,), the loss of each image.
        """
        self.update_masks(mask_from_logits(logits), mask)
        self.update_soft(logits, mask, loss)

    @torch.no_grad()
    def update_masks(self, predicted: Tensor, mask: Tensor) -> Tensor:
        """Add predicted class indices to the confusion matrix and to the Dice per image, not to the soft coefficients.

        Args:
            predicted: Any integer type, (N, H, W) or (H, W).
            mask: Truth, uint8 of the same shape, 255 = ignore.

        Returns:
            The confusion matrix of each image, int64 (N, K, K), rows the truth.
        """
        self._note_update()
        if predicted.shape != mask.shape:
            raise ValueError(f"predicted is {tuple(predicted.shape)}, mask {tuple(mask.shape)}: they must agree")
        matrices, strays = _count(
            predicted.view(-1, *predicted.shape[-2:]), mask.view(-1, *mask.shape[-2:]), self.num_classes
        )
        self.confusion = self.confusion + matrices.sum(0)
        self.strays = self.strays + strays
        self.images = self.images + len(matrices)
        foreground = matrices[:, 1:].sum((1, 2))
        hits = matrices.diagonal(dim1=1, dim2=2)[:, 1:].sum(1)
        cardinality = foreground + matrices[:, :, 1:].sum((1, 2))
        dice = 2 * _real(hits) / _real(cardinality).clamp_min(1)
        self._add("mean_image_dice", dice, counted=foreground > 0)
        return matrices

    @torch.no_grad()
    def update_soft(self, logits: Tensor, mask: Tensor, loss: Tensor | None = None) -> None:
        """Add a batch, given as for :meth:`update`, to the soft coefficients and the loss only."""
        self._note_update()
        if logits.shape[1] not in (1, self.num_classes):
            raise ValueError(f"logits have {logits.shape[1]} channels; {self.num_classes} classes need 1 or as many")
        if logits.shape[0] != mask.shape[0] or logits.shape[2:] != mask.shape[1:]:
            raise ValueError(f"logits are {tuple(logits.shape)}, mask {tuple(mask.shape)}: N, H and W must agree")
        multiclass, foreground = _soft_coefficients(logits, mask)
        self._add("dice_coef_multiclass", multiclass)
        self._add("dice_coef_foreground", foreground.flatten())
        if loss is not None:
            if loss.shape != mask.shape[:1]:
                raise ValueError(f"loss is {tuple(loss.shape)}; give one value for each of the {len(mask)} images")
            self._add("loss", _real(loss))

    def compute(self) -> ScoreTable:
        """Return the table of all that was added, in every process."""
        if strays := int(self.strays):
            raise ValueError(
                f"{strays} pixels of the masks or predictions are no class: "
                f"indices run from 0 to {self.num_classes - 1}, and {IGNORE_INDEX} in a mask is left out"
            )
        means = {name: _image_mean(*row) for name, row in zip(_IMAGE_MEANS, self.sums.tolist(), strict=True)}
        return ScoreTable(self.confusion.cpu(), int(self.images), means)

    def _note_update(self) -> None:
        # What torchmetrics does around `update`: mark the metric as fed and forget the table of before.
        self._update_count += 1
        self._computed = None

    def _add(self, name: str, values: Tensor, counted: Tensor | None = None) -> None:
        """Add values (P,), or those of them that are ``counted``, to the mean of that name."""
        sound = values.abs() < _LARGEST_VALUE
        units = torch.where(sound, values / _UNIT, 0).round().long()
        columns = torch.stack([units, sound.long(), (~sound).long()], dim=1)
        if counted is not None:
            columns = columns * counted.unsqueeze(1)
        added = torch.zeros_like(self.sums)
        added[_IMAGE_MEANS.index(name)] = columns.sum(0)
        self.sums = self.sums + added


def edge_confusion(predicted: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Count the wrong pixels near an outline of the truth, int64 (K, K), rows the truth; see :func:`near_outline`.

    Predicted class indices are of any integer type, the truth uint8, both (N, H, W); 255 = ignore.
    """
    is_counted = near_outline(mask) & (predicted != mask) & (mask != IGNORE_INDEX)
    if mask.device.type != "cpu":  # to select pixels would wait for the accelerator
        return _count(predicted, mask.where(is_counted, IGNORE_INDEX), num_classes)[0].sum(0)
    cells = mask[is_counted].long() * num_classes + predicted[is_counted]
    # A truth that is no class is reported where the scores are computed.
    return torch.bincount(cells, minlength=num_classes**2)[: num_classes**2].view(num_classes, num_classes)


def near_outline(mask: Tensor, reach: int = EDGE) -> Tensor:
    """Return bool (N, H, W): where a pixel of another value is at most ``reach`` away in its row or column."""
    near = torch.zeros_like(mask, dtype=torch.bool)
    for axis in (1, 2):
        for step in range(1, min(reach, mask.shape[axis] - 1) + 1):
            length = mask.shape[axis] - step
            differs = mask.narrow(axis, step, length) != mask.narrow(axis, 0, length)
            near.narrow(axis, step, length).logical_or_(differs)
            near.narrow(axis, 0, length).logical_or_(differs)
    return near


def _image_mean(units: int, sound: int, unsound: int) -> float | None:
    if unsound:
        return math.nan
    return units * _UNIT / sound if sound else None


def _real(values: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def _count(predicted: Tensor, mask: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Count index masks (N, H, W) into a confusion matrix for each image (N, K, K) and a number of stray pixels."""
    # One row and one column more: the row takes ignored and stray truth, the column stray predictions.
    side = num_classes + 1
    cells = mask.int().clamp(max=num_classes) * side + predicted.int().clamp(max=num_classes)
    cells += torch.arange(len(mask), dtype=torch.int32, device=mask.device).view(-1, 1, 1) * side**2
    matrices = _histogram(cells.flatten(), len(mask) * side**2).view(-1, side, side)
    stray_truth = ((mask >= num_classes) & (mask != IGNORE_INDEX)).sum()
    return matrices[:, :num_classes, :num_classes], stray_truth + matrices[:, :num_classes, num_classes].sum()


def _histogram(cells: Tensor, bins: int) -> Tensor:
    """Count the values 0..bins-1 of an int32 tensor (P,) into int64 (bins,)."""
    if cells.device.type == "cpu":
        return torch.bincount(cells, minlength=bins)
    # bincount waits for the accelerator, twice, to learn the range of the values.
    return _histogram_by_sorting(cells, bins)


def _histogram_by_sorting(cells: Tensor, bins: int) -> Tensor:
    edges = torch.arange(bins + 1, dtype=cells.dtype, device=cells.device)
    return torch.searchsorted(cells.sort().values, edges).diff()


def _soft_coefficients(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return dice_coef_multiclass (N,) and dice_coef_foreground (N, foreground classes), NaN where unsound."""
    logits = logits.float()
    single = logits.shape[1] == 1
    probabilities = logits.sigmoid() if single else logits.softmax(1)
    # Sums of integers don't depend on how threads share them out. The unit is as small as the sum over a plane allows.
    shift = 62 - mask[0].numel().bit_length()
    scale = torch.where(mask != IGNORE_INDEX, 2.0**shift, 0.0)
    counts = []
    for channel, plane in enumerate(probabilities.unbind(1)):
        units = (plane * scale).long()
        is_class = mask == (1 if single else channel)
        counts.append(torch.stack([x.sum((1, 2)) for x in (units * is_class, units, is_class)]))
    by_class = torch.stack(counts, dim=2)
    multiclass = _soft_dice(by_class.sum(2), unit=2.0**-shift, smooth=1.0)
    foreground = _soft_dice(by_class if single else by_class[:, :, 1:], unit=2.0**-shift, smooth=1e-6)
    sound = probabilities.sum((1, 2, 3)).isfinite()
    return torch.where(sound, multiclass, math.nan), torch.where(sound.unsqueeze(1), foreground, math.nan)


def _soft_dice(counts: Tensor, unit: float, smooth: float) -> Tensor:
    """Map (3, ...), overlap and prediction in units, truth in pixels, to the smoothed Dice (...)."""
    overlap, predicted, truth = _real(counts).unbind(0)
    return (2 * overlap * unit + smooth) / (truth + predicted * unit + smooth)
