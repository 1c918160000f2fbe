"""Workers that lie, forge, swallow or flood: the broker stands, the others serve, and every job has one end."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from dspymq import Client, exceptions
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import encode, new_uuid7
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error, Ping
from tests.faults.peers import RawClient, RawWorker
from tests.faults.system import Bystander, System, resident_mib, running_system
from tests.processes import RunningBroker, clean_environ, dspymq_command, running_broker, wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=1, concurrency=4) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(system: System) -> Iterator[None]:
    yield
    system.lm.release()
    wait_until(lambda: system.client.stats()["jobs"]["live"] == 0, 20.0, "the end of every job")
    system.still_serves()


@pytest.fixture
def lone_broker() -> Iterator[RunningBroker]:
    """A broker without a real pool: all its workers are ours. A cancelled job has a second to say its end."""
    with running_broker(environ={"DSPYMQ_BROKER_GRACE_MS": "500"}) as broker:
        yield broker


def leave(worker: RawWorker) -> None:
    """Say bye, and wait until it was heard."""
    worker.send(Bye())
    worker.send(Ping())
    worker.expect(Error, lambda error: error.reason == "no_session")


@contextlib.contextmanager
def worker_of(broker: RunningBroker, slots: int, *programs: str) -> Iterator[RawWorker]:
    with RawWorker(broker.workers) as worker:
        worker.hello()
        worker.ready(slots, *programs)
        try:
            yield worker
        finally:
            leave(worker)


def test_leases_of_another_worker_cannot_be_forged(system: System) -> None:
    """Results, releases and chunks under the true lease of somebody else's job change nothing."""
    with running_broker() as broker, worker_of(broker, 1, "p") as honest, RawClient(broker.clients) as client:
        client.hello()
        job = new_uuid7()
        client.send(c.Submit(job=job, program="p", timeout_ms=30_000, want=["chunks"]), bodies.encode(inputs={}))
        # A worker without the feature gets no job that wants chunks.
        client.send(c.Cancel(job=job))
        assert client.result(job)[0].code == "CANCELLED"
        job = client.submit("p")
        dispatch, _ = honest.expect(w.Dispatch)
        with worker_of(broker, 5, "other") as forger:
            lease = dispatch.lease
            forger.send(w.Result(lease=lease, attempt=1, code="OK"), bodies.encode(outputs={"text": "forged"}))
            forger.send(w.Released(lease=lease, started=True, cause="crash", blame="self"))
            forger.send(w.Started(lease=lease, attempt=1, revision="1", worker="x"))
            forger.send(w.Chunk(lease=lease, attempt=1, seq=0), bodies.encode(fields={"text": "forged"}))
            # Nor by claiming to hold it.
            held = w.Held(lease=lease, ns="anonymous", job=job, attempt=1, digest=dispatch.digest, state="running")
            forger.send(w.Ready(worker=forger.name, slots={"default": 5}, held=[held]))
            assert forger.expect(w.Synced)[0].keep == []
        honest.answer(dispatch, {"text": "true"})
        result, outputs = client.result(job)
        assert (result.code, result.attempt, outputs) == ("OK", 1, {"text": "true"})
        client.round_trip()
        assert len([m for m, _ in client.seen if isinstance(m, c.Result) and m.job == job]) == 1


def test_a_worker_that_answers_everything_twice_and_late(lone_broker: RunningBroker) -> None:
    """The first result stands; what comes after it, before its start, or under an old lease, is dropped."""
    with worker_of(lone_broker, 4, "p") as worker, RawClient(lone_broker.clients) as client:
        client.hello()
        for n in range(20):
            job = client.submit("p", text=str(n))
            dispatch, _ = worker.expect(w.Dispatch)
            worker.answer(dispatch, {"n": n})
            worker.answer(dispatch, {"n": -1}, code="INTERNAL", reason="internal")
            worker.send(w.Released(lease=dispatch.lease, started=True, cause="crash", blame="self"))
            worker.send(w.Chunk(lease=dispatch.lease, attempt=1, seq=0), bodies.encode(fields={"n": "late"}))
            assert client.result(job)[1] == {"n": n}
        client.round_trip()
        assert len([m for m, _ in client.seen if isinstance(m, c.Result)]) == 20
        assert not [m for m, _ in client.seen if isinstance(m, c.Chunk | Error)]


