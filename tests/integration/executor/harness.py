"""A stand-in for the supervisor: starts one executor process the way it does and speaks over the pipe."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.forkserver
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Error, Ping, Pong, Request
from dspymq.worker.executor.main import main
from dspymq.worker.executor_spec import VARIABLE, ExecutorSpec
from dspymq.worker.pipe import Pipe
from dspymq.worker.profiles import LMProfile

M = TypeVar("M")

PROGRAMS = '''
import threading, time
import dspy
from dspymq.worker.executor.progress import report_progress


class Threaded(dspy.Module):
    """Runs in a thread."""

    def __init__(self):
        super().__init__()
        self.inner = dspy.Predict("question -> answer")

    def forward(self, question: str):
        report_progress(1, 2, "asking")
        return self.inner(question=question)


class Deaf(dspy.Module):
    def forward(self, seconds: float):
        time.sleep(seconds)
        return dspy.Prediction(slept=seconds)


class Stuck(dspy.Module):
    """Blocks the event loop, so that its executor notices nothing."""

    async def aforward(self, seconds: float):
        time.sleep(seconds)
        return dspy.Prediction(slept=seconds)


qa = dspy.Predict("question -> answer")
threaded = Threaded()
deaf = Deaf()
stuck = Stuck()
'''


def profile(url: str, name: str = "default", **settings: Any) -> LMProfile:
    """A profile for the scripted LM."""
    return LMProfile(name=name, model="openai/scripted", api_base=url, api_key="k-123456", **settings)


class Child:
    """A started executor, seen from the supervisor's side."""

    def __init__(self, process: Any, pipe: Pipe) -> None:
        self.process = process
        self.pipe = pipe
        self.pings = 0
        self.seen: list[tuple[Any, bytes]] = []
        self._leases = 0

    async def next(self, kind: type[M], where: Callable[[M], bool] = lambda _: True, timeout_s: float = 20) -> Any:
        """The next message of this kind, with its decoded body; others are kept in `seen`."""
        async with asyncio.timeout(timeout_s):
            while (received := await self.pipe.receive()) is not None:
                message, body = received
                if isinstance(message, Ping):
                    self.pings += 1
                    if kind is not Ping:
                        continue
                self.seen.append((message, body))
                if isinstance(message, kind) and where(message):
                    return message, msgpack.unpackb(body) if body else {}
        raise EOFError(f"the pipe ended before a {kind.__name__}; seen: {self.seen[-3:]}")

    def dispatch(self, program: str, inputs: Any, *, parts: Any = None, **header: Any) -> str:
        """Send a job with these inputs and other `parts` of its body; returns its lease."""
        self._leases += 1
        lease = f"lease-{self._leases}"
        fields: dict[str, Any] = {"attempt": 1, "timeout_ms": 20_000, "revision": "inline", **header}
        body = {"inputs": inputs, **(parts or {})}
        message = w.Dispatch(lease=lease, ns="n", job=f"job-{lease}", digest="d", program=program, **fields)
        self.pipe.send(message, msgpack.packb(body))
        return lease

    async def result(self, lease: str) -> tuple[w.Result, dict[str, Any]]:
        """The result of a lease."""
        found: tuple[w.Result, dict[str, Any]] = await self.next(w.Result, lambda m: m.lease == lease)
        return found

    def exit_code(self, timeout_s: float = 10) -> int | None:
        """Wait for the process to end."""
        self.process.join(timeout_s)
        return self.process.exitcode


@asynccontextmanager
async def executor(
    tmp_path: Path,
    profiles: list[LMProfile],
    *,
    method: str = "forkserver",
    source: str = PROGRAMS,
    target: str = "sample_programs",
    **spec: Any,
) -> AsyncIterator[Child]:
    """A running executor over a module with this source, before its `ready` has been read."""
    (tmp_path / f"{target.partition(':')[0]}.py").write_text(source)
    settings = {"concurrency": 4, "beat_ms": 50, "parent_pid": os.getpid(), **spec}
    made = ExecutorSpec(targets=[target], paths=[str(tmp_path)], profiles=profiles, **settings)
    context: Any = multiprocessing.get_context(method)
    server = multiprocessing.forkserver.ForkServer() if method == "forkserver" else None
    shared = multiprocessing.forkserver._forkserver
    ours, theirs = socket.socketpair()
    os.environ[VARIABLE] = made.to_json()
    try:
        if server is not None:
            server.set_forkserver_preload(["dspymq.worker.executor.preload"])
            server.ensure_running()
            _use(server)
        process = context.Process(target=main, args=("x1", theirs), daemon=True)
        process.start()
    finally:
        del os.environ[VARIABLE]
        if server is not None:
            _use(shared)
    theirs.close()
    pipe = Pipe.open(ours)
    try:
        yield Child(process, pipe)
    finally:
        pipe.close()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        if server is not None:
            server._stop()


def _use(server: Any) -> None:
    """Make multiprocessing start its next process from this fork server."""
    forkserver: Any = multiprocessing.forkserver
    forkserver._forkserver = server
    for name in ("ensure_running", "get_inherited_fds", "connect_to_new_process"):
        setattr(forkserver, name, getattr(server, name))


__all__ = ["Child", "Error", "Ping", "Pong", "Request", "executor", "profile"]
