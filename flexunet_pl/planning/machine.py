"""What this machine has."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexunet_pl.training.precision import automatic_precision

GIBIBYTE = 2**30
# Where Linux says how much memory the machine, and the container that this process is in, have left.
MEMORY_INFO = Path("/proc/meminfo")
CONTAINERS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
CONTROL_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """What a training may use.

    Attributes:
        cores: Processors that this process may use.
        memory: Free bytes of main memory, None where the system does not say.
        gpu: Name of the GPU, None without one.
        gpu_memory: Its free bytes, 0 without one.
        precision: What ``trainer.precision: auto`` means here.
        precision_reason: Why.
    """

    cores: int
    memory: int | None
    gpu: str | None
    gpu_memory: int
    precision: str
    precision_reason: str


def this_machine(trainer: Mapping[str, Any]) -> Machine:
    """Return what a run may use of the machine that this process runs on.

    Args:
        trainer: The keys given for the Trainer: accelerator, devices and precision count.
    """
    accelerator = str(trainer.get("accelerator") or "auto")
    devices = trainer.get("devices")
    processes = devices if isinstance(devices, int) and devices > 1 else 1
    precision: str
    precision, reason = automatic_precision(accelerator)
    if (given := trainer.get("precision")) not in (None, "auto"):
        precision, reason = str(given), "given"
    has_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    memory = free_memory()
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=memory if memory is None or has_gpu else memory // processes,
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        gpu_memory=int(torch.cuda.mem_get_info()[0]) if has_gpu else 0,
        precision=precision,
        precision_reason=reason,
    )


def free_memory(information: Path = MEMORY_INFO, groups: Path = CONTROL_GROUPS) -> int | None:
    """Return the free bytes of main memory, or of the container; None where the system does not say.

    Files that are only cached count as free.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = information.read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used, statistics, cached in CONTAINERS:
        with contextlib.suppress(OSError, ValueError, IndexError):
            most, now = (int((groups / name).read_text(encoding="ascii")) for name in (limit, used))
            lines = (groups / statistics).read_text(encoding="ascii").splitlines()
            found.append(most - now + sum(int(line.split()[1]) for line in lines if line.startswith(f"{cached} ")))
    return min(found, default=None)
