"""The executor processes: started from a fork server or by spawn, spoken to over pipes, followed to their end.

A death is reported only after the pipe was read to its end: no message that an executor managed to write is lost or
overtaken by the news of its death.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import socket
from typing import Any, Final, Protocol

from dspymq.protocol.messages import Bye, Header
from dspymq.transport.files import check_files
from dspymq.worker.executor.main import main as executor_main
from dspymq.worker.pipe import Pipe
from dspymq.worker.supervisor.fork_server import ForkServer, LastWords, main_left_out

log = logging.getLogger("dspymq.worker.processes")

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

    def executor_gone(self, executor: str, exit_code: int | None, last_words: str) -> None:
        """It ended, or could not be started; what was written last on stderr while the programs were imported."""


class Child:
    """One executor process and the pipe to it."""

    def __init__(self, executor: str, process: Any, generation: int) -> None:
        self.executor = executor
        self.generation = generation
        self.words: LastWords | None = None
        """What it wrote while it imported the programs by itself."""
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
        self._servers: dict[int, ForkServer] = {}
        self._closed = False
        self._told = ""
        """Why the last start failed, as the log has it."""

    def start(self, executor: str, *, spawn: bool, generation: int = 1) -> None:
        """Start one of this generation; `executor_started` or `executor_gone` follows."""
        try:
            check_files()
            ours, theirs = socket.socketpair()
        except OSError as problem:
            self._loop.call_soon(self._not_started, executor, problem)
            return
        context: Any = multiprocessing.get_context("spawn" if spawn else "forkserver")
        process = context.Process(target=executor_main, args=(executor, theirs), name=executor, daemon=False)
        child = self._children[executor] = Child(executor, process, generation)

        def done(error: BaseException | None, code: int | None) -> None:
            theirs.close()
            self._started(child, ours, error, code, spawn=spawn)

        def done_elsewhere(error: BaseException | None, code: int | None) -> None:
            self._loop.call_soon_threadsafe(done, error, code)

        error: BaseException | None = None
        try:
            if spawn:
                child.words = LastWords()
                # The kernel ends an executor with the thread that started it: this must be the one that lives longest.
                with main_left_out(), child.words.in_environment():
                    process.start()
            else:
                server = self._servers.get(generation)
                if server is None:
                    server = self._servers[generation] = ForkServer()
                server.start(process, done_elsewhere)
                return
        except Exception as problem:
            error = problem
        self._loop.call_soon(done, error, None)

    def end_generation(self, generation: int) -> None:
        """Its fork server is needed no more."""
        server = self._servers.pop(generation, None)
        if server is not None:
            server.stop()

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
        for server in self._servers.values():
            server.stop()
        self._servers.clear()
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

    def pids(self) -> dict[str, int]:
        """The processes that run."""
        return {
            child.executor: child.process.pid
            for child in self._children.values()
            if child.pipe is not None and not child.exited.done()
        }

    def children(self) -> set[int]:
        """All processes that are waited for here: fork servers, and executors whoever forked them."""
        servers = [server.pid for server in self._servers.values()]
        executors = [child.process.pid for child in self._children.values()]
        return {pid for pid in [*servers, *executors] if pid is not None}

    def _started(
        self, child: Child, ours: socket.socket, error: BaseException | None, code: int | None, *, spawn: bool
    ) -> None:
        if error is not None or self._closed:
            ours.close()
            self._kill(child)
            del self._children[child.executor]
            if self._closed:
                return
            server = self._servers.get(child.generation)
            words = server.last_words() if server is not None and not spawn else ""
            # A fork server that died while it imported the programs just hangs up: what it said is what went wrong.
            self._not_started(child.executor, error, code, words)
            return
        self._told = ""
        child.pipe = Pipe.open(ours)
        self._watch_exit(child, spawn=spawn)
        if child.kill_asked:
            self._kill(child)
        self._listener.executor_started(child.executor, child.process.pid)
        child.follower = self._loop.create_task(self._follow(child))

    def _not_started(
        self, executor: str, error: BaseException | None, code: int | None = None, words: str = ""
    ) -> None:
        if self._closed:
            return
        text = f"error={error!r} exit={code}"
        if text != self._told:
            # Once, not once an attempt.
            self._told = text
            log.warning("executor.start_failed executor=%s %s", executor, text)
        self._listener.executor_gone(executor, code, words or (str(error) if isinstance(error, OSError) else ""))

    def _watch_exit(self, child: Child, *, spawn: bool) -> None:
        # The sentinel of a spawned process is a pipe that its own children may have inherited.
        own_fd = None
        if spawn and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                own_fd = os.pidfd_open(child.process.pid)
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
        words = ""
        if child.words is not None:
            words = child.words.take()
            child.words.close()
        self._listener.executor_gone(executor, code, words)

    def _kill(self, child: Child) -> None:
        if not child.exited.done():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                child.process.kill()