def test_a_worker_that_swallows_jobs_costs_them_their_timeout_only(lone_broker: RunningBroker) -> None:
    """Alive, and silent about its job: the deadline ends it, and its slot stays taken until the worker settles."""
    with worker_of(lone_broker, 1, "p") as hole, RawClient(lone_broker.clients) as client:
        client.hello()
        job = client.submit("p", timeout_ms=500)
        dispatch, _ = hole.expect(w.Dispatch)
        began = time.monotonic()
        while not [m for m, _ in client.seen if isinstance(m, c.Result)]:
            hole.send(Ping())
            client.receive(0.2)
            assert time.monotonic() - began < 5
        assert client.result(job)[0].code == "DEADLINE_EXCEEDED"
        causes = []
        while "fenced" not in causes:
            causes.append(hole.expect(w.Cancel)[0].cause)
        assert causes == ["deadline", "fenced"]
        later = client.submit("p")
        hole.round_trip()
        assert not [m for m, _ in hole.seen if isinstance(m, w.Dispatch) and m.lease != dispatch.lease]
        hole.answer(dispatch, {"text": "late"}, code="CANCELLED", reason="cancelled")
        second, _ = hole.expect(w.Dispatch)
        hole.answer(second, {"text": "later"})
        assert client.result(later)[1] == {"text": "later"}
        while len(acked := [lease for m, _ in hole.seen if isinstance(m, w.Ack) for lease in m.leases]) < 2:
            hole.expect(w.Ack)
        assert acked == [dispatch.lease, second.lease]


def test_a_worker_that_goes_silent_hands_its_jobs_over(lone_broker: RunningBroker) -> None:
    """Half-open: the connection stands, nothing comes. After dead_ms its job runs elsewhere."""
    with worker_of(lone_broker, 1, "p") as silent, RawClient(lone_broker.clients) as client:
        client.hello()
        job = client.submit("p")
        first, _ = silent.expect(w.Dispatch)
        with worker_of(lone_broker, 1, "p") as other:
            second, _ = other.expect(w.Dispatch)
            assert (second.job, second.attempt) == (job, 2)
            assert second.lease > first.lease
            # Back from the dead: it is told to say hello, and what it says of its old lease counts for nothing.
            silent.answer(first, {"text": "old"})
            assert silent.expect(Error)[0].reason == "no_session"
            other.answer(second, {"text": "new"})
        assert client.result(job)[1] == {"text": "new"}


def test_a_worker_that_gives_everything_back_does_not_keep_a_job_for_ever(lone_broker: RunningBroker) -> None:
    """Four refunds are free; then each costs an attempt, and the job ends as worker_lost."""
    with worker_of(lone_broker, 1, "p") as worker, RawClient(lone_broker.clients) as client:
        client.hello()
        job = client.submit("p")
        dispatches = 0
        while not [m for m, _ in client.seen if isinstance(m, c.Result)]:
            got = worker.receive(0.3)
            if got is not None and isinstance(got[0], w.Dispatch):
                dispatches += 1
                assert dispatches < 10
                worker.send(w.Released(lease=got[0].lease, started=False, cause="capacity"))
                offers = [w.Offer(name="p", revision="1")]
                worker.send(w.Ready(worker=worker.name, slots={"default": 1}, programs=offers))
            elif got is None:
                client.receive(0.1)
        result, _ = client.result(job)
        assert (result.code, result.reason) == ("UNAVAILABLE", "worker_lost")
        assert dispatches == 7


def test_a_worker_that_says_bye_with_jobs_hands_them_over_at_once(lone_broker: RunningBroker) -> None:
    with RawClient(lone_broker.clients) as client:
        client.hello()
        with worker_of(lone_broker, 2, "p") as leaving:
            jobs = [client.submit("p", n=n) for n in range(2)]
            for _ in jobs:
                leaving.expect(w.Dispatch)
        with worker_of(lone_broker, 2, "p") as staying:
            for _ in jobs:
                dispatch, body = staying.expect(w.Dispatch, timeout_s=2)
                staying.answer(dispatch, bodies.decode(body)["inputs"])
        assert [client.result(job)[1] for job in jobs] == [{"n": 0}, {"n": 1}]


ABSURD = [
    {"slots": {"default": -1}},
    {"slots": {"default": 2**60}},
    {"slots": {"default": 1.5}},
    {"slots": {"default": True}},
    {"slots": ["default"]},
    {"slots": {1: 1}},
    {"slots": {"default": 1}, "programs": [{"name": "", "revision": "1"}]},
    {"slots": {"default": 1}, "programs": [{"name": "p" * 129, "revision": "1"}]},
    {"slots": {"default": 1}, "programs": [{"name": "p"}]},
    {"slots": {"default": 1}, "programs": {"p": "1"}},
    {"slots": {"default": 1}, "held": [{}]},
    {"slots": {"default": 1}, "held": [{"lease": "x", "ns": "", "job": "j", "attempt": 1, "digest": ""}] * 201},
    {"slots": {"default": 1}, "worker": ""},
    {"slots": {"default": 1}, "worker": "w" * 65},
    {"slots": {"default": 1}, "worker": "w\u00e9"},
    {"slots": {"default": 1}, "profiles": [None]},
    {"slots": None},
]


