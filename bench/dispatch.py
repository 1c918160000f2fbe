"""No-op jobs through the broker against `zmq.proxy`, with the same bare peers in the same run.

    python -m bench.dispatch [--jobs N] [--rounds K] [--json]

Prints jobs/s, latency and the broker's CPU per job for windows of 1, 16 and 64 in flight, and the ratio to the proxy.
The rounds alternate, and medians are shown: absolute figures are this machine's, the ratios travel.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench import peers

CONTEXT = mp.get_context("spawn")
WINDOWS = (1, 16, 64)


def broker_process(pipe: Any) -> None:
    """A real broker, on ports of the system's choice."""
    from dspymq.broker import BrokerConfig, serve

    config = BrokerConfig(clients="tcp://127.0.0.1:*", workers="tcp://127.0.0.1:*")

    def started(broker: Any) -> None:
        pipe.send((broker.clients_address, broker.workers_address))

    asyncio.run(serve(config, on_started=started))


@contextmanager
def processes(*targets: tuple[Callable[..., Any], tuple[Any, ...]]) -> Iterator[list[Any]]:
    """Run each target in a process of its own; all are killed at the end."""
    started = []
    try:
        for target, arguments in targets:
            process = CONTEXT.Process(target=target, args=arguments, daemon=True)
            process.start()
            started.append(process)
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(kind: str, jobs: int, window: int) -> dict[str, float]:
    """One run: jobs/s, p50 and p99 in ms, and CPU of the process in the middle in us a job."""
    results = CONTEXT.Queue()
    ours, theirs = CONTEXT.Pipe()
    if kind == "broker":
        middle: tuple[Any, tuple[Any, ...]] = (broker_process, (theirs,))
    else:
        middle = (peers.proxy, (theirs, theirs))
    with processes(middle) as [hub]:
        front, back = ours.recv() if kind == "broker" else (ours.recv(), ours.recv())
        if kind == "broker":
            ends: list[Any] = [(peers.djp_worker, (back, 256)), (peers.djp_client, (front, jobs, window, results))]
        else:
            ends = [(peers.proxy_worker, (back,)), (peers.proxy_client, (front, jobs, window, results))]
        before = cpu_s(hub.pid)
        with processes(*ends):
            seconds, latencies = results.get(timeout=120)
        used = cpu_s(hub.pid) - before
    return {
        "jobs_per_s": len(latencies) / seconds,
        "p50_ms": statistics.median(latencies) * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "cpu_us_per_job": used / (jobs + peers.WARM_UP) * 1e6,
    }


def main() -> None:
    """Run all windows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs a run (a tenth of it one at a time)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    table: dict[int, dict[str, dict[str, float]]] = {}
    for window in WINDOWS:
        jobs = arguments.jobs if window > 1 else max(arguments.jobs // 10, 1_000)
        runs: dict[str, list[dict[str, float]]] = {"broker": [], "proxy": []}
        for number in range(arguments.rounds):
            for kind in ("broker", "proxy"):
                print(f"window {window}, round {number + 1}: {kind}", file=sys.stderr)
                runs[kind].append(measure(kind, jobs, window))
        table[window] = {kind: median_of(rows) for kind, rows in runs.items()}
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    print(f"{'window':>6} {'':8}{'jobs/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU us/job':>12}")
    for window, rows in table.items():
        for kind, row in rows.items():
            print(
                f"{window:>6} {kind:8}{row['jobs_per_s']:>10.0f}{row['p50_ms']:>9.3f}{row['p99_ms']:>9.3f}"
                f"{row['cpu_us_per_job']:>12.1f}"
            )
        ratio = rows["broker"]["jobs_per_s"] / rows["proxy"]["jobs_per_s"]
        slower = rows["broker"]["p50_ms"] / rows["proxy"]["p50_ms"]
        print(f"{'':6} broker/proxy: {ratio:.2f} of the jobs/s, {slower:.2f} times the p50")


def median_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


if __name__ == "__main__":
    main()
