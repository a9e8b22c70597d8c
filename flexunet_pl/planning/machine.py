"""What this machine has."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from flexunet_pl.training.precision import automatic_precision

GIBIBYTE = 2**30
# Where Linux says how much memory the machine, and the container that this process is in, have left.
MEMORY_INFO = Path("/proc/meminfo")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
CONTAINER_USED = Path("/sys/fs/cgroup/memory.current")


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


def this_machine() -> Machine:
    """Return what the machine has that this process runs on."""
    precision, reason = automatic_precision("auto")
    has_gpu = torch.cuda.is_available()
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_free_memory(),
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        gpu_memory=int(torch.cuda.mem_get_info()[0]) if has_gpu else 0,
        precision=precision,
        precision_reason=reason,
    )


def _free_memory() -> int | None:
    found = []
    try:
        lines = MEMORY_INFO.read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        limit, used = (path.read_text(encoding="ascii").strip() for path in (CONTAINER_LIMIT, CONTAINER_USED))
        found += [int(limit) - int(used)] if limit != "max" else []
    except (OSError, ValueError):
        pass
    return min(found, default=None)
