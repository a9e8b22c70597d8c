"""A U-Net of segmentation-models-pytorch, trained as that library's multi-class example trains, until a point in time.

    python benchmarks/smp_loop.py DATA --out FOLDER --encoder resnet34 --deadline SECONDS --seed 0

Whole images stretched to 512x512, flips, DiceLoss, Adam at 2e-4 with a cosine down to 1e-5, float32. The example
counts epochs, this counts time: training ends at ``--deadline``, in seconds since 1970, and the cosine with it. Writes
the masks of DATA/valid at the images' own size to FOLDER/masks, and FOLDER/steps.json. compare.py calls it.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from one_source import pairs_of
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flexunet_pl.core.files import write_json
from flexunet_pl.core.types import Pair
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import IGNORE_INDEX, Palette
from flexunet_pl.data.samples import ReadingRules, read_image
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.nn.published_weights import load_published_weights

SIZE = Sizing(512, 512)
BATCH = 4
WORKERS = 2  # as data.num_workers has it
RATES = (2e-4, 1e-5)  # at the start and at the end


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs as an image float32 (3, 512, 512), 0..255, and a mask int64 (512, 512), flipped at random."""

    def __init__(self, pairs: list[Pair], palette: Palette) -> None:
        """Take the pairs and what class is what."""
        self.pairs = pairs
        self.palette = palette

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read a pair."""
        image = to_tensor(self.pairs[index].image)
        mask = torch.from_numpy(SIZE.fit_mask(read_mask(self.pairs[index].mask, self.palette, False)[0])).long()
        axes = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
        return image.flip(axes), mask.flip(axes)


def to_tensor(path: Path) -> Tensor:
    """Read an image as float32 (3, 512, 512), 0..255."""
    return torch.from_numpy(SIZE.fit_image(read_image(path, ReadingRules(3)))).permute(2, 0, 1).float()


class NormalisedUnet(nn.Module):
    """Map an image (N, 3, H, W), 0..255, to logits (N, K, H, W), normalised as the encoder's weights expect."""

    def __init__(self, encoder: str, weights: str | None, num_classes: int) -> None:
        """Build smp.Unet; weights come from an installed package, for timm would download them."""
        super().__init__()
        self.model: Any = smp.Unet(encoder, encoder_weights=None, in_channels=3, classes=num_classes)
        if weights is not None:
            load_published_weights(self.model.encoder, encoder, weights, 3)
        # smp.encoders.get_preprocessing_params asks a hub; timm knows the same numbers, also of smp's own encoders.
        facts: Any = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        for name, values in (("mean", facts.mean), ("std", facts.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map images to logits."""
        logits: Tensor = self.model((image - self.get_buffer("mean")) / self.get_buffer("std"))
        return logits


def train(model: nn.Module, batches: DataLoader[tuple[Tensor, Tensor]], deadline: float) -> int:
    """Train until ``deadline`` and return the number of steps."""
    criterion = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, from_logits=True, ignore_index=IGNORE_INDEX)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATES[0])
    started, steps = time.time(), 0
    model.train()
    for image, mask in _endless(batches):
        share = (time.time() - started) / max(deadline - started, 1e-9)
        if share >= 1:
            break
        optimizer.param_groups[0]["lr"] = RATES[1] + (RATES[0] - RATES[1]) * (1 + math.cos(math.pi * share)) / 2
        loss = criterion(model(image), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return steps


def _endless(batches: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches


@torch.inference_mode()
def predict(model: nn.Module, pairs: list[Pair], palette: Palette, out: Path) -> None:
    """Write an index PNG for each image at its own size."""
    out.mkdir(parents=True, exist_ok=True)
    model.eval()
    for pair in pairs:
        logits = model(to_tensor(pair.image).unsqueeze(0))
        with Image.open(pair.image) as image:
            size = (image.height, image.width)
        mask = Image.fromarray(SIZE.restore_mask(logits[0].argmax(0).numpy().astype(np.uint8), size), "P")
        mask.putpalette(palette.flat())
        mask.save(out / f"{pair.name}.png")


def main() -> None:
    """Do what the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set with train, valid and palette.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder for the masks and the number of steps")
    parser.add_argument("--encoder", required=True, help="name of the encoder")
    parser.add_argument("--weights", help="name of published weights of the encoder")
    parser.add_argument("--deadline", type=float, required=True, help="when training ends, in seconds since 1970")
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        set_seed(options.seed)
    palette = Palette.load(options.data / PALETTE_FILE)
    model = NormalisedUnet(options.encoder, options.weights, len(palette))
    dataset = Pairs(pairs_of(options.data, "train"), palette)
    batches = DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    steps = train(model, batches, options.deadline)
    write_json(options.out / "steps.json", {"steps": steps, "ended": time.time()})
    predict(model, pairs_of(options.data, "valid"), palette, options.out / "masks")


if __name__ == "__main__":
    main()
