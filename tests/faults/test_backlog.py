"""A client with 100,000 jobs in the queue, at the highest priority, costs others next to nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Error
from tests.faults.peers import RawClient, RawWorker
from tests.processes import RunningBroker, running_broker

BACKLOG = 100_000
SLOTS = 8
FEW = 10


@pytest.fixture
def broker() -> Iterator[RunningBroker]:
    # Whoever fills the queue hears nobody meanwhile.
    with running_broker(environ={"DSPYMQ_BROKER_WORKER_PING_MS": "30000"}) as broker:
        yield broker


def fill(client: RawClient, program: str) -> None:
    """Submit the backlog, and see that all of it was taken."""
    body = bodies.encode(inputs={})
    for n in range(BACKLOG):
        client.send(c.Submit(job=f"{program}-{n}", program=program, timeout_ms=600_000, priority=9), body)
        if n % 500 == 499:
            client.round_trip()
    refused = [message for message, _ in client.seen if isinstance(message, Error)]
    assert not refused, refused[0]


def work_off(worker: RawWorker, running: list[w.Dispatch], count: int) -> list[str]:
    """So many jobs, one after the other: their ids. Another is dispatched for each."""
    done = []
    for _ in range(count):
        lease = running.pop(0)
        worker.answer(lease)
        done.append(lease.job)
        running.append(worker.expect(w.Dispatch)[0])
    return done


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_ten_jobs_at_priority_0_beside_100_000_at_priority_9(broker: RunningBroker) -> None:
    """All ten are among the first slots + 20 that end; 100,000 for a program without a worker slow nothing."""
    with (
        RawWorker(broker.workers) as worker,
        RawClient(broker.clients) as many,
        RawClient(broker.clients) as few,
    ):
        worker.hello()
        worker.ready(SLOTS, "p", "q")
        many.hello(name="many")
        few.hello(name="few")
        fill(many, "p")
        with RawWorker(broker.workers) as gone:
            # Known since this worker offered it, so that its jobs may wait.
            gone.hello()
            gone.ready(0, "nowhere")
        fill(many, "nowhere")
        running = [worker.expect(w.Dispatch)[0] for _ in range(SLOTS)]
        for n in range(FEW):
            few.send(c.Submit(job=f"few-{n}", program="p", timeout_ms=60_000, priority=0), bodies.encode(inputs={}))
        few.round_trip()
        done = work_off(worker, running, SLOTS + 20)
        assert {f"few-{n}" for n in range(FEW)} <= set(done)
        for n in range(FEW):
            assert few.result(f"few-{n}")[0].code == "OK"
        began = time.perf_counter()
        work_off(worker, running, 1_000)
        print(f"one job after the other: {(time.perf_counter() - began) * 1000:.0f} us each, this worker included")
