"""What a pool tells whoever watches its process: a service manager, and probes over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from dspymq.transport import HealthServer, ServiceManager
from dspymq.worker.config import ConfigError

LOOK_S: Final = 0.2


class Outside:
    """On the running loop.

    `not_ready` says why no job could be taken now, or None; `has_started` whether one ever could.

    Ready, to a service manager, is a pool whose programs are imported and run, with a broker or without.
    """

    def __init__(self, address: str, not_ready: Callable[[], str | None], has_started: Callable[[], bool]) -> None:
        """`address` is HOST:PORT for /livez and /readyz, or empty. Raises ConfigError if it is neither."""
        try:
            self._health = HealthServer(address, {"/readyz": not_ready}) if address else None
        except ValueError as error:
            raise ConfigError("health", str(error), "or leave it out") from None
        self._has_started = has_started
        self._manager = ServiceManager.of_this_process()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def address(self) -> str | None:
        """Where health is asked for, if anywhere."""
        return self._health.address if self._health else None

    async def start(self) -> None:
        """Raises ConfigError if the address cannot be listened at."""
        if self._health is not None:
            try:
                await self._health.start()
            except OSError as error:
                problem = f"cannot listen at {self._health.address} ({error.strerror})"
                raise ConfigError("health", problem, "choose another address") from None
        self._tasks = [asyncio.create_task(work) for work in (self._manager.keep_alive(), self._tell_ready())]

    async def stop(self) -> None:
        """Say that the end has begun, and listen no more."""
        self._manager.stopping()
        for task in self._tasks:
            task.cancel()
        if self._health is not None:
            await self._health.stop()

    async def _tell_ready(self) -> None:
        while not self._has_started():  # noqa: ASYNC110 -- a fact of the core, which knows no loop
            await asyncio.sleep(LOOK_S)
        self._manager.ready("executors are ready")
