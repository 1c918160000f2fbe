"""Cancel and deadline in the middle of a long LM answer: the LM sees it within a second, the client one end."""

import time
from collections.abc import Iterator

import pytest

from dspymq import exceptions
from dspymq.job import Job
from dspymq.protocol import client_messages as c
from dspymq.protocol import new_uuid7
from tests.faults.peers import RawClient
from tests.faults.system import PATIENCE_S, System, running_system
from tests.lm import expected_answer
from tests.processes import wait_until

PROGRAMS = ["qa", "sync_qa", "question -> answer"]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """One executor with one slot: whatever does not give it back is seen by the next call."""
    with running_system(processes=1, concurrency=1) as made:
        yield made


@pytest.fixture(autouse=True)
def same_executor(system: System) -> Iterator[None]:
    """No process is ended by any of this."""
    before = system.pool.executor_pids()
    yield
    system.still_serves()
    assert system.pool.executor_pids() == before


def long_answer(job: str) -> str:
    """A question whose answer is streamed up to its middle, and then held."""
    return f"#job={job} #tokens=400 #chunk=5 #hang_after=100"


def started(system: System, job: Job, name: str) -> None:
    """The LM is in the middle of the answer, and its beginning has reached us."""
    system.lm.wait_for(lambda: system.lm.job(name).pieces >= 100)
    wait_until(lambda: job.text.get("answer"), 10.0, "the beginning of the answer")


@pytest.mark.parametrize("program", PROGRAMS)
def test_cancel_in_the_middle_of_an_answer(system: System, program: str) -> None:
    name = f"cancel-{program}".replace(" ", "")
    job = system.client.submit(program, {"question": long_answer(name)}, stream=True)
    started(system, job, name)
    at = time.monotonic()
    job.cancel()
    with pytest.raises(exceptions.Cancelled) as caught:
        job.result(PATIENCE_S)
    assert (caught.value.code, caught.value.reason) == ("CANCELLED", "cancelled")
    assert caught.value.usage is not None
    assert caught.value.usage.calls == 1
    assert system.lm.wait_disconnected(name) - at < 1.0
    assert system.ask("next") == expected_answer("answer", "next")
    assert system.lm.job(name).requests == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_deadline_in_the_middle_of_an_answer(system: System, program: str) -> None:
    name = f"deadline-{program}".replace(" ", "")
    began = time.monotonic()
    job = system.client.submit(program, {"question": long_answer(name)}, stream=True, timeout_s=1.2)
    started(system, job, name)
    with pytest.raises(exceptions.DeadlineExceeded) as caught:
        job.result(PATIENCE_S)
    assert (caught.value.code, caught.value.reason) == ("DEADLINE_EXCEEDED", "deadline")
    assert caught.value.usage is not None
    assert caught.value.usage.calls == 1
    assert 1.2 <= system.lm.wait_disconnected(name) - began < 2.2
    assert system.ask("next") == expected_answer("answer", "next")
    assert system.lm.job(name).requests == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_cancel_before_the_first_token(system: System, program: str) -> None:
    name = f"early-{program}".replace(" ", "")
    job = system.client.submit(program, {"question": f"#job={name} #hang"})
    system.lm.wait_open(name)
    at = time.monotonic()
    job.cancel()
    with pytest.raises(exceptions.Cancelled) as caught:
        job.result(PATIENCE_S)
    assert caught.value.usage is not None
    assert system.lm.wait_disconnected(name) - at < 1.0


def test_cancel_closes_every_request_of_a_program_that_has_many(system: System) -> None:
    job = system.client.submit("burst", {"question": "#job=many #hang", "times": 7})
    system.lm.wait_open("many", 7)
    job.cancel()
    with pytest.raises(exceptions.Cancelled) as caught:
        job.result(PATIENCE_S)
    assert caught.value.usage is not None
    assert caught.value.usage.calls == 7
    system.lm.wait_disconnected("many", 7)


