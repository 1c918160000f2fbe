"""The embedded LM of a pool: one process, started when an executor first asks for it, ended with the pool."""

import asyncio
from typing import Any


class LocalLmKeeper:
    """Starts the LM once for all who ask at the same time; a start that failed is tried again by the next."""

    def __init__(self) -> None:
        self._lm: Any = None
        self._starting: asyncio.Task[str] | None = None

    async def url(self, *, again: bool = False) -> str:
        """The address of the running LM, started if need be. Raises whatever LocalLM.start raises.

        `again`: somebody got no answer there. LocalLM.start gives the address of one that runs, and starts one anew
        in place of one that died.
        """
        task = self._starting
        if task is None or (task.done() and (again or task.cancelled() or task.exception() is not None)):
            task = self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """End it, if it runs."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._lm is not None:
            lm, self._lm = self._lm, None
            await lm.stop()

    async def _start(self) -> str:
        # Only a pool that uses it needs what it stands on.
        from dspymq.worker.local.process import LocalLM

        if self._lm is None:
            self._lm = LocalLM()
        url: str = await self._lm.start()
        return url
