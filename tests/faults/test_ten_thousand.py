"""10,000 jobs in flight from 100 clients, while executors and the broker are killed: each is answered, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

import pytest

from dspymq import Client
from tests.faults.system import PROGRAMS, resident_mib
from tests.integration.test_done_restarts import Restartable
from tests.lm import JobStats, ScriptedLM, expected_answer
from tests.processes import RunningPool, clean_environ, running_pool, wait_until

PROCESSES = 2
CLIENTS = 100
JOBS = 100
"""Of each client."""

EXECUTORS = 4
CONCURRENCY = 4
KILL_EVERY_S = 1.0
BROKER_DIES_AT = (0.3, 0.6)
"""Shares of the jobs that are answered by then."""

PATIENCE_S = 420.0

CALLERS = """
import asyncio, json, resource, sys, time
from dspymq import AsyncClient

address, first, clients, jobs, patience_s = sys.argv[1], *map(int, sys.argv[2:])

async def outcome(client, name, began):
    try:
        question = f"#job={name} #delay_ms={len(name) * 10}"
        prediction = await client.submit("qa", {"question": question}, job_id=name).result()
        return [name, prediction.answer, prediction.attempt, time.monotonic() - began]
    except Exception as error:
        return [name, repr(error), 0, time.monotonic() - began]

async def caller(number):
    async with AsyncClient(address, name=f"client-{number}", timeout_s=patience_s) as client:
        began = time.monotonic()
        return await asyncio.gather(*(outcome(client, f"c{number}j{n}", began) for n in range(jobs)))

async def main():
    found = await asyncio.gather(*map(caller, range(first, first + clients)))
    memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([memory_kib, [one for outcomes in found for one in outcomes]]))