def test_absurd_ready_messages_are_refused_each(system: System) -> None:
    with Bystander(system), RawWorker(system.broker.workers) as worker:
        worker.hello()
        for fields in ABSURD:
            header = msgpack.packb({"t": "ready", "worker": "absurd", "held": [], **fields})
            worker.send_frames(b"DJP1", header)
            error, _ = worker.expect(Error)
            assert error.reason == "bad_header", (fields, error)
        worker.round_trip()
        assert not [row for row in system.client.workers() if row["worker"] == "absurd"]


BODIES = [
    (b"\xc1", "invalid_body"),
    (b"\x90" * 5, "invalid_body"),
    (b"\x01", "invalid_body"),
    (b"\x91" * 5_000, "invalid_body"),
    (b"x" * 2 * MIB, "body_too_large"),
]


def test_absurd_descriptions_are_refused_each(system: System) -> None:
    with Bystander(system), RawWorker(system.broker.workers) as worker:
        worker.hello()
        ready = w.Ready(worker=worker.name, slots={"default": 0}, programs=[w.Offer(name="z", revision="1")], held=[])
        for body, reason in BODIES:
            worker.send(ready, body)
            assert worker.expect(Error)[0].reason == reason


STRANGE: list[tuple[object, bool]] = [
    ({"programs": {"strange": {"description": msgpack.Timestamp(1), "inputs": {"a": 1}}}}, False),
    ({"programs": {"strange": {"description": msgpack.ExtType(5, b"x"), "inputs": [float("nan")]}}}, True),
    ({"programs": {"strange": {"description": "x" * 1_000_000}}}, True),
    ({"programs": {"strange": {"name": "qa", "revision": 7, "workers": None, "description": {"a": [b"\xff"]}}}}, True),
    ({"programs": ["strange"], "executors": "none"}, False),
    ({"programs": {"strange": 5, 7: {}}, "executors": [{"pid": "x", 1: 2}]}, True),
    ({"programs": {"strange": {"description": "fine"}}, "executors": [1]}, False),
]


@pytest.mark.parametrize(("body", "is_taken"), STRANGE, ids=range(len(STRANGE)))
def test_a_strange_description_harms_only_whom_it_describes(system: System, body: object, is_taken: bool) -> None:
    """`programs` and `workers` go on listing everybody, whatever one worker says of itself."""
    with RawWorker(system.broker.workers) as worker:
        worker.hello()
        offers = [w.Offer(name="strange", revision="1")]
        worker.send(
            w.Ready(worker=worker.name, slots={"default": 0}, programs=offers, held=[]),
            msgpack.packb(body, use_bin_type=True),
        )
        if is_taken:
            worker.expect(w.Synced)
            assert system.client.program("strange")["name"] == "strange"
        else:
            assert worker.expect(Error)[0].reason == "invalid_body"
        rows = {row["name"]: row for row in system.client.programs()}
        assert ("strange" in rows and rows["strange"]["workers"] == 1) is is_taken
        assert all(isinstance(row["description"], str) and len(row["description"]) < 5_000 for row in rows.values())
        assert system.client.program("qa")["name"] == "qa"
        assert "pool" in {row["name"] for row in system.client.workers()}
        status = subprocess.run(
            dspymq_command("status", "--broker", system.broker.clients),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=clean_environ(),
        )
        assert status.returncode == 0, status.stderr
        leave(worker)


def test_slots_without_end_do_not_carry_the_broker_off(tmp_path: Path) -> None:
    """A worker that claims 2^53 slots and reads nothing: what is under way stays within the bound on bodies."""
    config = tmp_path / "small.toml"
    config.write_text(f"[broker.limits]\nmax_queued_bytes = {32 * MIB}\n")
    with (
        running_broker("--config", str(config), environ={"DSPYMQ_BROKER_GRACE_MS": "200"}) as broker,
        RawWorker(broker.workers, answers_pings=False) as glutton,
        RawClient(broker.clients) as client,
    ):
        before = resident_mib(broker.pid)
        glutton.hello()
        glutton.ready(2**53 - 1, "p")
        assert client.hello().limits.max_queued_bytes == 32 * MIB
        body = bodies.encode(inputs={"text": "x" * 4 * MIB})
        for n in range(20):
            client.send(c.Submit(job=f"{n}-{new_uuid7()}", program="p", timeout_ms=30_000), body)
        client.round_trip()
        refused = [m for m, _ in client.seen if isinstance(m, Error)]
        assert [error.reason for error in refused] == ["queue_full"] * 13
        assert all(error.retry_after_ms for error in refused)
        assert resident_mib(broker.pid) - before < 5 * 32


