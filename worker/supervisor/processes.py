"""The executor processes: started from a fork server or by spawn, spoken to over pipes, followed to their end.

A death is reported only after the pipe was read to its end: no message that an executor managed to write is lost or
overtaken by the news of its death.
"""

import asyncio
import contextlib
import importlib.machinery
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from dspymq.protocol.messages import Bye, Header
from dspymq.worker.executor.main import main as executor_main
from dspymq.worker.pipe import Pipe

log = logging.getLogger("dspymq.worker.processes")

PRELOAD: Final = "dspymq.worker.executor.preload"

BATCH: Final = 64
"""Messages of one executor that are handled before others get their turn."""

LAST_WORDS_S: Final = 0.5
"""How long the pipe of a dead executor may stay open: a process of its own may have inherited it."""

EXIT_S: Final = 1.0
"""How long an executor that closed its pipe may take to exit."""


class Listener(Protocol):
    """Who wants to hear of executors; called on the loop."""

    def executor_started(self, executor: str, pid: int) -> None:
        """The process exists."""

    def executor_message(self, executor: str, message: Any, body: bytes) -> None:
        """It said something."""

    def executor_gone(self, executor: str, exit_code: int | None) -> None:
        """It ended, or could not be started (None)."""


class Child:
    """One executor process and the pipe to it."""

    def __init__(self, executor: str, process: Any) -> None:
        self.executor = executor
        self.process = process
        self.pipe: Pipe | None = None
        self.exited: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.kill_asked = False
        self.follower: asyncio.Task[None] | None = None


