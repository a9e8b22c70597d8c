"""Try one training step: how long it takes, and how much memory."""

import contextlib
import gc
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.memory import keep_freed_memory
from flexunet_pl.nn.networks import build_network
from flexunet_pl.planning.machine import GIBIBYTE, Machine

STEPS = 3
# The default network takes some 10,000 bytes for each pixel of a batch; no network takes less than this.
LEAST_BYTES_PER_PIXEL = 1_000
FEWEST = 2  # crops, since the statistics of one crop may be those of one pixel
# Where Linux tells a process its largest resident memory, VmHWM, and what resets that (proc(5), clear_refs).
PROCESS_STATUS, CLEAR_REFERENCES, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"
# Of free memory, the share that a step may take; data loading, pictures and the rest of the machine need some.
MOST_SHARE = 0.6


@dataclass(frozen=True)
class Trial:
    """One training step.

    Attributes:
        batch: Crops in it.
        seconds: Its shortest time, which other programs lengthen least.
        memory: Bytes that it takes, an estimate on a CPU.
        halved: How often the batch was halved until it fitted.
    """

    batch: int
    seconds: float
    memory: int
    halved: int


def try_step(
    network: Mapping[str, Any], num_classes: int, channels: int, size: tuple[int, int], batch: int, machine: Machine
) -> Trial:
    """Train a network with random weights for a few steps on noise, with as large a part of ``batch`` as fits.

    Args:
        network: ``name`` and settings of the network.
        num_classes: Output channels K.
        channels: Channels of the image.
        size: Height and width of a crop.
        batch: Crops that a step should have.
        machine: Where the training will run.

    Raises:
        UserError: If not even the smallest batch fits.
    """
    keep_freed_memory()
    halved = 0
    least = FEWEST * size[0] * size[1] * LEAST_BYTES_PER_PIXEL
    memory = machine.gpu_memory or machine.memory
    if memory is not None and least > memory:
        raise UserError(
            f"crops of {size[0]}x{size[1]} pixels: two of them need some {least / GIBIBYTE:.0f} GiB, and "
            f"{memory / GIBIBYTE:.1f} GiB are free; give a smaller --data.crop_size"
        )
    if machine.gpu is None:
        few = _run(network, num_classes, channels, size, FEWEST, machine)
        each = max(few.memory, least) / FEWEST  # memory that this process had freed before is not seen as used
        while batch > 1 and machine.memory is not None and each * batch > MOST_SHARE * machine.memory:
            batch, halved = batch // 2, halved + 1
        found = _run(network, num_classes, channels, size, batch, machine) if batch > FEWEST else few
        return Trial(batch, found.seconds, max(found.memory, round(each * batch)), halved)
    while True:
        try:
            found = _run(network, num_classes, channels, size, batch, machine)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise UserError(
                    f"a crop of {size[0]}x{size[1]} pixels does not fit into the memory of {machine.gpu}; give "
                    "a smaller --data.crop_size"
                ) from None
        else:
            if found.memory <= MOST_SHARE * machine.gpu_memory or batch == 1:
                return Trial(batch, found.seconds, found.memory, halved)
        batch, halved = batch // 2, halved + 1
        torch.cuda.empty_cache()


def _run(
    network: Mapping[str, Any], num_classes: int, channels: int, size: tuple[int, int], batch: int, machine: Machine
) -> Trial:
    device = torch.device("cpu" if machine.gpu is None else "cuda")
    before = _forgotten_peak(device)
    with _kept_random_state():
        model = build_network({**network, **_without_weights(network)}, num_classes, channels)[0].to(device).train()
        optimizer = torch.optim.AdamW(model.parameters())
        image = torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, device=device)
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=machine.precision == "bf16-mixed"):
                loss = model(image).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    memory = max(0, _peak(device) - before)
    del model, optimizer, image, loss
    gc.collect()
    return Trial(batch, min(seconds), memory, 0)


def _without_weights(network: Mapping[str, Any]) -> dict[str, Any]:
    return {"encoder_weights": None} if network["name"] != "flexunet" else {}


def _forgotten_peak(device: torch.device) -> int:
    """Return the bytes in use now, and let :func:`_peak` begin with them where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    with contextlib.suppress(OSError):  # not Linux
        CLEAR_REFERENCES.write_text(RESET_PEAK, encoding="ascii")
    return _peak(device)


def _peak(device: torch.device) -> int:
    """Return the most bytes that were in use since :func:`_forgotten_peak`."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = PROCESS_STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, StopIteration):
        import resource  # Windows has none

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def _kept_random_state() -> Iterator[None]:
    """Leave torch's random numbers as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
