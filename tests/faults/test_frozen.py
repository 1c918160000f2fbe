"""Processes that stand still and go on (SIGSTOP, SIGCONT), past the time after which they count as dead.

The time for which something is frozen is the fault itself; nothing is waited for by sleeping.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from dspymq import Client, exceptions
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import new_uuid7
from tests.faults.peers import RawClient
from tests.faults.system import PATIENCE_S, PROGRAMS, Bystander, System, running_system
from tests.lm import ScriptedLM, expected_answer
from tests.processes import running_broker, running_pool, wait_until

QUICK = {"DSPYMQ_BROKER_WORKER_PING_MS": "200"}
QUICK_BOTH = {**QUICK, "DSPYMQ_BROKER_CLIENT_PING_MS": "200"}
DEAD_S = 0.6
STALLS = {"DSPYMQ_WORKER_STALL_MS": "1000", "DSPYMQ_WORKER_BEAT_MS": "100", "DSPYMQ_WORKER_CANCEL_GRACE_MS": "500"}


@pytest.fixture(scope="module")
def hasty() -> Iterator[System]:
    """Silence of 0.6 s is death."""
    with running_system(broker_environ=QUICK_BOTH) as made:
        yield made


@pytest.fixture(scope="module")
def pair() -> Iterator[System]:
    """Two executors of one slot each, which stall after a second."""
    with running_system(processes=2, concurrency=1, pool_environ=STALLS) as made:
        yield made


@pytest.fixture
def system(pair: System) -> Iterator[System]:
    """The pair, whole before and after."""
    yield pair
    pair.lm.release()
    pair.pool.wait_ready(2)
    pair.still_serves()


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process stands still while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("share", [0.5, 1.2, 3])
def test_a_broker_that_stood_still_loses_nobody(hasty: System, share: float) -> None:
    """It hears what was said meanwhile before it judges: no worker is lost, no attempt charged, no LM call repeated."""
    names = [f"still-{share}-{n}" for n in range(6)]
    jobs = [hasty.client.submit("qa", {"question": f"#job={name} #hang"}, timeout_s=60) for name in names]
    for name in names:
        hasty.lm.wait_open(name)
    before = hasty.client.stats()["counts"]
    for _ in range(4):
        with frozen(hasty.broker.pid):
            time.sleep(share * DEAD_S)
        hasty.still_serves()
    counts = hasty.client.stats()["counts"]
    for count in ("workers_lost", "requeued", "adopted"):
        assert counts.get(count, 0) == before.get(count, 0)
    hasty.lm.release()
    assert [job.result(PATIENCE_S).attempt for job in jobs] == [1] * 6
    assert [hasty.lm.job(name).requests for name in names] == [1] * 6


def test_a_pool_that_stood_still_for_a_moment_is_not_lost(hasty: System) -> None:
    job = hasty.client.submit("qa", {"question": "#job=moment #hang"})
    hasty.lm.wait_open("moment")
    with frozen(hasty.pool.pid):
        # The answer comes while the supervisor stands still: it waits in the executor's pipe.
        hasty.lm.release("moment")
        hasty.lm.wait_idle()
        time.sleep(0.3 * DEAD_S)
    assert job.result(PATIENCE_S).attempt == 1
    assert hasty.lm.job("moment").requests == 1


@pytest.mark.parametrize("answered_while_frozen", [True, False])
def test_a_pool_frozen_past_its_death_gives_no_second_end(answered_while_frozen: bool) -> None:
    """Its jobs run elsewhere; when it goes on, what it holds is dropped, stopped at the LM, and it serves again."""
    with (
        ScriptedLM() as lm,
        running_broker(environ=QUICK) as broker,
        running_pool(broker, targets=[PROGRAMS], lm=lm, name="frozen", concurrency=3) as pool,
        RawClient(broker.clients) as client,
        Client(broker.clients) as watcher,
    ):
        client.hello()
        jobs = []
        for n in range(3):
            jobs.append(job := new_uuid7())
            submit = c.Submit(job=job, program="qa", timeout_ms=60_000, want=["started"])
            client.send(submit, bodies.encode(inputs={"question": f"#job=f{n} #hang"}))
            lm.wait_open(f"f{n}")
        with running_pool(broker, targets=[PROGRAMS], lm=lm, name="awake", concurrency=3):
            with frozen(pool.pid):
                for n in range(3):
                    lm.wait_open(f"f{n}", 2)
                if answered_while_frozen:
                    lm.release()
                    results = [client.result(job)[0] for job in jobs]
            if not answered_while_frozen:
                # The thawed pool learns that its leases are gone, and closes their requests.
                for n in range(3):
                    lm.wait_disconnected(f"f{n}")
                lm.release()
                results = [client.result(job)[0] for job in jobs]
            assert [(result.code, result.attempt) for result in results] == [("OK", 2)] * 3
            wait_until(lambda: pool.row().get("state") == "ready", 10.0, "the thawed pool")
        # The other pool is gone now: the thawed one has all its slots.
        later = [watcher.submit("qa", {"question": f"#job=l{n} #hang"}) for n in range(3)]
        for n in range(3):
            lm.wait_open(f"l{n}")
        lm.release()
        for job in later:
            assert job.result(PATIENCE_S).attempt <= 2
        client.round_trip()
        ends = [message.job for message, _ in client.seen if isinstance(message, c.Result)]
        assert sorted(ends) == sorted(jobs)
        assert [lm.job(f"f{n}").requests for n in range(3)] == [2, 2, 2]


def test_a_pool_that_was_dead_starts_nothing_of_what_waited_for_it() -> None:
    """Dispatches that came while it stood still lie in its socket: by now those jobs run elsewhere."""
    with (
        ScriptedLM() as lm,
        running_broker(environ=QUICK) as broker,
        running_pool(broker, targets=[PROGRAMS], lm=lm, name="frozen", concurrency=3) as pool,
        Client(broker.clients) as client,
    ):
        with frozen(pool.pid):
            jobs = [client.submit("qa", {"question": f"#job=w{n} #hang"}, timeout_s=60) for n in range(3)]
            wait_until(lambda: pool.row()["in_flight"].get("default") == 3, 5.0, "the dispatches")
            with contextlib.ExitStack() as stack:
                stack.enter_context(running_pool(broker, targets=[PROGRAMS], lm=lm, name="awake", concurrency=3))
                for n in range(3):
                    lm.wait_open(f"w{n}")
                os.kill(pool.pid, signal.SIGCONT)
                wait_until(lambda: pool.row().get("state") == "ready", 10.0, "the thawed pool")
                # It has room, and serves; but none of what it was told before.
                for n in range(4):
                    assert client.call("qa", question=f"later {n}").answer == expected_answer("answer", f"later {n}")
                lm.release()
                assert [job.result(PATIENCE_S).attempt for job in jobs] == [2] * 3
        assert [lm.job(f"w{n}").requests for n in range(3)] == [1] * 3


def test_a_frozen_executor_gets_no_jobs_and_goes_on_where_it_was(system: System) -> None:
    job = system.client.submit("qa", {"question": "#job=iced #hang"}, watch=["started"], timeout_s=60)
    system.lm.wait_open("iced")
    wait_until(lambda: job.worker, 10.0, "started")
    assert job.worker is not None
    with frozen(system.pool.pid_of(job.worker)):
        wait_until(lambda: "stalled" in [e["state"] for e in system.pool.executors()], 10.0, "a stall")
        for n in range(5):
            assert system.ask(f"beside {n}") == expected_answer("answer", f"beside {n}")
        system.lm.release("iced")
    assert job.result(PATIENCE_S).attempt == 1
    assert system.lm.job("iced").requests == 1


def test_a_frozen_executor_costs_its_job_the_deadline_and_no_more(system: System) -> None:
    """Never thawed: one DEADLINE_EXCEEDED in time, the process is killed and replaced, the other one serves on."""
    job = system.client.submit("qa", {"question": "#job=stone #hang"}, watch=["started"], timeout_s=2.0)
    system.lm.wait_open("stone")
    wait_until(lambda: job.worker, 10.0, "started")
    assert job.worker is not None
    stone = system.pool.pid_of(job.worker)
    os.kill(stone, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(exceptions.DeadlineExceeded):
        job.result(PATIENCE_S)
    assert time.monotonic() - began < 6
    wait_until(lambda: stone not in system.pool.executor_pids(), 10.0, "the end of the frozen process")
    system.lm.wait_disconnected("stone")


def test_an_idle_frozen_executor_is_replaced(system: System) -> None:
    stone = system.pool.executor_pids()[0]
    os.kill(stone, signal.SIGSTOP)
    wait_until(lambda: stone not in system.pool.executor_pids(), 10.0, "the end of the frozen process")
    system.pool.wait_ready(2)
    with Bystander(system):
        pass


def test_calls_at_a_frozen_executor_wait_for_it_and_others_do_not(system: System) -> None:
    """What was sent to it just before it was missed is answered when it goes on; nothing else stands behind it."""
    with frozen(system.pool.executor_pids()[0]):
        jobs = [system.client.submit("echo", {"text": str(n)}, timeout_s=30) for n in range(8)]
        wait_until(lambda: sum(job.done() for job in jobs) == 7, 10.0, "the answers of all others")
    assert [job.result(PATIENCE_S).text for job in jobs] == [str(n) for n in range(8)]
    assert {job.result(PATIENCE_S).attempt for job in jobs} == {1}
