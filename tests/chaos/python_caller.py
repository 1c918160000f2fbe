"""Python clients for chaos: `python -m tests.chaos.python_caller sync|async`, conformance drivers that tell more.

Beyond docs/conformance-drivers.md, the call's name is the job's id, a `submit` with `resume` joins a job that another
process began, and outcomes have `usage`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import msgspec

from dspymq import AsyncClient
from dspymq.async_job import AsyncJob
from dspymq.exceptions import DspymqError
from dspymq.prediction import Prediction
from examples.conformance.python_client import SUPPORTS, Driver, say, tools


def options_of(told: dict[str, Any]) -> dict[str, Any]:
    """The options of a `submit` beside those that Driver knows."""
    return {**told.get("options", {}), "job_id": told["call"], "resume": told.get("resume", False)}


def say_end(call: str, end: Prediction | DspymqError) -> None:
    """The outcome of a call."""
    outcome: dict[str, Any] = {"call": call, "usage": msgspec.to_builtins(end.usage)}
    if isinstance(end, Prediction):
        say(outcome={**outcome, "code": "OK", "outputs": end.outputs, "attempt": end.attempt})
    else:
        say(outcome={**outcome, "code": end.code, "reason": end.reason, "message": str(end)})


class SyncCaller(Driver):
    """`Client`, from many threads."""

    def _submit(self, call: str, told: dict[str, Any]) -> None:
        try:
            super()._submit(call, {**told, "options": options_of(told)})
        except DspymqError as error:
            say_end(call, error)

    def _end(self, call: str) -> None:
        try:
            say_end(call, self._jobs[call].result())
        except DspymqError as error:
            say_end(call, error)


class AsyncCaller:
    """`AsyncClient`, all on one loop."""

    def __init__(self, brokers: list[str]) -> None:
        self._client = AsyncClient(brokers, name="under-test-async")
        self._jobs: dict[str, AsyncJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def do(self, told: dict[str, Any]) -> None:
        """What one line says."""
        call = told["call"]
        match told["tell"]:
            case "submit":
                self._submit(call, told)
            case "cancel" if call in self._jobs:
                self._jobs[call].cancel()
            case "read" if call in self._jobs:
                self._start(self._read(call, once=True))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _submit(self, call: str, told: dict[str, Any]) -> None:
        options = {**options_of(told), "timeout_s": told["timeout_ms"] / 1000, "stream": told.get("stream", False)}
        options |= {"window": told["window"]} if "window" in told else {}
        options |= {"tools": [tools()[name] for name in told["tools"]]} if "tools" in told else {}
        try:
            self._jobs[call] = self._client.submit(told["program"], told["inputs"], **options)
        except DspymqError as error:
            return say_end(call, error)
        self._start(self._follow(call, reads=options["stream"] and "window" not in options))
        return None

    async def _read(self, call: str, *, once: bool) -> None:
        job = self._jobs[call]
        try:
            while await job.next_chunks(1):
                say(text={"call": call, "fields": dict(job.text)})
                if once:
                    return
        except DspymqError:
            return  # so ends the call, too

    async def _follow(self, call: str, *, reads: bool) -> None:
        job = self._jobs[call]
        if reads:
            await self._read(call, once=False)
        try:
            end: Prediction | DspymqError = await job.result()
        except DspymqError as error:
            end = error
        if job.text:
            say(text={"call": call, "fields": dict(job.text)})
        say_end(call, end)
        del self._jobs[call]


async def be_async() -> None:
    """An AsyncCaller that does what stdin says until it ends."""
    caller, loop = AsyncCaller(os.environ["DSPYMQ_BROKERS"].split(",")), asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(caller.do, json.loads(line))
        os._exit(0)

    say(ready=True, supports=SUPPORTS)
    threading.Thread(target=read, daemon=True).start()
    await asyncio.Event().wait()


def be_sync() -> None:
    """A SyncCaller that does what stdin says until it ends."""
    caller = SyncCaller(os.environ["DSPYMQ_BROKERS"].split(","))
    say(ready=True, supports=SUPPORTS)
    for line in sys.stdin:
        caller.do(json.loads(line))
    # Threads may still wait for calls that no longer matter.
    os._exit(0)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    if sys.argv[1] == "async":
        asyncio.run(be_async())
    else:
        be_sync()
