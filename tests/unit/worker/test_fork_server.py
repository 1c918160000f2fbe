"""A fork server that was stopped stays so, leaves no file, and what it started is forgotten."""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dspymq.worker.supervisor.fork_server import ForkServer, NamelessServer
from tests.processes import wait_until

WAIT_S = 30.0


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


Ends = queue.SimpleQueue[BaseException | None]


def start(server: ForkServer) -> tuple[Any, Ends]:
    """A process of this server, and where it is said that it has been started, or why it was not."""
    process: Any = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    ends: Ends = queue.SimpleQueue()
    server.start(process, lambda error, _: ends.put(error))
    return process, ends


def files() -> int:
    """The descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def test_its_socket_has_no_name(temporary: Path) -> None:
    server = ForkServer()
    try:
        for _ in range(2):
            process, ends = start(server)
            assert ends.get(timeout=WAIT_S) is None
            process.join(WAIT_S)
            assert process.exitcode == 0
            assert not list(temporary.iterdir())
    finally:
        server.stop()


def test_it_is_not_started_again_after_it_was_closed() -> None:
    server = NamelessServer()
    server.close()
    with pytest.raises(OSError, match="was stopped"):
        server.ensure_running()


def test_what_it_started_last_is_forgotten() -> None:
    server = ForkServer()
    try:
        process, ends = start(server)
        assert ends.get(timeout=WAIT_S) is None
        process.join(WAIT_S)
        before = files()
        del process
        wait_until(lambda: files() < before, WAIT_S, "the end of its pipes")
    finally:
        server.stop()


def test_a_start_that_failed_keeps_nothing_open() -> None:
    """Without the garbage collector, which may not come for a long time."""
    server = ForkServer()
    gc.disable()
    try:
        process, ends = start(server)
        assert ends.get(timeout=WAIT_S) is None
        process.join(WAIT_S)
        del process
        before = files()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        _, ends = start(server)
        wait_until(lambda: files() > before, WAIT_S, "its pipes")
        os.kill(server.pid, signal.SIGKILL)
        assert isinstance(ends.get(timeout=WAIT_S), EOFError)
        wait_until(lambda: files() < before, WAIT_S, "the end of its pipes, and those of the server")
    finally:
        gc.enable()
        server.stop()
