"""A few cases of the fuzz benchmark: damaged and hostile files end in a result or in one clear error."""

from typing import Any

import pytest
from test_benchmarks import benchmark

fuzz: Any = benchmark("fuzz")
CASES = 90


@pytest.mark.filterwarnings("ignore")  # libraries warn of damaged files before they refuse them
def test_damaged_files_give_one_error_each() -> None:
    quick = [name for name in fuzz.NAMES if name not in ("config", "words", "names")]  # each of these trains
    counts, faults = fuzz.fuzz(CASES, seed=7, only=quick)
    assert faults == []
    assert sum(sum(counted.values()) for counted in counts.values()) == CASES
    assert {outcome for counted in counts.values() for outcome in counted} == {"accepted", "refused"}
