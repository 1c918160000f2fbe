"""Zombies: those that nobody waits for are taken leave of, and no others."""

import os
import sys
import time
from pathlib import Path

import pytest

from dspymq.worker.supervisor.reaper import Reaper

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is read")


def ended_child() -> int:
    """A child that has ended, and that nobody has waited for."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return pid


def test_who_has_ended_is_reaped_at_the_second_look_unless_somebody_waits_for_it() -> None:
    reaper = Reaper(os.getpid())
    orphan, own = ended_child(), ended_child()
    reaper.look({own})
    assert Path(f"/proc/{orphan}").exists(), "whoever waits for it has a moment to do so"
    assert reaper.look({own}) >= 1
    assert not Path(f"/proc/{orphan}").exists()
    for _ in range(3):
        reaper.look({own})
    assert os.waitpid(own, 0) == (own, 0)
