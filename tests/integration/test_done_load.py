"""Hundreds of calls at once: each gets its own answer, and every slot is used."""

import asyncio
from collections.abc import Iterator

import pytest

from dspymq import AsyncClient, Client
from tests.faults.system import PATIENCE_S, System, running_system
from tests.lm import expected_answer
from tests.processes import wait_until

CALLS = 500
SLOTS = 32


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=4, concurrency=SLOTS // 4) as made:
        yield made


@pytest.fixture(autouse=True)
def peak_of_this_test(system: System) -> None:
    system.lm.wait_idle()


def question(n: int) -> str:
    return f"What is the number of call {n}, {n * n}?"


@pytest.mark.parametrize("program", ["qa", "sync_qa"])
def test_500_calls_outstanding_at_once_against_4_executors(system: System, program: str) -> None:
    lm = system.lm
    before = lm.requests
    lm.script(hang=True)
    jobs = [system.client.submit(program, {"question": question(n)}, timeout_s=PATIENCE_S) for n in range(CALLS)]
    # Every slot holds a request, and all other calls wait.
    lm.wait_for(lambda: lm.open == SLOTS)
    assert lm.requests - before == SLOTS
    assert not any(job.done() for job in jobs)
    lm.script(hang=False)
    lm.release()
    answers = [job.result(PATIENCE_S).answer for job in jobs]
    assert answers == [expected_answer("answer", question(n)) for n in range(CALLS)]
    assert len(set(answers)) == CALLS
    assert lm.requests - before == CALLS
    assert lm.peak_open == SLOTS


def test_500_calls_of_50_clients_at_once(system: System) -> None:
    """Clients on one event loop, each with a connection of its own; every one is served, none before its turn."""

    async def ask(n: int) -> list[str]:
        async with AsyncClient(system.broker.clients, name=f"client-{n}", timeout_s=PATIENCE_S) as client:
            calls = [client.call("qa", question=question(10 * n + k)) for k in range(10)]
            return [prediction.answer for prediction in await asyncio.gather(*calls)]

    async def main() -> list[list[str]]:
        return await asyncio.gather(*(ask(n) for n in range(50)))

    found = asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    expected = [[expected_answer("answer", question(10 * n + k)) for k in range(10)] for n in range(50)]
    assert found == expected


def test_a_client_with_500_calls_does_not_keep_another_waiting(system: System) -> None:
    """Fairness: the newcomer's one call is served before the flood that was there first is half done."""
    lm = system.lm
    lm.script(hang=True)
    jobs = [system.client.submit("qa", {"question": f"flood {n}"}, timeout_s=PATIENCE_S) for n in range(CALLS)]
    lm.wait_for(lambda: lm.open == SLOTS)
    with Client(system.broker.clients, name="newcomer") as newcomer:
        job = newcomer.submit("qa", {"question": "May I?"}, watch=["accepted"])
        wait_until(lambda: job.status == "queued", 10.0, "its place in the queue")
        lm.script(hang=False, delay_ms=10)
        lm.release()
        try:
            job.result(PATIENCE_S)
            done = sum(job.done() for job in jobs)
            for flood in jobs:
                flood.result(PATIENCE_S)
        finally:
            lm.script(delay_ms=0)
    assert done < CALLS // 2


def test_after_all_that_the_broker_holds_no_job(system: System) -> None:
    system.still_serves()
    jobs = system.client.stats()["jobs"]
    assert (jobs["live"], jobs["queued"], jobs["queued_bytes"]) == (0, 0, 0)
