"""How fast a network trains, and where the time of a step goes.

    python benchmarks/training.py configs/tile.yaml                         precisions x memory layouts
    python benchmarks/training.py configs/tile.yaml --model.num_layers 8    any key under model, data or trainer
    python benchmarks/training.py configs/tile.yaml --compile               torch.compile too
    python benchmarks/training.py configs/tile.yaml --profile               and the operators of the fastest variant

All variants take turns, step by step, so that a machine that slows down slows all of them; times are medians. The first
one is what the others are compared with: torch's own dropout, clipping and layout. The peak is the best of the matrix
products that take turns with the steps, and the share of it counts three times the operations of the forward pass.
Memory is the peak of a process of its own. A device that does not compute in bf16 is measured in fp32 alone. Waiting
for data is measured with the fastest variant and the config's own loader, on made-up images if the config's are not
there.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from memory import peak_mib
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE
from flexunet_pl.nn.dropout import Dropout
from flexunet_pl.nn.metrics import mask_from_logits
from flexunet_pl.nn.networks import nested_settings
from flexunet_pl.training.optim import build_optimizer, clip_by_value
from flexunet_pl.training.precision import automatic_precision
from flexunet_pl.training.task import Batch, SegmentationTask

PARTS = ("forward", "loss and scores", "backward", "optimizer")
MATRIX_SIDE = 2048
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
Config = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to run a step.

    Attributes:
        precision: A key of ``PRECISIONS``.
        channels_last: Whether the channels of a pixel lie together.
        plain: Whether dropout and clipping are torch's own.
        compiled: Whether torch.compile is used.
    """

    precision: str
    channels_last: bool
    plain: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        """Return the name in the table."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.precision} {layout}{', plain torch' * self.plain}{', compiled' * self.compiled}"


VARIANTS = (
    Variant("fp32", channels_last=False, plain=True),
    Variant("fp32", channels_last=True),
    Variant("bf16", channels_last=False),
    Variant("bf16", channels_last=True, plain=True),
    Variant("bf16", channels_last=True),
)
# With torch's dropout: the compiled graph cannot hold the views that ours draws its random bits through.
COMPILED = (Variant("bf16", channels_last=True, plain=True, compiled=True),)


def variants_on(device: str, compiled: bool) -> list[Variant]:
    """Return the variants to measure: those in bf16 only where the device computes in it."""
    has_bf16 = automatic_precision(device)[0] == "bf16-mixed"
    return [one for one in VARIANTS + COMPILED * compiled if has_bf16 or one.precision != "bf16"]


def read_config(path: str, overrides: Sequence[str]) -> Config:
    """Return the parts model, data and trainer of a config, with ``--part.key value`` from the command line."""
    content = yaml.safe_load(Path(path).read_text())
    config: Config = {part: dict(content.get(part) or {}) for part in ("model", "data", "trainer")}
    for option, value in zip(overrides[::2], overrides[1::2], strict=True):
        part, _, key = option.removeprefix("--").partition(".")
        if part not in config or not key:
            raise SystemExit(f"error: {option}: give keys as --model.KEY, --data.KEY or --trainer.KEY")
        config[part][key] = yaml.safe_load(value)
    return config


def build_task(config: Config) -> SegmentationTask:
    """Return the task of a config, with the palette of the demo if the config has none."""
    data = config["data"]
    palette = data.get("palette")
    settings = config["model"] | {"in_channels": data.get("channels", 3), "image_size": data.get("image_size", 512)}
    if isinstance(settings.get("class_weights"), str):
        del settings["class_weights"]  # counted from masks; they cost no time
    return SegmentationTask(palette if isinstance(palette, dict) else dict(TILE_PALETTE), **nested_settings(settings))


class Stepper:
    """Trains one variant step by step, as Lightning does with the config, and keeps the seconds of each part."""

    def __init__(self, variant: Variant, config: Config, device: torch.device) -> None:
        """Build network and optimizer."""
        torch.manual_seed(0)
        self.variant = variant
        self.device = device
        self.task = build_task(config).to(device).train()
        self.format = torch.channels_last if variant.channels_last else torch.contiguous_format
        network = self.task.network.to(memory_format=self.format)
        for layer in network.modules() if variant.plain else ():
            if isinstance(layer, Dropout):
                layer.__class__ = nn.Dropout  # type: ignore[assignment]  # its parent has all it needs
        settings = self.task.hparams
        self.optimizer = build_optimizer(
            settings["optimizer"], network, settings["learning_rate"], settings["weight_decay"]
        )
        self.limit = config["trainer"].get("gradient_clip_val")
        self.algorithm = config["trainer"].get("gradient_clip_algorithm", "norm")
        self.network: Any = torch.compile(network) if variant.compiled else network
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}

    def step(self, batch: Batch) -> None:
        """Do one step."""
        marks = [self._now()]
        image, mask = batch["image"].to(self.device), batch["mask"].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.precision == "bf16"):
            logits = self.network(image.contiguous(memory_format=self.format))
            marks.append(self._now())
            loss = self.task.criterion(logits, mask)
            self.task.train_scores.update_masks(mask_from_logits(logits), mask)
        marks.append(self._now())
        self.optimizer.zero_grad()
        loss.backward()
        marks.append(self._now())
        self._clip()
        self.optimizer.step()
        marks.append(self._now())
        for part, start, end in zip(PARTS, marks[:-1], marks[1:], strict=True):
            self.seconds[part].append(end - start)

    def _clip(self) -> None:
        if self.limit is None:
            return
        if self.algorithm == "norm":
            nn.utils.clip_grad_norm_(self.task.network.parameters(), self.limit)
        elif self.variant.plain:
            nn.utils.clip_grad_value_(self.task.network.parameters(), self.limit)
        else:
            clip_by_value(self.optimizer, self.limit)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def forget(self) -> None:
        """Forget the times of the steps so far."""
        self.seconds = {part: [] for part in PARTS}

    def median(self, *parts: str) -> float:
        """Return the median seconds of the sum of parts, of a whole step if none is named."""
        chosen = [self.seconds[part] for part in parts or PARTS]
        return statistics.median(map(sum, zip(*chosen, strict=True)))


def made_up_batch(config: Config) -> Batch:
    """Return random images and masks of the size that the config trains at."""
    data = config["data"]
    size = data.get("crop_size") or data.get("image_size", 512)
    height, width = (size, size) if isinstance(size, int) else size
    count, channels = data.get("batch_size", 2), data.get("channels", 3)
    torch.manual_seed(0)
    image = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)
    return {"image": image, "mask": torch.randint(0, 2, (count, height, width), dtype=torch.uint8)}


def forward_operations(config: Config, batch: Batch) -> int:
    """Return the floating-point operations of the forward pass of a batch; a multiplication and an addition are two."""
    task = build_task(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.eval()(batch["image"])
    return int(counter.get_total_flops())


def matrix_speed(precision: str, device: torch.device) -> float:
    """Return the operations a second of a product of two square matrices, the best of three."""
    one, other = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=device).to(PRECISIONS[precision]) for _ in range(2))
    fastest = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        product: Tensor = one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * product.shape[0] ** 3 / fastest


def peak_memory(config: Config, variant: Variant) -> float:
    """Return the peak MiB of a process that does two steps."""
    setup = json.dumps({"config": config, "variant": dataclasses.asdict(variant)})
    done = subprocess.run([sys.executable, __file__, "measure", setup], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def measure_memory(setup: dict[str, Any]) -> None:
    """Do two steps and print the peak MiB of this process."""
    stepper = Stepper(Variant(**setup["variant"]), setup["config"], torch.device("cpu"))
    for _ in range(2):
        stepper.step(made_up_batch(setup["config"]))
    print(peak_mib())


def data_batches(config: Config, folder: Path) -> Iterator[Batch]:
    """Yield training batches of the config's loader over and over, of made-up images if the config's are not there."""
    settings = dict(config["data"])
    if not Path(str(settings.get("root"))).is_dir():
        settings |= {"root": str(folder / "data"), "synthetic_images": 24}
    datamodule = SegmentationDataModule(**settings)
    datamodule.prepare("fit")
    loader = datamodule.train_dataloader()
    while True:
        yield from loader


def waiting_share(stepper: Stepper, config: Config, steps: int) -> float:
    """Return which share of the time of a loop over the config's loader goes into waiting for the next batch."""
    with tempfile.TemporaryDirectory() as folder:
        batches = data_batches(config, Path(folder))
        stepper.step(next(batches))  # the workers start
        waited = 0.0
        begin = time.perf_counter()
        for _ in range(steps):
            start = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - start
            stepper.step(batch)
        return waited / (time.perf_counter() - begin)


