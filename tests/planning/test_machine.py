"""Free memory of a machine and of a container, and what the keys of the Trainer change."""

from pathlib import Path

import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.planning.machine import GIBIBYTE, Machine, free_memory, this_machine
from flexunet_pl.planning.trial import try_step

SMALL = {"name": "flexunet", "base_filters": 4, "base_kernel": 3, "num_layers": 2}


def test_files_that_are_only_cached_are_free(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert free_memory(tmp_path / "meminfo", tmp_path / "none") == 8000 * 1024
    for name, text in {"max": "4096000", "current": "4000000", "stat": "anon 5\ninactive_file 1000000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_memory(tmp_path / "meminfo", tmp_path) == 1_096_000
    (tmp_path / "memory.max").write_text("max")
    assert free_memory(tmp_path / "meminfo", tmp_path) == 8000 * 1024
    assert free_memory(tmp_path / "none", tmp_path / "none") is None


def test_processes_share_the_memory() -> None:
    one, two = this_machine({"accelerator": "cpu"}), this_machine({"accelerator": "cpu", "devices": 2})
    assert one.gpu is None
    assert one.memory is None or two.memory == pytest.approx(one.memory / 2, rel=0.2)
    assert this_machine({"precision": "bf16-mixed"}).precision == "bf16-mixed"


def test_a_batch_is_halved_until_it_fits() -> None:
    machine = Machine(2, 100 * GIBIBYTE, None, 0, "32-true", "")
    whole = try_step(SMALL, 2, 3, (128, 128), 16, machine)
    assert (whole.batch, whole.halved) == (16, 0)
    assert whole.seconds > 0
    # 16 crops of 128x128 pixels take at least 262 MB, of which 60 % of 300 MB hold at most 8.
    part = try_step(SMALL, 2, 3, (128, 128), 16, Machine(2, 300_000_000, None, 0, "32-true", ""))
    assert part.batch * 2**part.halved == 16
    assert part.batch <= 8


def test_crops_that_cannot_fit_are_refused_before_they_are_tried() -> None:
    machine = Machine(2, GIBIBYTE, None, 0, "32-true", "")
    with pytest.raises(UserError, match=r"crops of 4096x4096 pixels: two of them need some 31 GiB, and 1\.0 GiB"):
        try_step(SMALL, 2, 3, (4096, 4096), 8, machine)
