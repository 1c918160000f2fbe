"""The life of `dspymq up`: broker, then pool, then the screen, then the end of both in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dspymq.cli import up_screen
from dspymq.cli.addresses import reachable
from dspymq.cli.child import Child
from dspymq.cli.errors import CommandError, say
from dspymq.cli.exit_codes import ExitCode
from dspymq.cli.output import console, is_terminal, print_json
from dspymq.cli.up_plan import Started, UpRequest
from dspymq.worker.config import WorkerConfig

POLL_S: Final = 0.05
BROKER_GRACE_S: Final = 3.0
POOL_MARGIN_S: Final = 5.0
"""What a pool may take beyond its grace before it is killed."""


class Up:
    """One run. `run()` returns the exit code."""

    def __init__(self, request: UpRequest, *, as_json: bool) -> None:
        self._request = request
        self._as_json = as_json
        self._stop = asyncio.Event()
        self._signals = 0
        self._broker: Child | None = None
        self._pool: Child | None = None

    async def run(self) -> int:
        """Start all, wait for a signal or a death, end all."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        try:
            starting = asyncio.create_task(self._start())
            try:
                if not await self._first(starting):
                    return self._why_stopped()
            finally:
                starting.cancel()
                await asyncio.wait([starting])
            self._show(starting.result())
            await self._first(None)
            return self._why_stopped()
        finally:
            await self._end()

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            for child in (self._pool, self._broker):
                if child is not None:
                    child.signal(signal.SIGKILL)

    async def _first(self, starting: asyncio.Task[Started | None] | None) -> bool:
        """Wait until the start is done (True), or something ends it: a signal, a child that ended (False)."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while True:
                children = [child.exited for child in (self._broker, self._pool) if child is not None]
                waiting = [stopped, *children, *([starting] if starting is not None else [])]
                # A start adds children on its way, and those are waited for from the next round on.
                timeout_s = None if starting is None else POLL_S
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=timeout_s)
                if starting is not None and starting in done:
                    return starting.result() is not None
                if done:
                    return False
        finally:
            stopped.cancel()

    async def _start(self) -> Started | None:
        """What is there when all is ready; None if the broker ended before it listened."""
        request = self._request
        self._broker = await Child.start("broker", request.broker_arguments(), request.environ, read_stdout=True)
        line = await self._broker.first_line()
        if line is None:
            await self._broker.exited
            return None
        addresses = json.loads(line)
        clients, workers = reachable(addresses["clients"]), reachable(addresses["workers"])
        environ = {**request.environ, **request.lm.environ}
        self._pool = await Child.start("pool", request.worker_arguments(workers), environ, read_stdout=False)
        with self._spinner("starting the pool: importing DSPy and the programs"):
            pool, programs = await self._ready(clients)
        return Started(clients=clients, workers=workers, pool=pool, programs=programs)

    async def _ready(self, clients: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        from dspymq.async_client import AsyncClient

        async with AsyncClient(clients) as client:
            while True:
                for worker in await client.workers():
                    if worker["name"] == self._request.pool.name and _is_complete(worker, self._request.pool):
                        names = [name for name in worker["programs"] if not name.startswith("_")]
                        return worker, [await client.program(name) for name in names]
                await asyncio.sleep(POLL_S)

    def _show(self, started: Started | None) -> None:
        if started is None:
            return
        if not self._as_json:
            up_screen.show(started, self._request)
            return
        print_json(
            {
                "clients": started.clients,
                "workers": started.workers,
                "programs": [program["name"] for program in started.programs],
                "lm": self._request.lm.title,
                "broker_pid": self._broker.pid if self._broker else None,
                "worker_pid": self._pool.pid if self._pool else None,
                "executor_pids": [executor["pid"] for executor in started.pool["executors"]],
            }
        )

    def _why_stopped(self) -> int:
        """The exit code; says who ended if nobody was told to."""
        if self._stop.is_set():
            return ExitCode.OK
        for child in (self._broker, self._pool):
            if child is not None and child.exited.done():
                code = child.exited.result()
                how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
                say(f"the {child.name} (pid {child.pid}) ended {how}")
                return code if code > 0 else ExitCode.FAILURE
        raise CommandError("stopped for no known reason")

    async def _end(self) -> None:
        """The pool first: it can still give back and answer what it holds while there is a broker."""
        if self._pool is not None:
            if self._stop.is_set() and not self._pool.exited.done() and is_terminal(err=True):
                console(err=True).print("stopping; running jobs may end (Ctrl-C again stops at once)")
            await self._pool.stop(self._request.pool.grace_ms / 1000 + POOL_MARGIN_S)
        if self._broker is not None:
            await self._broker.stop(BROKER_GRACE_S)

    @contextlib.contextmanager
    def _spinner(self, text: str) -> Iterator[None]:
        if self._as_json or not is_terminal(err=True):
            yield
            return
        with console(err=True).status(text):
            yield


def _is_complete(worker: Mapping[str, Any], pool: WorkerConfig) -> bool:
    """Whether all executors take jobs."""
    ready = [one for one in worker.get("executors") or [] if one.get("state") == "ready"]
    return worker.get("state") == "ready" and len(ready) >= pool.processes
