"""How far an image is from the training set: the distance of its patches' features to a memory bank of theirs.

The bank is that of PatchCore (Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022): a greedy
coreset of patch features. The features are those of the trained encoder, projected to a few dimensions, and a threshold
that good images of the validation set calibrate divides the distance, so that 1.0 is the border.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from flexunet_pl.core.errors import UserError

# Stages that are used if the encoder has them: fine enough for small defects, deep enough to know textures.
STRIDES = (8, 16)
NEIGHBOURHOOD = 3  # cells a side that a patch is the mean of, as in PatchCore
MOST_DIMENSIONS = 64
MOST_IN_BANK = 1024
# Directions in which training patches hardly vary count little: this share of the mean variance is added to theirs.
SHRINKAGE = 0.1

POWER = 16  # of the generalised mean over the patches of an image
# Below this, squared distances of whitened patches are the rounding errors of sums, which differ between engines.
LEAST_SQUARE = 1e-3

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DriftStatistics:
    """What a training set's features are like.

    Attributes:
        stages: Places of the stages in the encoder's list, from fine to coarse.
        strides: Pixels that a cell of each stage stands for, a side; each divides the next.
        projection: Matrix float32 (C, D) from the channels of all these stages to those of a patch.
        offset: What is taken from a patch, the mean of the training set, float32 (D,).
        bank: Patches of the training set, float32 (M, D).
        threshold: The distance that a score of 1.0 stands for, above 0.
    """

    stages: tuple[int, ...]
    strides: tuple[int, ...]
    projection: FloatArray
    offset: FloatArray
    bank: FloatArray
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError if shapes or values do not fit each other."""
        shapes = [array.shape for array in (self.projection, self.bank)]
        has_shapes = self.offset.ndim == 1 and all(
            len(shape) == 2 and shape[1:] == self.offset.shape for shape in shapes
        )
        if not has_shapes or not self.stages or len(self.stages) != len(self.strides) or not len(self.bank):
            raise ValueError(f"stages {self.stages}, offset {self.offset.shape} and matrices {shapes} do not fit")
        if min(self.strides) < 1 or any(coarse % fine for fine, coarse in pairwise(self.strides)):
            raise ValueError(f"strides {self.strides} do not divide each other")
        arrays = [self.projection, self.offset, self.bank, np.array(self.threshold)]
        if not all(np.isfinite(array).all() for array in arrays) or self.threshold <= 0 or min(self.stages) < 0:
            raise ValueError(f"values that are no numbers, or a threshold of {self.threshold} that is not above 0")


