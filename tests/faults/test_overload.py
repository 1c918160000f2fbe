"""Far too many jobs at once, and far too large ones: every submit is answered, others are served, memory is bounded."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import Client
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol.messages import Bye, Error
from tests.faults.overload import Crowd, Memory, Onlooker
from tests.faults.peers import RawClient, RawWorker
from tests.faults.system import PATIENCE_S, PROGRAMS
from tests.processes import RunningBroker, running_broker, running_pool, wait_until

MIB = 1024 * 1024


@contextlib.contextmanager
def system(directory: Path, settings: str) -> Iterator[tuple[RunningBroker, Client]]:
    """A broker with these settings, a pool, and a client that watches."""
    path = directory / "broker.toml"
    path.write_text(settings)
    with (
        running_broker("--config", str(path)) as broker,
        running_pool(broker, targets=[PROGRAMS]),
        Client(broker.clients, name="watcher", timeout_s=PATIENCE_S) as client,
    ):
        yield broker, client


def is_idle(client: Client) -> bool:
    """Whether nobody but an onlooker has a job."""
    return bool(client.stats()["jobs"]["live"] <= 1)


# 100,000 submits for a program that nobody runs.

SUBMITS = 100_000
EARLY = 10_000
"""Submitted first, with a long time, to see how long the others will take."""

MAX_JOBS = 80_000
RETAIN_MS = 3_000
AGAIN = 40_000

JOB_KIB = 2
"""Of a job, its result included, besides its bodies (docs/operations.md, "Sizes")."""

OUTBOX_MIB = 8
BURST_PING_S = 1.5
"""Far less than it takes to end 70,000 jobs without a break."""


class Flood:
    """Submits of one client, as fast as the broker answers: at most `AHEAD` of them are unanswered."""

    AHEAD = 5_000

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self._sent = 0
        self.answers: Counter[str] = Counter()
        self.results: Counter[str] = Counter()

    def submit(self, job: str, timeout_ms: int) -> None:
        message = c.Submit(job=job, program="nowhere", timeout_ms=timeout_ms, want=["accepted"])
        self._client.send(message, bodies.encode(inputs={}))
        self._sent += 1
        self._read(0)
        end = time.monotonic() + PATIENCE_S
        while self._sent - self.answers.total() > self.AHEAD:
            assert time.monotonic() < end, self.answers
            self._read(0.1)

    def wait_for(self, answers: int, results: int) -> None:
        end = time.monotonic() + 2 * PATIENCE_S
        while self.answers.total() < answers or self.results.total() < results:
            assert time.monotonic() < end, (self.answers, self.results.total())
            self._read(0.1)

    def _read(self, timeout_s: float) -> None:
        while (got := self._client.receive(timeout_s)) is not None:
            self._client.seen.clear()
            message = got[0]
            if isinstance(message, c.Accepted):
                assert (message.waiting, message.missing) == (True, ["program"])
                self.answers["accepted"] += 1
            elif isinstance(message, Error):
                assert message.retryable
                assert message.retry_after_ms
                self.answers[message.reason] += 1
            else:
                assert isinstance(message, c.Result), message
                assert message.reason == "deadline"
                self.results[message.job] += 1


@pytest.mark.soak
@pytest.mark.timeout(240)
def test_100_000_submits_for_a_program_that_nobody_runs(tmp_path: Path) -> None:
    """80,000 wait, as many as a client may have; the others are refused. Then 70,000 expire in one moment."""
    settings = f"[broker]\nretain_ms = {RETAIN_MS}\n[broker.limits]\nmax_jobs_per_flow = {MAX_JOBS}\n"
    with system(tmp_path, settings) as (broker, watcher), RawClient(broker.clients) as client:
        with RawWorker(broker.workers) as gone:
            # Known since this worker offered it, so that its jobs may wait.
            gone.hello()
            gone.ready(0, "nowhere")
            gone.send(Bye())
            wait_until(lambda: len(watcher.workers()) == 1)
        client.hello(name="flood")
        memory = Memory(broker.pid)
        flood = Flood(client)
        with Onlooker(broker.clients, "echo", bound_s=BURST_PING_S):
            began = time.monotonic()
            for n in range(EARLY):
                flood.submit(f"early-{n}", 200_000)
            flood.wait_for(EARLY, 0)
            due = time.monotonic() + (time.monotonic() - began) * SUBMITS / EARLY * 1.4 + 2
            for n in range(SUBMITS - EARLY):
                flood.submit(f"late-{n}", max(1, int((due - time.monotonic()) * 1000)))
            flood.wait_for(SUBMITS, 0)
            submitted = time.monotonic()
            # On a machine that has become slow meanwhile the first are over before the last are submitted.
            assert set(flood.answers) == {"accepted", "queue_full"}, flood.answers
            late, waiting_mib = flood.answers["accepted"] - EARLY, memory.grown_mib
            flood.wait_for(SUBMITS, late)
            print(
                f"{SUBMITS} submits in {submitted - began:.1f} s, {dict(flood.answers)}: +{waiting_mib:.0f} MiB, "
                f"{late} deadlines of one moment in {time.monotonic() - due:.1f} s"
            )
            assert set(flood.results.values()) == {1}
            client.send(Bye())
            wait_until(lambda: watcher.stats()["jobs"]["kept"] < 20 and is_idle(watcher), PATIENCE_S, "no jobs")
            print(memory.held(MAX_JOBS * JOB_KIB / 1024 + 2 * OUTBOX_MIB))
            peak_mib = memory.peak_mib
            with RawClient(broker.clients) as another:
                another.hello(name="flood again")
                flood = Flood(another)
                for n in range(AGAIN):
                    flood.submit(f"again-{n}", 200_000)
                flood.wait_for(AGAIN, 0)
                another.send(Bye())
                wait_until(lambda: is_idle(watcher), PATIENCE_S, "the end of all jobs")
            # Python keeps the memory of small things to itself, and takes it for the next ones.
            print(f"{AGAIN} more: +{memory.peak_mib - peak_mib:.0f} MiB")
            assert memory.peak_mib - peak_mib < AGAIN * JOB_KIB / 1024 / 4


# Bodies of 16 MiB from 50 clients at once.

CLIENTS = 50
ROUNDS = 3
BODY = bodies.encode(inputs={"text": "x" * (16 * MIB - 64)})
BODY_MIB = 16
QUEUED_MIB = 256
KEPT_MIB = 128
BODIES_PING_S = 20.0
"""Before a ping the broker takes one message of each client that sends: here 50 bodies, about 20 ms of work each."""


def one_round(crowd: Crowd, number: int) -> Counter[str]:
    """Each client submits one job; how they ended. Every one is answered, what is taken has its one result."""
    for n in range(CLIENTS):
        crowd.send(n, c.Submit(job=f"{number}-{n}", program="echo", timeout_ms=120_000, want=["accepted"]), BODY)
    answers: Counter[str] = Counter()
    ended: set[int] = set()
    for n, message, body in crowd.hear(2 * PATIENCE_S, "an answer to each submit"):
        assert message.job == f"{number}-{n}"
        if isinstance(message, c.Accepted):
            answers["accepted"] += 1
            continue
        if isinstance(message, c.Result):
            assert message.code == "OK", message
            assert len(bodies.decode(body)["outputs"]["text"]) == 16 * MIB - 64
            answers["OK"] += 1
            crowd.send(n, c.Ack(jobs=[message.job]))
        else:
            assert isinstance(message, Error)
            assert message.retryable
            assert message.retry_after_ms
            answers[message.reason] += 1
        assert n not in ended, f"two ends of {message.job}"
        ended.add(n)
        if len(ended) == CLIENTS:
            break
    return answers


@pytest.mark.long
@pytest.mark.timeout(240)
def test_bodies_of_16_mib_at_once_from_50_clients(tmp_path: Path) -> None:
    """More than may wait: what is refused is told so, and when to come again; what is taken is answered, rightly."""
    settings = f"[broker]\nretain_bytes = {KEPT_MIB * MIB}\n[broker.limits]\nmax_queued_bytes = {QUEUED_MIB * MIB}\n"
    with system(tmp_path, settings) as (broker, watcher), Crowd(broker.clients, CLIENTS) as crowd:
        crowd.hello()
        memory = Memory(broker.pid)
        with Onlooker(broker.clients, "echo", bound_s=BODIES_PING_S):
            refused = 0
            for number in range(ROUNDS):
                answers = one_round(crowd, number)
                print(f"round {number}: {dict(answers)}")
                assert answers["accepted"] == answers["OK"] == CLIENTS - answers["queue_full"]
                assert answers["OK"] >= QUEUED_MIB // BODY_MIB
                refused += answers["queue_full"]
            wait_until(lambda: is_idle(watcher), PATIENCE_S, "the end of all jobs")
        assert refused
        # Jobs and their copies on the way to workers, results that are kept and their copies on the way to clients,
        # and what comes in: one message of each client.
        print(memory.held(2 * QUEUED_MIB + 2 * KEPT_MIB + CLIENTS * BODY_MIB, 100))
