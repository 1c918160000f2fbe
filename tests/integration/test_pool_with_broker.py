"""The pool under the real broker and the Python client, while its processes die."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import AsyncClient
from tests.integration.pool_peer import PoolProcess, session_of

BROKER = """
import asyncio
from dspymq.broker.config import BrokerConfig
from dspymq.broker.server import Broker

async def main():
    broker = Broker(BrokerConfig(clients="tcp://127.0.0.1:*", workers="tcp://127.0.0.1:*"))
    await broker.start()
    print(broker.clients_address, broker.workers_address, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def broker() -> Iterator[tuple[str, str]]:
    process = subprocess.Popen([sys.executable, "-c", BROKER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    clients, workers = process.stdout.readline().split()
    yield clients, workers
    process.kill()
    process.wait(10)
    process.stdout.close()


@pytest.fixture
def pool(tmp_path: Path, broker: tuple[str, str]) -> Iterator[PoolProcess]:
    pool = PoolProcess(tmp_path, broker[1], processes=2, concurrency=8)
    yield pool
    pool.close()


def test_ten_calls_that_come_before_the_pool_is_ready_all_succeed(broker: tuple[str, str], pool: PoolProcess) -> None:
    """10 concurrent calls, 1 success, the rest "no workers available"; calls that arrived while a worker started."""

    async def call() -> list[str]:
        async with AsyncClient(broker[0]) as client:
            answers = await asyncio.gather(*(client.call("echo", text=str(n)) for n in range(10)))
            return [answer.text for answer in answers]

    assert asyncio.run(call()) == [str(n) for n in range(10)]


def test_every_job_is_answered_once_while_executors_are_killed(broker: tuple[str, str], pool: PoolProcess) -> None:
    async def call() -> list[str]:
        async with AsyncClient(broker[0]) as client:
            await client.call("echo", text="ready")
            flights = asyncio.Semaphore(16)

            async def one(n: int) -> str:
                async with flights:
                    await client.call("nap", ms=20)
                    text: str = (await client.call("echo", text=str(n))).text
                    return text

            jobs = asyncio.gather(*(one(n) for n in range(200)))
            kills = 0
            while not jobs.done() and kills < 4:
                await asyncio.sleep(0.3)
                executors = executors_of(pool.pid)
                if executors:
                    os.kill(random.choice(executors), signal.SIGKILL)
                    kills += 1
            assert kills, "the jobs were over before an executor could be killed"
            return list(await jobs)

    assert asyncio.run(call()) == [str(n) for n in range(200)]
    pool.terminate()
    assert pool.wait() == 0


def executors_of(pool: int) -> list[int]:
    """The children of the pool's fork server."""
    parents = {pid: _parent(pid) for pid in session_of(pool)}
    return [pid for pid, parent in parents.items() if parent != pool and parents.get(parent) == pool]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