class DriftScore(nn.Module):
    """Map the stages of an encoder to the drift score (N,) of each image, 1.0 being the border; higher is farther.

    The statistics are buffers that no state dict has, so that checkpoints stay as they are.
    """

    projection: Tensor
    offset: Tensor
    minus_twice_bank: Tensor
    squares: Tensor
    threshold: Tensor

    def __init__(self, statistics: DriftStatistics) -> None:
        """Keep the statistics."""
        super().__init__()
        self.stages, self.strides = statistics.stages, statistics.strides
        bank = torch.from_numpy(statistics.bank.astype(np.float32))
        self.register_buffer("projection", torch.from_numpy(statistics.projection.astype(np.float32)), False)
        self.register_buffer("offset", torch.from_numpy(statistics.offset.astype(np.float32)), False)
        self.register_buffer("minus_twice_bank", -2 * bank.T.contiguous(), False)
        self.register_buffer("squares", bank.square().sum(1), False)
        self.register_buffer("threshold", torch.tensor(statistics.threshold, dtype=torch.float32), False)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Map features (N, C_i, h_i, w_i), from fine to coarse, to scores float32 (N,)."""
        return image_distance(self.distances(stages).flatten(1)) / self.threshold

    def distances(self, stages: Sequence[Tensor]) -> Tensor:
        """Map features to the distance (N, h, w) of each patch to the nearest one of the bank, at least 0.03."""
        patches = self.patches(stages)
        # Products and a minimum, which every engine has; |x - b|^2 = |x|^2 - 2 x b + |b|^2.
        nearest = (patches @ self.minus_twice_bank + self.squares).amin(-1) + patches.square().sum(-1)
        return nearest.clamp(min=LEAST_SQUARE).sqrt()

    def patches(self, stages: Sequence[Tensor]) -> Tensor:
        """Map features to patches (N, h, w, D), on the grid of the finest stage that is used."""
        grids = pooled([stages[place].to(self.offset.dtype) for place in self.stages], self.strides)
        cells = torch.cat(grids, dim=1).permute(0, 2, 3, 1)
        return cells @ self.projection - self.offset


def image_distance(distances: Tensor) -> Tensor:
    """Map the distances (N, n) of patches to one of each image, (N,): their generalised mean with the power POWER.

    It lies between the mean, which a small defect hardly moves, and the maximum, which single odd patches make.
    """
    largest = distances.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    # Divided by the largest, so that no power overflows.
    return largest[:, 0] * (distances / largest).pow(POWER).mean(1).pow(1 / POWER)


def pooled(stages: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Map features (N, C_i, h_i, w_i) to local means (N, C_i, h, w) on the grid of the finest, the first.

    Each cell is the mean of its neighbourhood of 3x3 cells of its own stage; those of coarser stages are repeated.
    """
    grids = []
    for stage, stride in zip(stages, strides, strict=True):
        near = functional.avg_pool2d(stage, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False)
        grids.append(repeated(near, stride // strides[0]))
    return grids


def repeated(stage: Tensor, times: int) -> Tensor:
    """Repeat each cell of (N, C, h, w) to (N, C, h * times, w * times)."""
    return functional.interpolate(stage, scale_factor=float(times), mode="nearest") if times > 1 else stage


def chosen_stages(stages: Sequence[Tensor], height: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return places and strides of the stages to use, of features of an image ``height`` pixels high, padded.

    They are the last ones with a stride in STRIDES; an encoder without these gives its two coarsest.

    Raises:
        UserError: If the network has no stages.
    """
    last = {height // stage.shape[-2]: place for place, stage in enumerate(stages) if stage.shape[1]}
    if not last:
        raise UserError("this network has no features in rows and columns, which a drift score needs; train another")
    strides = [stride for stride in STRIDES if stride in last] or sorted(last)[-2:]
    return tuple(last[stride] for stride in strides), tuple(strides)


def whitening(features: FloatArray, most: int = MOST_DIMENSIONS) -> tuple[FloatArray, FloatArray]:
    """Return the projection (C, D) of features (n, C) to D main directions of variance about 1, and their mean (C,).

    Principal components, with a little added to each variance (SHRINKAGE). D is at most ``most`` and C.
    """
    mean = features.mean(0, dtype=np.float64)
    covariance = np.cov((features - mean).T).reshape(features.shape[1], features.shape[1])
    variances, directions = np.linalg.eigh(covariance)
    kept = slice(None, -1 - min(most, len(variances)), -1)
    variances, directions = np.maximum(variances[kept], 0), directions[:, kept]
    added = SHRINKAGE * variances.mean() + np.finfo(np.float32).tiny
    return np.asarray(directions / np.sqrt(variances + added), np.float32), np.asarray(mean, np.float32)


def greedy_coreset(patches: FloatArray, size: int = MOST_IN_BANK) -> FloatArray:
    """Return ``size`` of the patches (n, D), or all: each next one is the farthest from those chosen before it.

    The first one is the farthest from the mean, so nothing is drawn by chance.
    """
    if len(patches) <= size:
        return patches
    squares = np.einsum("nd,nd->n", patches, patches)
    center = patches.mean(0)
    chosen = [int((squares - 2 * patches @ center).argmax())]
    nearest = np.full(len(patches), np.inf, np.float32)
    while len(chosen) < size:
        last = patches[chosen[-1]]
        nearest = np.minimum(nearest, squares - 2 * patches @ last + last @ last)
        chosen.append(int(nearest.argmax()))
    return patches[chosen]