def test_new_programs_again_and_again_do_not_grow_the_catalog_without_bound(system: System) -> None:
    """Names that nobody offers any more are remembered, but not for ever; real programs are still known."""
    before = resident_mib(system.broker.pid)
    with Bystander(system), RawWorker(system.broker.workers) as worker:
        worker.hello()
        worker.ready(0, "first")
        for n in range(300):
            offers = [w.Offer(name=f"{n}-{k}-" + "n" * 60, revision="1") for k in range(400)]
            worker.send(w.Ready(worker=worker.name, slots={"default": 0}, programs=offers))
        worker.round_trip()
        assert len(system.client.programs()) < 20_000
        worker.send(Bye())
    assert resident_mib(system.broker.pid) - before < 60
    with pytest.raises(exceptions.NotFound) as caught:
        system.client.call("echoo", text="x")
    assert "echo" in caught.value.details["close_matches"]


def test_result_codes_that_nobody_knows_do_not_grow_the_counts(lone_broker: RunningBroker) -> None:
    with (
        worker_of(lone_broker, 1, "p") as worker,
        RawClient(lone_broker.clients) as client,
        Client(lone_broker.clients) as watcher,
    ):
        client.hello()
        for n in range(50):
            job = client.submit("p")
            dispatch, _ = worker.expect(w.Dispatch)
            worker.answer(dispatch, code=f"CODE_{n}")
            assert client.result(job)[0].code in (f"CODE_{n}", "UNKNOWN", "INTERNAL")
        assert len([key for key in watcher.stats()["counts"] if key.startswith("done.")]) < 20


def test_a_result_that_is_too_large_is_refused_and_can_be_said_again(lone_broker: RunningBroker) -> None:
    with worker_of(lone_broker, 1, "p") as worker, RawClient(lone_broker.clients) as client:
        client.hello()
        job = client.submit("p")
        dispatch, _ = worker.expect(w.Dispatch)
        worker.answer(dispatch, {"text": "x" * 20 * MIB})
        error, _ = worker.expect(Error)
        assert (error.reason, error.lease) == ("body_too_large", dispatch.lease)
        worker.answer(dispatch, code="RESOURCE_EXHAUSTED", reason="result_too_large")
        assert client.result(job)[0].reason == "result_too_large"


def test_two_sessions_that_claim_one_worker_take_turns_and_lose_nothing(lone_broker: RunningBroker) -> None:
    """A new session of a worker ends the old one; what it does not hold is run again."""
    with (
        worker_of(lone_broker, 1, "p") as one,
        RawWorker(lone_broker.workers) as two,
        RawClient(lone_broker.clients) as client,
    ):
        client.hello()
        job = client.submit("p")
        first, _ = one.expect(w.Dispatch)
        two.name = one.name
        two.hello()
        two.ready(1, "p")
        second, _ = two.expect(w.Dispatch)
        assert (second.job, second.attempt) == (job, 2)
        one.answer(first, {"text": "old"})
        assert one.expect(Error)[0].reason == "no_session"
        two.answer(second, {"text": "new"})
        assert client.result(job)[1] == {"text": "new"}


def test_a_worker_may_not_ask_what_is_not_its_business(lone_broker: RunningBroker) -> None:
    from dspymq.protocol.messages import Reply, Request

    with worker_of(lone_broker, 1, "p") as worker:
        worker.send(Request(rid="r1", method="workers.list"))
        error, _ = worker.expect(Error)
        assert (error.code, error.reason, error.rid) == ("PERMISSION_DENIED", "not_allowed", "r1")
        worker.send(Request(rid="r2", method="stats.get"))
        assert worker.expect(Reply)[0].rid == "r2"


def test_messages_before_ready_and_hello_are_refused(lone_broker: RunningBroker) -> None:
    result = w.Result(lease="none", attempt=1, code="OK")
    with RawWorker(lone_broker.workers) as worker:
        worker.send_frames(*encode(result))
        assert worker.expect(Error)[0].reason == "no_session"
        worker.hello()
        worker.send(result)
        assert worker.expect(Error)[0].reason == "not_ready"
        worker.round_trip()
