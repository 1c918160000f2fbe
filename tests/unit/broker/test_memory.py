"""Memory that a rush took goes back to the system, although something small that was taken then stays."""

import platform
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dspymq.broker.memory import memory_trimmer

HOARD = """
import sys
from pathlib import Path
from dspymq.broker.memory import memory_trimmer

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1024 / 1024

trim = memory_trimmer()
before = resident_mib()
heap = [bytes(3_000) for _ in range(30_000)]
kept = heap[::1_000]
del heap
if sys.argv[1] == "trimmed":
    trim()
print(resident_mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_goes_back_although_something_small_stays() -> None:
    grown_mib = {
        how: float(subprocess.check_output([sys.executable, "-c", HOARD, how], timeout=30))
        for how in ("trimmed", "left")
    }
    assert grown_mib["trimmed"] < 16 < grown_mib["left"], grown_mib


def test_a_library_without_the_function_is_left_alone() -> None:
    memory_trimmer(cast(Any, SimpleNamespace()))()
