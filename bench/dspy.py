"""One DSPy program with an instant LM: in a bare loop, behind FastAPI, and through broker and one executor.

    python -m bench.dspy [--calls N] [--rounds K] [--json]

64 calls in flight each time, the rounds alternate, medians are shown. The ratio to the bare loop is what travels.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench.dispatch import CONTEXT, broker_process, median_of, processes

WINDOW = 64
WARM_UP = 200


async def in_flight(call: Callable[[int], Awaitable[None]], calls: int) -> dict[str, float]:
    """Keep WINDOW calls in flight; calls/s and latency."""
    latencies: list[float] = []
    numbers = iter(range(calls + WARM_UP))
    begun = 0.0

    async def lane() -> None:
        nonlocal begun
        for number in numbers:
            if number == WARM_UP:
                begun = time.perf_counter()
            start = time.perf_counter()
            await call(number)
            if number >= WARM_UP:
                latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(lane() for _ in range(WINDOW)))
    seconds = time.perf_counter() - begun
    latencies.sort()
    return {
        "calls_per_s": calls / seconds,
        "p50_ms": statistics.median(latencies) * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


def bare_loop(calls: int, results: Any) -> None:
    """`acall` in one process, nothing between."""
    import dspy

    from bench.instant import qa

    async def call(number: int) -> None:
        with dspy.context(trace=None, disable_history=True):
            assert (await qa.acall(question=f"q{number}")).answer == "Paris"

    results.put(asyncio.run(in_flight(call, calls)))


def fastapi_server(port: int) -> None:
    """The service that DSPy's tutorial deploys."""
    import dspy
    import fastapi
    import uvicorn

    from bench.instant import qa

    app = fastapi.FastAPI()

    @app.post("/qa")
    async def answer(inputs: dict[str, str]) -> dict[str, str]:
        with dspy.context(trace=None, disable_history=True):
            return {"answer": (await qa.acall(**inputs)).answer}

    uvicorn.run(app, port=port, log_level="error", access_log=False)


def fastapi_client(port: int, calls: int, results: Any) -> None:
    """Its client, over kept-alive connections."""
    import aiohttp

    async def run() -> dict[str, float]:
        connector = aiohttp.TCPConnector(limit=WINDOW)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:

            async def call(number: int) -> None:
                async with session.post("/qa", json={"question": f"q{number}"}) as response:
                    assert (await response.json())["answer"] == "Paris"

            return await in_flight(call, calls)

    results.put(asyncio.run(run()))


def dspymq_client(address: str, calls: int, results: Any) -> None:
    """The Python client of this project."""
    from dspymq import AsyncClient

    async def run() -> dict[str, float]:
        async with AsyncClient(address) as client:

            async def call(number: int) -> None:
                assert (await client.call("qa", question=f"q{number}")).answer == "Paris"

            return await in_flight(call, calls)

    results.put(asyncio.run(run()))


def measure_bare(calls: int) -> dict[str, float]:
    """The bare loop."""
    results = CONTEXT.Queue()
    with processes((bare_loop, (calls, results))):
        return dict(results.get(timeout=180))


def measure_fastapi(calls: int) -> dict[str, float]:
    """FastAPI and its client."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    results = CONTEXT.Queue()
    with processes((fastapi_server, (port,))):
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        with processes((fastapi_client, (port, calls, results))):
            return dict(results.get(timeout=180))


def measure_dspymq(calls: int) -> dict[str, float]:
    """Broker, a pool of one executor, and the client, each a process."""
    results = CONTEXT.Queue()
    ours, theirs = CONTEXT.Pipe()
    with processes((broker_process, (theirs,))):
        clients, workers = ours.recv()
        options = ["--broker", workers, "--processes", "1", "--concurrency", str(WINDOW), "--log-level", "warning"]
        command = [sys.executable, "-m", "dspymq.cli", "worker", "bench.instant", *options]
        pool = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
        try:
            with processes((dspymq_client, (clients, calls, results))):
                return dict(results.get(timeout=180))
        finally:
            pool.terminate()
            pool.wait(15)


def main() -> None:
    """Run all three in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    kinds = {"bare loop": measure_bare, "FastAPI": measure_fastapi, "dspymq": measure_dspymq}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for number in range(arguments.rounds):
        for name, run in kinds.items():
            print(f"round {number + 1}: {name}", file=sys.stderr)
            runs[name].append(run(arguments.calls))
    table = {name: median_of(rows) for name, rows in runs.items()}
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    bare = table["bare loop"]["calls_per_s"]
    print(f"{'':12}{'calls/s':>10}{'of bare':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for name, row in table.items():
        rate = row["calls_per_s"]
        print(f"{name:12}{rate:>10.0f}{rate / bare:>9.2f}{row['p50_ms']:>9.1f}{row['p99_ms']:>9.1f}")


if __name__ == "__main__":
    main()
