"""What a process has in RAM, as the kernel says it."""

import os
import subprocess
import sys

import pytest

from dspymq.worker.supervisor.memory import measure, of_process, parse

ROLLUP = """55d0c0a00000-7ffd3bdf3000 ---p 00000000 00:00 0                          [rollup]
Rss:              147440 kB
Pss:               85210 kB
Shared_Clean:      20480 kB
Shared_Dirty:       1024 kB
Private_Clean:      4096 kB
Private_Dirty:    121840 kB
Swap:                  0 kB
"""


def test_shared_and_private_make_up_all() -> None:
    memory = parse(ROLLUP)
    assert memory is not None
    assert (memory.shared, memory.private) == (21504 * 1024, 125936 * 1024)
    assert memory.rss == 147440 * 1024


def test_a_zombie_has_none() -> None:
    assert parse("") is None
    assert parse("00000000-00000000 ---p 00000000 00:00 0 [rollup]\n") is None


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="no smaps_rollup here")
def test_a_process_that_is_there_is_measured_and_one_that_is_gone_left_out() -> None:
    own = of_process(os.getpid())
    assert own is not None
    assert 1 << 20 < own.rss < 1 << 40
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        ended.wait()
    found = measure({"own": os.getpid(), "gone": ended.pid})
    assert list(found) == ["own"]
    assert found["own"].files_left is not None
    with open(os.devnull):
        assert measure({"own": os.getpid()})["own"].files_left == found["own"].files_left - 1