class Processes:
    """All executors of one pool, on the running loop."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._children: dict[str, Child] = {}
        self._starter = Starter()
        self._closed = False

    def start(self, executor: str, *, spawn: bool) -> None:
        """Start one; `executor_started` or `executor_gone` follows."""
        ours, theirs = socket.socketpair()
        context: Any = multiprocessing.get_context("spawn" if spawn else "forkserver")
        process = context.Process(target=executor_main, args=(executor, theirs), name=executor, daemon=False)
        child = self._children[executor] = Child(executor, process)

        def done(error: BaseException | None) -> None:
            theirs.close()
            self._started(child, ours, error, spawn=spawn)

        if spawn:
            # The kernel ends an executor with the thread that started it: this must be the one that lives longest.
            error: BaseException | None = None
            try:
                with main_left_out():
                    process.start()
            except Exception as problem:
                error = problem
            self._loop.call_soon(done, error)
            return
        context.set_forkserver_preload([PRELOAD])
        try:
            # In this thread for the same reason; it does not wait until the programs are imported, `start` does.
            with main_left_out():
                multiprocessing.forkserver.ensure_running()
        except Exception as problem:
            self._loop.call_soon(done, problem)
            return

        def done_elsewhere(error: BaseException | None) -> None:
            self._loop.call_soon_threadsafe(done, error)

        self._starter.start(process, done_elsewhere)

    def send(self, executor: str, message: Header, body: bytes) -> None:
        """Send; to one that is gone it is no error."""
        child = self._children.get(executor)
        if child is not None and child.pipe is not None:
            child.pipe.send(message, body)

    def kill(self, executor: str) -> None:
        """SIGKILL, as soon as there is a process."""
        child = self._children.get(executor)
        if child is not None:
            child.kill_asked = True
            self._kill(child)

    async def stop(self, grace_s: float) -> None:
        """Tell all to exit, kill those that still run after `grace_s`, and end the fork server."""
        self._closed = True
        started = [child for child in self._children.values() if child.pipe is not None]
        if grace_s > 0:
            for child in started:
                self.send(child.executor, Bye(reason="shutdown"), b"")
            await self._wait(started, grace_s)
        for child in started:
            self._kill(child)
        await self._wait(started, 5.0)
        stop_fork_server()
        for child in started:
            if child.follower is not None:
                child.follower.cancel()
            if child.pipe is not None:
                child.pipe.close()
            if child.exited.done():
                child.process.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _wait(self, children: list[Child], timeout_s: float) -> None:
        running = [child.exited for child in children if not child.exited.done()]
        if running:
            await asyncio.wait(running, timeout=timeout_s)

    def _started(self, child: Child, ours: socket.socket, error: BaseException | None, *, spawn: bool) -> None:
        if error is not None or self._closed:
            ours.close()
            if error is not None and not self._closed:
                log.error("executor.start_failed executor=%s error=%r", child.executor, error)
            self._kill(child)
            del self._children[child.executor]
            if not self._closed:
                self._listener.executor_gone(child.executor, None)
            return
        child.pipe = Pipe.open(ours)
        self._watch_exit(child, spawn=spawn)
        if child.kill_asked:
            self._kill(child)
        self._listener.executor_started(child.executor, child.process.pid)
        child.follower = self._loop.create_task(self._follow(child))

    def _watch_exit(self, child: Child, *, spawn: bool) -> None:
        # The sentinel of a spawned process is a pipe that its own children may have inherited.
        own_fd = os.pidfd_open(child.process.pid) if spawn and hasattr(os, "pidfd_open") else None
        fd = child.process.sentinel if own_fd is None else own_fd

        def exited() -> None:
            code = child.process.exitcode
            if code is None:
                # The end of the pipe may be seen a moment before the process can be waited for.
                self._loop.remove_reader(fd)
                self._loop.call_later(0.005, again)
                return
            self._loop.remove_reader(fd)
            if own_fd is not None:
                os.close(own_fd)
            if child.pipe is not None:
                self._loop.call_later(LAST_WORDS_S, child.pipe.close)
            if not child.exited.done():
                child.exited.set_result(code)

        def again() -> None:
            self._loop.add_reader(fd, exited)

        again()

    async def _follow(self, child: Child) -> None:
        pipe = child.pipe
        assert pipe is not None, "a child that is followed has a pipe"
        executor = child.executor
        while (received := await pipe.receive()) is not None:
            count = 0
            while received is not None:
                self._listener.executor_message(executor, *received)
                count += 1
                received = pipe.receive_nowait() if count < BATCH else None
            if count == BATCH:
                await asyncio.sleep(0)
        if not child.exited.done():
            await asyncio.wait([child.exited], timeout=EXIT_S)
            if not child.exited.done():
                log.warning("executor.lingers executor=%s pid=%s", executor, child.process.pid)
                self._kill(child)
        code = await child.exited
        pipe.close()
        if self._closed:
            return
        del self._children[executor]
        child.process.close()
        self._listener.executor_gone(executor, code)

    def _kill(self, child: Child) -> None:
        if not child.exited.done():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                child.process.kill()


class Starter:
    """Starts processes from the fork server in a thread of its own, one after the other.

    `Process.start` waits until the fork server has forked; the first one waits until it has imported the programs.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Any, Callable[[BaseException | None], None]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, process: Any, done: Callable[[BaseException | None], None]) -> None:
        """Start this process, then call `done` in the starter's thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="starter", daemon=True)
            self._thread.start()
        self._orders.put((process, done))

    def _run(self) -> None:
        while True:
            process, done = self._orders.get()
            error: BaseException | None = None
            try:
                with main_left_out():
                    process.start()
            except Exception as problem:
                error = problem
            # A loop that was closed meanwhile has nobody who waits.
            with contextlib.suppress(RuntimeError):
                done(error)


@contextlib.contextmanager
def main_left_out() -> Iterator[None]:
    """Keep multiprocessing from running the supervisor's script again in every executor.

    The script of a console command has no spec, so multiprocessing would import it, and with it the CLI and zmq. A
    spec whose name ends in `.__main__` tells it that there is nothing to run.
    """
    module = sys.modules["__main__"]
    if getattr(module, "__spec__", None) is not None:
        yield
        return
    module.__spec__ = importlib.machinery.ModuleSpec("dspymq.__main__", None)
    try:
        yield
    finally:
        module.__spec__ = None


def stop_fork_server() -> None:
    """End the fork server of this process now, whatever it does; a later pool starts another."""
    server: Any = getattr(multiprocessing.forkserver, "_forkserver", None)
    pid = getattr(server, "_forkserver_pid", None)
    if pid is None:
        return
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError, AttributeError):
        server._stop()