def test_cancel_while_the_lm_is_waited_for_again_after_an_error(system: System) -> None:
    """Between two attempts at the LM nothing is open that could be closed: the wait itself must end."""
    job = system.client.submit("sync_qa", {"question": "#job=backoff #status=503 #retry_after=20"})
    system.lm.wait_for(lambda: system.lm.job("backoff").errors >= 1)
    at = time.monotonic()
    job.cancel()
    with pytest.raises(exceptions.DspymqError):
        job.result(PATIENCE_S)
    assert time.monotonic() - at < 2.0


def test_a_cancelled_job_in_the_queue_never_reaches_the_lm(system: System) -> None:
    first = system.client.submit("qa", {"question": "#job=first #hang"})
    system.lm.wait_open("first")
    queued = [system.client.submit("qa", {"question": f"#job=queued {n}"}) for n in range(5)]
    expiring = system.client.submit("qa", {"question": "#job=queued late"}, timeout_s=0.3)
    for job in queued:
        job.cancel()
        with pytest.raises(exceptions.Cancelled):
            job.result(PATIENCE_S)
    with pytest.raises(exceptions.DeadlineExceeded) as caught:
        expiring.result(PATIENCE_S)
    assert caught.value.reason == "deadline"
    system.lm.release("first")
    first.result(PATIENCE_S)
    assert system.lm.job("queued").requests == 0


@pytest.mark.parametrize("how", ["cancel", "deadline", "both"])
@pytest.mark.parametrize("program", ["qa", "sync_qa"])
def test_one_terminal_and_nothing_after_it(system: System, program: str, how: str) -> None:
    """Seen on the wire: one result, chunks only before it, and as many as it says."""
    from dspymq.protocol import body as bodies

    name = f"wire-{program}-{how}"
    timeout_ms = 1_200 if how != "cancel" else 60_000
    with RawClient(system.broker.clients) as client:
        client.hello(features=["ack"])
        job = new_uuid7()
        submit = c.Submit(job=job, program=program, timeout_ms=timeout_ms, want=["accepted", "started", "chunks"])
        client.send(submit, bodies.encode(inputs={"question": long_answer(name)}))
        client.expect(c.Chunk)
        system.lm.wait_for(lambda: system.lm.job(name).pieces >= 100)
        if how != "deadline":
            for _ in range(3):
                client.send(c.Cancel(job=job))
        result, _ = client.result(job)
        code = "DEADLINE_EXCEEDED" if how == "deadline" else "CANCELLED"
        assert result.code == code
        assert result.usage is not None
        assert result.usage.calls == 1
        system.lm.wait_disconnected(name)
        client.round_trip()
        kinds = [type(message).__name__ for message, _ in client.seen if getattr(message, "job", None) == job]
        assert kinds[:2] == ["Accepted", "Started"]
        assert set(kinds[2:-1]) == {"Chunk"}
        assert kinds[-1] == "Result"
        seqs = [message.seq for message, _ in client.seen if isinstance(message, c.Chunk)]
        assert seqs == list(range(len(seqs)))
        # A cancel of what has ended is answered by the same result again.
        client.send(c.Cancel(job=job))
        assert client.expect(c.Result)[0] == result


def test_hundred_cancels_that_race_their_answers_end_each_call_once(system: System) -> None:
    ends = []
    for n in range(100):
        job = system.client.submit("qa", {"question": f"race {n} #delay_ms={n % 5}"})
        if n % 3:
            system.lm.wait_for(lambda n=n: system.lm.requests > n // 3)
        job.cancel()
        try:
            ends.append(job.result(PATIENCE_S).answer.split()[:3])
        except exceptions.Cancelled:
            ends.append(None)
    assert len(ends) == 100
    assert all(end is None or end == ["answer:", "race", str(n)] for n, end in enumerate(ends))
    system.lm.wait_idle()
    assert system.client.stats()["jobs"]["live"] == 0