asyncio.run(main())
"""


class Leases:
    """How many leases each job had at most, by what the brokers tell over all of their lives.

    What is dispatched in the moment before the witness is back is seen by the number of a later attempt, or at its end.
    """

    def __init__(self, address: str) -> None:
        self._client = Client(address, name="witness")
        self._events = self._client.subscribe("job.dispatched", "job.adopted", "job.done")
        self._thread = threading.Thread(target=self._read)
        self._lives = [_Life()]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._thread.join()
        self._client.close()

    def of(self, job: str) -> int:
        """What an earlier broker began, and a later one adopted, is one."""
        leases = 0
        for life in self._lives:
            began = life.adopted[job]
            leases = max(leases, began) + max(life.dispatched[job], life.attempts[job] - began)
        return leases

    def _read(self) -> None:
        for event in self._events:
            if event.gap:
                self._lives.append(_Life())
            life, job, attempt = self._lives[-1], event.details["job"], event.details["attempt"]
            life.attempts[job] = max(life.attempts[job], attempt)
            if event.kind == "job.adopted":
                life.adopted[job] = attempt
            life.dispatched[job] += event.kind == "job.dispatched"


class _Life:
    """What one broker told of each job."""

    def __init__(self) -> None:
        self.dispatched: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.adopted: Counter[str] = Counter()


class Callers:
    """The clients, in a few processes; all of their jobs are submitted at once."""

    def __init__(self, address: str, directory: Path) -> None:
        self._outputs = [directory / f"callers-{n}.json" for n in range(PROCESSES)]
        self._command = [sys.executable, "-c", CALLERS, address]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        share = CLIENTS // PROCESSES
        for n, path in enumerate(self._outputs):
            numbers = [str(value) for value in (n * share, share, JOBS, int(PATIENCE_S))]
            with path.open("wb") as output:
                self._processes.append(subprocess.Popen([*self._command, *numbers], env=clean_environ(), stdout=output))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    @property
    def still_wait(self) -> bool:
        """Whether some still do."""
        return any(process.poll() is None for process in self._processes)

    def outcomes(self) -> tuple[list[float], list[list[Any]]]:
        """The most MiB of each process, and what became of every job: name, answer, attempt, seconds."""
        said = [json.loads(path.read_text()) for path in self._outputs]
        return [memory_kib / 1024 for memory_kib, _ in said], [one for _, outcomes in said for one in outcomes]


def kill_executor(dice: random.Random, pool: RunningPool) -> bool:
    """SIGKILL one at random; False if there is none just now.

    Not one that runs a job alone: the job would be taken for what ends its process, and twice is poison.
    """
    pids = sorted(one["pid"] for one in pool.executors() if one["state"] == "ready" and one["pid"])
    if not pids:
        return False
    try:
        os.kill(dice.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def storm(lm: ScriptedLM, brokers: Restartable, pool: RunningPool, callers: Callers) -> int:
    """Kill an executor every second while jobs remain, and the broker twice; the number of executors killed."""
    dice = random.Random("ten thousand")
    deaths = [share * CLIENTS * JOBS for share in BROKER_DIES_AT]
    killed = 0
    end = time.monotonic() + PATIENCE_S
    while callers.still_wait:
        assert time.monotonic() < end, f"{lm.total().ok} answered"
        killed += kill_executor(dice, pool)
        if deaths and lm.total().ok >= deaths[0]:
            deaths.pop(0)
            brokers.kill()
            brokers.start()
        time.sleep(KILL_EVERY_S)
    assert not deaths
    return killed


@pytest.mark.long
@pytest.mark.timeout(PATIENCE_S + 120)
def test_10_000_jobs_in_flight_from_100_clients_while_executors_and_the_broker_are_killed(
    tmp_path: Path,
) -> None:
    with ScriptedLM() as lm, Restartable() as brokers:
        assert brokers.broker is not None
        lm.script(hang=True)
        settings = {"targets": [PROGRAMS], "lm": lm, "processes": EXECUTORS, "concurrency": CONCURRENCY}
        with (
            running_pool(brokers.broker, **settings) as pool,
            Client(brokers.clients, name="watcher") as watcher,
            Leases(brokers.clients) as leases,
            Callers(brokers.clients, tmp_path) as callers,
        ):
            wait_until(lambda: watcher.stats()["jobs"]["live"] == CLIENTS * JOBS, 60.0, "10,000 open jobs")
            print(f"broker: {resident_mib(brokers.broker.pid):.0f} MiB with 10,000 open jobs")
            began = time.monotonic()
            lm.script(hang=False)
            lm.release()
            killed = storm(lm, brokers, pool, callers)
            memory_mib, outcomes = callers.outcomes()
            wall_s = time.monotonic() - began
            wait_until(lambda: watcher.stats()["jobs"]["live"] == 0, 30.0, "the end of every job")
            lm.wait_idle()
            pool.wait_ready(EXECUTORS)
        requests = {job: lm.job(job) for job, *_ in outcomes}
        print(
            f"{wall_s:.1f} s, {killed} executors and {len(BROKER_DIES_AT)} brokers killed; "
            f"{sum(one.requests for one in requests.values()) - len(outcomes)} requests more than jobs; "
            f"longest answer {max(seconds for *_, seconds in outcomes):.1f} s; "
            f"{[round(mib) for mib in memory_mib]} MiB for {CLIENTS // PROCESSES} clients each; attempts "
            f"{Counter(attempt for _, _, attempt, _ in outcomes)}"
        )
        assert len({job for job, *_ in outcomes}) == len(outcomes) == CLIENTS * JOBS
        for job, answer, attempt, _ in outcomes:
            check(job, answer, attempt, requests[job], leases)


def check(job: str, answer: str, attempt: int, seen: JobStats, leases: Leases) -> None:
    """A right answer, and no more requests at the LM than leases."""
    assert answer == expected_answer("answer", f"#job={job} #delay_ms={len(job) * 10}"), (job, answer)
    assert 1 <= seen.requests <= leases.of(job), (job, attempt, leases.of(job), seen)
    assert seen.requests == seen.ok + seen.disconnects
