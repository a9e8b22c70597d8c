"""The peak memory of a process, for the other benchmarks."""

import resource
from pathlib import Path


def peak_mib() -> float:
    """Return the peak memory of this process, in MiB; Linux keeps it apart from what the parent held at its start."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
