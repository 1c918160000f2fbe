"""What an executor process arranges for itself with the kernel: to die with its parent, and to be one thread."""

import contextlib
import ctypes
import fcntl
import logging
import os
import random
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dspymq.transport.log_lines import write_patiently

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

    The same goes for SIGHUP. They get a handler instead of being ignored, since ignoring would be inherited by what
    programs start.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)


@contextlib.contextmanager
def stderr_to(path: str | None) -> Iterator[None]:
    """Write what goes to stderr, of C and of Python, to this file; at the end it is passed on to stderr after all.

    So whoever keeps the file knows the last words of a process that does not reach that end. None: nothing changes.
    """
    try:
        if path is None:
            raise OSError
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        before = os.dup(2)
    except OSError:
        yield
        return
    os.dup2(file, 2)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        written = os.pread(file, os.fstat(file).st_size, 0)
        os.ftruncate(file, 0)
        os.close(file)
        write_patiently(2, written, 1.0)


class Leash:
    """What ends the children that programs fork, with this process: the kernel kills them when a pipe of ours ends.

    Not by the parent's death signal, which follows the thread that forked. What a child executes is let go.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._is_child = False

    def tie(self) -> None:
        """To be called in a child, right after the fork. Without the means for it, it does nothing."""
        with contextlib.suppress(OSError):
            if not self._is_child:
                self._is_child = True
                os.close(self._write)
            if sys.platform.startswith("linux"):
                # Opened anew: these flags belong to what is opened, which children share.
                end = os.open(f"/proc/self/fd/{self._read}", os.O_RDONLY | os.O_NONBLOCK)
                fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
                fcntl.fcntl(end, _F_SETSIG, signal.SIGKILL)
                fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
                if select.select([end], [], [], 0)[0]:
                    os._exit(1)


_F_SETSIG: Final = 10


def leave(code: int) -> None:
    """End this process now, whatever its threads do."""
    for stream in (sys.stdout, sys.stderr, *logging.getLogger().handlers):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
