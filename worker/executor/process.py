"""What an executor process arranges for itself with the kernel: to die with its parent, and to be one thread."""

import contextlib
import ctypes
import os
import random
import signal
import sys
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies; exits if it already did (0: not checked)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid and os.getppid() != parent_pid:
        os._exit(1)


def thread_count() -> int:
    """The threads of this process as the kernel counts them, native ones included."""
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return 1


def fresh_seeds() -> None:
    """Give this process random numbers of its own; a fork starts with its parent's state."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def set_signals() -> None:
    """What a terminal (SIGINT) or a service manager (SIGTERM) sends to the whole group is the supervisor's to act on.

    SIGTERM gets a handler instead of being ignored, since ignoring would be inherited by what programs start.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)


def leave(code: int) -> None:
    """End this process now, whatever its threads do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
