"""The demo's broker and pool: two processes, started with the `dspymq` command as anybody would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dspymq import AsyncClient

ROOT = Path(__file__).resolve().parent.parent
START_S = 120.0
STOP_S = 15.0


class Demo:
    """What runs: addresses, process ids, a client."""

    def __init__(self, addresses: Mapping[str, Any], worker_pid: int, client: AsyncClient) -> None:
        self.addresses = addresses
        self.worker_pid = worker_pid
        self.client = client

    async def executors(self) -> list[dict[str, Any]]:
        """The processes that run programs: id, pid, state, in_flight."""
        return [executor for worker in await self.client.workers() for executor in worker["executors"]]

    async def pids(self) -> dict[str, int]:
        """Process ids by executor; `job.worker` names the executor."""
        return {one["id"]: one["pid"] for one in await self.executors()}

    async def wait_ready(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many executors take jobs."""
        async with asyncio.timeout(START_S):
            while True:
                ready = [one for one in await self.executors() if one["state"] == "ready"]
                if len(ready) >= count:
                    return ready
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(target: str, environ: Mapping[str, str], processes: int, concurrency: int) -> AsyncIterator[Demo]:
    """A broker and a pool on free ports; both are told to stop at the end, whatever happened."""
    async with contextlib.AsyncExitStack() as stack:
        any_port = "tcp://127.0.0.1:*"
        broker = await _start(["broker", "--clients", any_port, "--workers", any_port, "--json"], environ)
        stack.push_async_callback(_stop, broker)
        assert broker.stdout is not None
        line = await broker.stdout.readline()
        if not line:
            raise SystemExit("the broker did not start; see above")
        addresses = json.loads(line)
        numbers = ["--processes", str(processes), "--concurrency", str(concurrency)]
        worker = await _start(["worker", target, "--broker", addresses["workers"], *numbers], environ)
        stack.push_async_callback(_stop, worker)
        client = await stack.enter_async_context(AsyncClient(addresses["clients"], timeout_s=120))
        demo = Demo(addresses, worker.pid, client)
        ready = asyncio.create_task(demo.wait_ready(processes))
        ended = asyncio.create_task(worker.wait())
        await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise SystemExit("the pool did not start; see above")
        yield demo
        ended.cancel()


async def _start(arguments: Sequence[str], environ: Mapping[str, str]) -> asyncio.subprocess.Process:
    command = [
        sys.executable,
        "-P",
        "-m",
        "dspymq.cli",
        *arguments,
        "--log-level",
        "error",
        "--parent",
        str(os.getpid()),
    ]
    return await asyncio.create_subprocess_exec(
        *command,
        env=dict(environ),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        # Ctrl-C reaches the demo, which ends both in order.
        process_group=0,
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
