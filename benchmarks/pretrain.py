"""Train FlexUNet on made-up surfaces, and write weights for ``model.pretrained``.

    python benchmarks/pretrain.py --steps 2000 --out surfaces.safetensors
    python benchmarks/pretrain.py --steps 500 --out short.safetensors
    python benchmarks/pretrain.py --steps 500 --permuted_masks --out permuted.safetensors

The architecture and the optimizer are those of a config. Every step draws new pictures of 128x128 pixels from
``flexunet_pl.data.synthetic.pretraining``. The loss is the cross-entropy and the -log Dice of the kinds plus the Dice
of any defect. With ``--permuted_masks`` each picture has the mask of another one: what the network then learns comes
from the pictures alone, or from having been trained at all. The scores printed at the end are of pictures of another
seed. The weights are float16 where they fit, with the settings of the network in the file's metadata.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from flexunet_pl.core.files import atomic_path
from flexunet_pl.data.synthetic.pretraining import CLASSES, draw_picture
from flexunet_pl.nn.flexunet import FlexUNet
from flexunet_pl.nn.losses import build_loss
from flexunet_pl.nn.metrics import Scores
from flexunet_pl.nn.networks import build_network, nested_settings
from flexunet_pl.training.optim import build_optimizer, set_batchnorm_momentum
from flexunet_pl.training.precision import automatic_precision

SIDE = 128
WARMUP = 0.05
LOG_EVERY = 100
LICENCE = "Apache-2.0"


def build(config: Path) -> tuple[FlexUNet, dict[str, object]]:
    """Return a FlexUNet with random weights as a config describes it, and the config's keys under ``model``."""
    model = yaml.safe_load(config.read_text())["model"]
    settings = nested_settings({key: value for key, value in model.items() if key != "pretrained"})["network"]
    network, _ = build_network(settings, len(CLASSES), 3)
    if not isinstance(network, FlexUNet):
        raise SystemExit(f"error: {config}: describes no FlexUNet")
    set_batchnorm_momentum(network, model.get("batchnorm_momentum"))
    return network.to(memory_format=torch.channels_last), model


def draw_batch(first: int, batch_size: int, seed: int, permuted: bool = False) -> tuple[Tensor, Tensor]:
    """Return pictures ``first``, ``first + 1`` .. as uint8 (N, 3, 128, 128), and masks (N, 128, 128).

    With ``permuted`` the masks are those of pictures drawn at random from (seed, first).
    """
    images, masks = zip(
        *(draw_picture((SIDE, SIDE), first + number, seed) for number in range(batch_size)), strict=True
    )
    if permuted:
        others = np.random.default_rng([seed, first]).integers(1_000_000, 2_000_000, batch_size)
        masks = tuple(draw_picture((SIDE, SIDE), int(other), seed)[1] for other in others)
    image = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return image, torch.from_numpy(np.stack(masks))


def loss_of(logits: Tensor, mask: Tensor, kinds: nn.Module, any_kind: nn.Module) -> Tensor:
    """Return the loss of the kinds plus that of any defect against background, a scalar."""
    two_classes = torch.stack([logits[:, 0], logits[:, 1:].logsumexp(1)], dim=1)
    return torch.as_tensor(kinds(logits, mask) + any_kind(two_classes, (mask > 0).to(torch.uint8)))


def rate_at(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a linear rise, then half a cosine."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))


def train(options: argparse.Namespace) -> FlexUNet:
    """Return the trained network; the loss is printed on the way."""
    torch.manual_seed(options.seed)
    network, model = build(options.config)
    kinds, any_kind = build_loss({"cross_entropy": 1.0, "log_dice": 1.0}, len(CLASSES)), build_loss({"dice": 1.0}, 2)
    optimizer = build_optimizer(
        str(model.get("optimizer", "adam")), network, options.learning_rate, float(str(model.get("weight_decay", 0.0)))
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, options.steps))
    is_bf16 = automatic_precision("cpu")[0] == "bf16-mixed"
    losses, start = [], time.monotonic()
    for step in range(options.steps):
        image, mask = draw_batch(step * options.batch_size, options.batch_size, options.seed, options.permuted_masks)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            logits = network(image)
        loss = loss_of(logits.float(), mask, kinds, any_kind)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            mean = np.mean(losses[-LOG_EVERY:])
            print(f"step {step + 1}: loss {mean:.3f}, {time.monotonic() - start:.0f} s", flush=True)
    return network


@torch.inference_mode()
def score(network: FlexUNet, pictures: int, seed: int) -> str:
    """Return Dice on pictures of another seed: the mean over the 16 kinds, and of all kinds as one class."""
    network.eval()
    kinds, any_kind = Scores(len(CLASSES)), Scores(2)
    for first in range(0, pictures, 4):
        image, mask = draw_batch(first, 4, seed)
        found = network(image).argmax(1).to(torch.uint8)
        kinds.update_masks(found, mask)
        any_kind.update_masks((found > 0).to(torch.uint8), (mask > 0).to(torch.uint8))
    values = [table.to_log([])["mean_foreground_dice"] for table in (kinds.compute(), any_kind.compute())]
    return f"Dice on {pictures} pictures of seed {seed}: {values[0]:.3f} over kinds, {values[1]:.3f} for any defect"


def write_weights(network: FlexUNet, path: Path, origin: str) -> None:
    """Write the weights as float16, with settings, origin and licence in the metadata.

    What does not fit, such as a large running variance, stays float32; counters stay as they are.
    """
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    halves = {key: value.half() for key, value in weights.items() if value.is_floating_point()}
    weights |= {key: half for key, half in halves.items() if bool(torch.isfinite(half).all())}
    settings = {key: value for key, value in network.arguments.items() if key != "num_classes"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(
            weights, temporary, {"network": json.dumps(settings), "origin": origin, "licence": LICENCE, "format": "pt"}
        )


def main(argv: Sequence[str]) -> None:
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/tile_flexunet.yaml"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--permuted_masks", action="store_true", help="give each picture the mask of another one")
    parser.add_argument("--scored", type=int, default=192, help="pictures of another seed to score at the end")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    network = train(options)
    masks = "masks of other pictures" if options.permuted_masks else "their masks"
    write_weights(
        network,
        options.out,
        f"benchmarks/pretrain.py: {options.steps} steps of {options.batch_size} made-up surfaces with {masks}, "
        f"seed {options.seed}",
    )
    print(score(network, options.scored, options.seed + 1))


if __name__ == "__main__":
    main(sys.argv[1:])