def print_table(steppers: Sequence[Stepper], config: Config, batch: Batch, peaks: dict[str, float]) -> None:
    """Print a row for each variant."""
    operations = 3 * forward_operations(config, batch)
    first = steppers[0].median()
    columns = ["", "ms a step", "images/s", "times as fast", "of the peak", *PARTS, "peak MiB"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for stepper in steppers:
        step = stepper.median()
        shares = [f"{stepper.median(part) / step:.0%}" for part in PARTS]
        share = operations / step / peaks[stepper.variant.precision]
        memory = "" if stepper.device.type == "cuda" else f"{peak_memory(config, stepper.variant):.0f}"
        cells = [f"{step * 1e3:.0f}", f"{len(batch['mask']) / step:.2f}", f"{first / step:.2f}", f"{share:.0%}"]
        print(f"| {stepper.variant} | {' | '.join([*cells, *shares, memory])} |", flush=True)


def print_profile(stepper: Stepper, batch: Batch) -> None:
    """Print what the operators of a step take, the largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        stepper.step(batch)
    rows = [row for row in profiler.key_averages() if "#" not in row.key]  # not the marks that optimizers set
    rows.sort(key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    print(f"\n| operator of {stepper.variant} | ms | share | calls |\n|---|---|---|---|")
    for row in rows[:20]:
        print(
            f"| {row.key} | {row.self_cpu_time_total / 1e3:.1f} | {row.self_cpu_time_total / whole:.1%} | {row.count} |"
        )


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    if argv[:1] == ["measure"]:
        measure_memory(json.loads(argv[1]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a YAML file, as for fit")
    parser.add_argument("--steps", type=int, default=7, help="steps of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--profile", action="store_true", help="also print the operators of the fastest variant")
    options, overrides = parser.parse_known_args(argv)
    torch.set_num_threads(options.threads)
    config, device = read_config(options.config, overrides), torch.device(options.device)
    batch = made_up_batch(config)
    variants = variants_on(options.device, options.compile)
    steppers = [Stepper(variant, config, device) for variant in variants]
    for stepper in steppers:
        stepper.step(batch)
        stepper.forget()
    peaks = {variant.precision: 0.0 for variant in variants}
    for _ in range(options.steps):
        for precision in peaks:
            peaks[precision] = max(peaks[precision], matrix_speed(precision, device))
        for stepper in steppers:
            stepper.step(batch)
    size = "x".join(map(str, batch["image"].shape[2:]))
    print(
        f"{options.config} {' '.join(overrides)}: {size}, batch {len(batch['mask'])}, {options.threads} threads; matrix"
    )
    print(f"products: {', '.join(f'{name} {speed / 1e9:.0f} GFLOP/s' for name, speed in peaks.items())}\n")
    print_table(steppers, config, batch, peaks)
    fastest = min(steppers, key=Stepper.median)
    share = waiting_share(fastest, config, options.steps)
    workers = config["data"].get("num_workers", 2)
    print(f"\nWaiting for data, {fastest.variant}, {workers} workers: {share:.1%} of the time")
    if options.profile:
        print_profile(fastest, batch)


if __name__ == "__main__":
    main(sys.argv[1:])
