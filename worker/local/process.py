"""The embedded language model's process, as its owner sees it."""

import asyncio
import collections
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

log = logging.getLogger("dspymq.worker.local")

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 2.0


class LocalLMError(RuntimeError):
    """The embedded model could not be started; the message is for people and says what to do."""


class LocalLM:
    """One server process, started on demand and again after it died. For one asyncio loop.

    The process ends with the thread that started it, so use a loop that lives as long as the program.
    """

    def __init__(self, *, arguments: Sequence[str] = (), start_timeout_s: float = START_TIMEOUT_S) -> None:
        """`arguments` are further ones for dspymq.worker.local.server."""
        self._arguments = tuple(arguments)
        self._start_timeout_s = start_timeout_s
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._url = ""
        self._drain: asyncio.Task[None] | None = None
        self._last_lines: collections.deque[str] = collections.deque(maxlen=20)

    @property
    def pid(self) -> int | None:
        """The running process, or None."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> str:
        """The base URL, ending in /v1; starts the process unless it runs. Calls at the same time share one start.

        Raises LocalLMError.
        """
        async with self._lock:
            if self.pid is None:
                if self._process is not None:
                    log.warning("event=local_lm_died code=%s", self._process.returncode)
                await self._end()
                self._url = await self._launch()
            return self._url

    async def stop(self) -> None:
        """End the process, if it runs, and wait for its end."""
        async with self._lock:
            await self._end()

    async def _launch(self) -> str:
        self._last_lines.clear()
        command = [sys.executable, "-m", "dspymq.worker.local.server", "--parent", str(os.getpid()), *self._arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        self._drain = asyncio.create_task(self._keep_last_lines(process.stderr))
        try:
            async with asyncio.timeout(self._start_timeout_s):
                line = await process.stdout.readline()
                if not line:
                    code = await process.wait()
                    await self._drain
                    raise LocalLMError(self._last_words() or f"the embedded model's process ended with code {code}")
            url = str(json.loads(line)["url"])
        except BaseException as error:
            await self._end()
            if isinstance(error, TimeoutError):
                limit = f"{self._start_timeout_s:g} s"
                raise LocalLMError(f"the embedded model was not ready within {limit}; is the machine busy?") from error
            if isinstance(error, ValueError | KeyError | TypeError):
                raise LocalLMError(f"the embedded model's process said {line[:200]!r}") from error
            raise
        log.info("event=local_lm_started pid=%s url=%s", process.pid, url)
        return url

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._drain is not None:
            await self._drain
            self._drain = None

    async def _keep_last_lines(self, stderr: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stderr.readline()
            except ValueError:
                continue  # longer than the reader's limit: dropped
            if not line:
                return
            self._last_lines.append(line.decode(errors="replace").strip())

    def _last_words(self) -> str:
        words = [line for line in self._last_lines if line]
        return words[-1].removeprefix("dspymq: ") if words else ""
