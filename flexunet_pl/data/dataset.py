"""Pairs of files -> samples and batches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flexunet_pl.core.types import Pair
from flexunet_pl.data.augment.kinds import Partner, Planes
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, Palette, UInt8Array
from flexunet_pl.data.samples import ReadingRules, read_image
from flexunet_pl.data.sampling import Item
from flexunet_pl.data.sizing import Sizing

# (image uint8 (C, H, W), mask uint8 (H, W), random numbers, another sample on request) -> the same, changed together.
Augment = Callable[[UInt8Array, UInt8Array, np.random.Generator, Partner], Planes]
Sample = dict[str, Any]
KEPT_BYTES = 256 * 2**20  # of images and masks at the working size, in each process


class ImageDataset(Dataset[Sample]):
    """Images without masks at the working size, read from disk one by one.

    A sample has ``image`` uint8 (C, H, W), ``name``, ``path`` and ``size`` (the image's own height and width).
    """

    def __init__(self, images: Sequence[Path], rules: ReadingRules, sizing: Sizing) -> None:
        """Keep what is needed to read sample after sample; nothing is read yet."""
        self.images = list(images)
        self.rules = rules
        self.sizing = sizing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: Item) -> Sample:
        """Return the sample of ``item`` = (appearance, index)."""
        path = self.images[item[1]]
        image = read_image(path, self.rules)
        planes = self.sizing.fit_image(image).transpose(2, 0, 1)
        return {"name": path.stem, "path": str(path), "size": image.shape[:2], "image": _tensor(planes)}


class SegmentationDataset(ImageDataset):
    """Images with masks at the working size, read from disk one by one.

    Each process keeps the first ``KEPT_BYTES`` of what it has read, since decoding a whole image for a small crop costs
    more than augmenting the crop.

    A sample has, beside what an image without mask has, ``mask`` uint8 (H, W), 255 = ignore. With
    ``keep_native_mask`` it also has ``native_mask`` at the image's own size.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        palette: Palette,
        rules: ReadingRules,
        sizing: Sizing,
        *,
        augment: Augment | None = None,
        seed: int = 0,
        keep_native_mask: bool = False,
    ) -> None:
        """Keep what is needed to read sample after sample; nothing is read yet."""
        super().__init__([pair.image for pair in pairs], rules, sizing)
        self.pairs = list(pairs)
        self.palette = palette
        self.augment = augment
        self.seed = seed
        self.keep_native_mask = keep_native_mask
        self._kept: dict[int, tuple[Planes, tuple[int, int]]] = {}
        self._bytes_left = 0 if keep_native_mask else KEPT_BYTES

    def __getitem__(self, item: Item) -> Sample:
        """Return the sample of ``item`` = (appearance, index); its random changes follow from (seed, item) alone."""
        appearance, index = item
        pair = self.pairs[index]
        native_mask: UInt8Array | None = None
        if self.keep_native_mask:
            image, native_mask = self._read(pair)
            (planes, mask_index), size = self._fitted(image, native_mask), image.shape[:2]
        else:
            (planes, mask_index), size = self._working_pair(index)
        sample: Sample = {"name": pair.name, "path": str(pair.image), "size": size}
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, appearance, index])
            planes, mask_index = self.augment(planes, mask_index, rng, lambda: self._other(rng))
        sample |= {"image": _tensor(planes), "mask": _tensor(mask_index)}
        if native_mask is not None:
            sample["native_mask"] = _tensor(native_mask)
        return sample

    def _read(self, pair: Pair) -> Planes:
        """Read a pair at its own size: image uint8 (H, W, C), mask uint8 (H, W)."""
        image = read_image(pair.image, self.rules)
        return image, read_mask(pair.mask, self.palette, self.rules.antialiased_masks, self.rules.max_pixels)[0]

    def _fitted(self, image: UInt8Array, native_mask: UInt8Array) -> Planes:
        """Bring a pair to the working size: image uint8 (C, h, w), mask uint8 (h, w)."""
        return self.sizing.fit_image(image).transpose(2, 0, 1), self.sizing.fit_mask(native_mask)

    def _working_pair(self, index: int) -> tuple[Planes, tuple[int, int]]:
        """Return a pair at the working size, which nobody may change, and its own height and width."""
        if index in self._kept:
            return self._kept[index]
        image, native_mask = self._read(self.pairs[index])
        planes = self._fitted(image, native_mask)
        found = planes, image.shape[:2]
        needed = sum(plane.nbytes for plane in planes)
        if needed <= self._bytes_left:
            self._kept[index] = found
            self._bytes_left -= needed
        return found

    def _other(self, rng: np.random.Generator) -> Planes:
        """Return another sample drawn from ``rng``, unaugmented, at the working size."""
        return self._working_pair(int(rng.integers(len(self.pairs))))[0]


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack samples of one size into a batch; native masks are padded with ignore (255) to the largest of the batch."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    for key in ("image", "mask"):
        if key in batch:
            batch[key] = torch.stack(batch[key])
    if "native_mask" in batch:
        masks: list[Tensor] = batch["native_mask"]
        height, width = (max(mask.shape[axis] for mask in masks) for axis in (0, 1))
        padded = torch.full((len(masks), height, width), IGNORE_INDEX, dtype=torch.uint8)
        for row, mask in zip(padded, masks, strict=True):
            row[: mask.shape[0], : mask.shape[1]] = mask
        batch["native_mask"] = padded
    return batch


def _tensor(array: UInt8Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
