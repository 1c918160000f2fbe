"""The rules of a broker's restart and of adoption, on real brokers: leases of a life that they do not know."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from tests.conformance.bare_peers import PATIENCE_S, Broker, Client, Header, Worker

OLD = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
BODY = msgpack.packb({"inputs": {"question": "2+2?"}})
AGAIN = {"body": BODY, "known_epoch": OLD}
"""A submit that another broker was sent before."""


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker that waits longer for workers and clients than any of these tests takes."""
    with Broker(adopt_ms=20_000, orphan_ms=20_000) as broker:
        yield broker


def digest(program: str = "qa", body: bytes = BODY) -> str:
    """R-5.2, by itself."""
    parts = [program.encode(), b"", b"", body]
    octets = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hashlib.sha256(octets).hexdigest()[:32]


def lease(number: int = 1) -> str:
    """A lease of the old epoch."""
    return f"{OLD}-{number:012d}"


def held(job: str = "j", state: str = "running", number: int = 1, attempt: int = 1, **fields: Any) -> Header:
    """What a worker reports of it."""
    entry = {"lease": lease(number), "ns": "anonymous", "job": job, "attempt": attempt, "state": state}
    return {**entry, "digest": digest(), "left_ms": 60_000, **fields}


def attempt_of(number: int = 1, attempt: int = 1, job: str = "j") -> Header:
    """What a worker remembers of the dispatch."""
    return {"lease": lease(number), "attempt": attempt, "job": job}


def test_r_8_1_to_8_3_over_a_real_restart_the_job_goes_on_where_it_runs() -> None:
    with Broker() as first:
        client, worker = Client(first), Worker(first)
        client.submit("j", body=BODY)
        old = worker.dispatch("j", digest=digest())
        epoch = client.welcome["epoch"]
    with Broker(clients=first.clients, workers=first.workers) as second:
        client, worker = Client(second), Worker(second, slots=None)
        assert client.welcome["epoch"] > epoch
        client.submit("j", body=BODY, known_epoch=epoch)
        client.hears_nothing_else()
        copied = {name: old[name] for name in ("lease", "ns", "job", "attempt", "digest")}
        assert worker.ready(1, held=[{**copied, "state": "running"}]) == [old["lease"]]
        worker.expect("attach", lease=old["lease"])
        worker.hears_nothing_else()
        worker.finish(old)
        client.result("j", attempt=1)


@pytest.mark.parametrize("first", ["client", "worker"])
@pytest.mark.parametrize("state", ["running", "done"])
def test_r_8_5_to_8_10_whoever_comes_first_nothing_is_run_twice(broker: Broker, first: str, state: str) -> None:
    client, worker = Client(broker), Worker(broker, slots=None)
    if first == "client":
        client.submit("j", want=["chunks"], window=3, **AGAIN)
        client.hears_nothing_else()
    assert worker.ready(1, held=[held(state=state, attempt=2)]) == [lease()]
    if first == "client":
        worker.expect("attach", lease=lease(), want=["chunks"], window=3)
    else:
        worker.expect("attach", lease=lease(), want=None, window=None)
        client.submit("j", want=["chunks"], window=3, **AGAIN)
        worker.expect("attach", lease=lease(), want=["chunks"], window=3)
    if state == "running":
        worker.say("chunk", attempt_of(attempt=2), {"fields": {}}, seq=5, reset=True)
        client.expect("chunk", job="j", attempt=2, seq=5, reset=True)
    worker.finish(attempt_of(attempt=2))
    worker.acked(attempt_of())
    client.result("j", attempt=2)
    worker.hears_nothing_else()


def test_r_8_4_what_nobody_reports_in_time_runs_if_it_may() -> None:
    with Broker(adopt_ms=700) as broker:
        client, worker = Client(broker), Worker(broker, slots=3)
        begun = time.monotonic()
        client.submit("runs", **AGAIN)
        client.submit("once", redeliver=False, **AGAIN)
        client.submit("fast", fail_fast=True, profile="nobody-has-it", **AGAIN)
        client.submit("unknown", "unheard-of", **AGAIN)
        client.submit("unsure", **{**AGAIN, "known_epoch": "unknown"})
        client.submit("ours", body=BODY, known_epoch=client.welcome["epoch"])
        worker.dispatch("ours")
        client.result("once", "UNAVAILABLE", reason="worker_lost", attempt=0)
        client.result("fast", "UNAVAILABLE", reason="no_worker", attempt=0)
        client.result("unknown", "NOT_FOUND", reason="unknown_program", attempt=0)
        assert {worker.dispatch()["job"], worker.dispatch()["job"]} == {"runs", "unsure"}
        assert time.monotonic() - begun >= 0.65


def test_r_8_4_a_job_that_waits_for_its_worker_is_cancelled_and_expires_like_any(broker: Broker) -> None:
    client = Client(broker)
    client.submit("late", timeout_ms=100, **AGAIN)
    client.submit("j", **AGAIN)
    client.send({"t": "cancel", "job": "j"})
    client.result("j", "CANCELLED", attempt=0)
    client.result("late", "DEADLINE_EXCEEDED", attempt=0)


def test_r_8_5_of_several_holders_the_greatest_lease_wins(broker: Broker) -> None:
    client = Client(broker)
    old, new, late = Worker(broker, "old"), Worker(broker, "new", slots=None), Worker(broker, "late", slots=None)
    client.submit("j", **AGAIN)
    client.hears_nothing_else()
    assert old.ready(1, held=[held(number=1)]) == [lease(1)]
    old.expect("attach", lease=lease(1))
    assert new.ready(1, held=[held(number=2, attempt=2)]) == [lease(2)]
    new.expect("attach", lease=lease(2))
    old.expect("cancel", lease=lease(1), cause="fenced", grace_ms=0)
    assert late.ready(1, held=[held(number=1)]) == []
    old.finish(attempt_of(1), "CANCELLED")
    old.acked(attempt_of(1))
    client.hears_nothing_else()
    new.finish(attempt_of(2, 2))
    client.result("j", attempt=2)


def test_r_8_5_what_is_over_or_another_content_is_dropped(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker, slots=1)
    for job in ("done", "gone"):
        client.submit(job, body=BODY)
        dispatch = worker.dispatch(job)
        worker.finish(dispatch)
        worker.acked(dispatch)
        client.result(job)
    client.send({"t": "ack", "jobs": ["gone"]})
    client.submit("other", body=b"other", known_epoch=OLD)
    client.hears_nothing_else()
    pages = [held("done", "done", 7), held("gone", number=8), held("other", number=9)]
    assert worker.ready(1, held=pages) == []


def test_r_8_6_a_job_that_only_a_worker_knows_is_joined_or_conflicts(broker: Broker) -> None:
    client, other, worker = Client(broker), Client(broker, "other"), Worker(broker, slots=None)
    assert worker.ready(1, held=[held()]) == [lease()]
    worker.expect("attach")
    client.submit("j", body=b"other", known_epoch=OLD)
    client.refused("ALREADY_EXISTS", "id_conflict", job="j")
    other.send({"t": "attach", "job": "j"})
    other.expect("accepted", job="j", state="running", attempt=1)
    worker.expect("attach")
    client.submit("j", timeout_ms=150, **AGAIN)
    other.refused("ABORTED", "superseded", job="j")
    worker.expect("attach")
    worker.expect("cancel", lease=lease(), cause="deadline")
    worker.finish(attempt_of())
    client.result("j", "DEADLINE_EXCEEDED")


def test_r_8_6_nobody_asks_for_it_and_it_is_cancelled() -> None:
    with Broker(orphan_ms=200) as broker:
        worker = Worker(broker, slots=None)
        assert worker.ready(1, held=[held()]) == [lease()]
        worker.expect("attach")
        worker.expect("cancel", lease=lease(), cause="cancel")
        worker.finish(attempt_of(), "CANCELLED")
        worker.acked(attempt_of())
        client = Client(broker)
        client.submit("j", **AGAIN)
        client.result("j", "CANCELLED")


def test_r_8_6_its_worker_is_lost_and_it_vanishes_so_that_the_id_is_new(broker: Broker) -> None:
    worker = Worker(broker, slots=None)
    assert worker.ready(1, held=[held()]) == [lease()]
    worker.expect("attach")
    worker.leave()
    client, next_worker = Client(broker), Worker(broker, "next")
    client.submit("fence")
    next_worker.finish(next_worker.dispatch("fence"))
    client.result("fence")
    client.submit("j", body=b"another content")
    assert next_worker.receive()[0]["t"] == "ack"
    next_worker.dispatch("j", attempt=1)


def test_r_8_8_an_adopted_attempt_counts_and_takes_a_slot() -> None:
    with Broker(adopt_ms=2_000) as broker:
        client, worker = Client(broker), Worker(broker, slots=None)
        client.submit("j", **AGAIN)
        client.submit("next")
        client.hears_nothing_else()
        assert worker.ready(1, held=[held(attempt=2)]) == [lease()]
        worker.expect("attach")
        worker.hears_nothing_else()
        worker.release(attempt_of(), started=True)
        # another worker may hold a later attempt of "j".
        worker.finish(worker.dispatch("next"))
        client.result("next")
        worker.expect("ack")
        worker.dispatch("j", attempt=3)


def test_r_8_8_the_result_names_the_attempt_that_ended_the_job(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", body=BODY)
    first = worker.dispatch("j")
    worker.leave()
    other = Worker(broker, "w2")
    second = other.dispatch("j", attempt=2)
    other.ready(0)
    other.release(second, started=False, cause="capacity")
    other.hears_nothing_else()
    again = Worker(broker, slots=None)
    entry = {name: first[name] for name in ("lease", "ns", "job", "attempt", "digest")}
    assert again.ready(1, held=[{**entry, "state": "running"}]) == [first["lease"]]
    again.expect("attach")
    again.finish(first)
    client.result("j", attempt=1)


def test_section_10_2_an_adopted_job_is_retried_with_its_inputs(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker, slots=None)
    assert worker.ready(1, held=[held(state="done")]) == [lease()]
    worker.expect("attach")
    worker.finish(attempt_of(), "UNKNOWN")
    worker.acked(attempt_of())
    client.submit("j", **AGAIN)
    client.result("j", "UNKNOWN")
    client.send({"t": "request", "rid": "1", "method": "jobs.retry"}, {"params": {"job": "j", "new_job": "j2"}})
    client.expect("reply", rid="1")
    assert worker.expect_with_body("dispatch", job="j2")[1] == msgpack.unpackb(BODY)


def test_r_8_9_attach_is_told_to_come_again_while_workers_may_still_report() -> None:
    with Broker(adopt_ms=1_000) as broker:
        client = Client(broker)
        client.send({"t": "attach", "job": "j"})
        client.refused("UNAVAILABLE", "adopting", job="j", retryable=True)
        end = time.monotonic() + PATIENCE_S
        while (error := client.ask({"t": "attach", "job": "j"}))["reason"] == "adopting":
            assert time.monotonic() < end
        assert (error["code"], error["reason"]) == ("NOT_FOUND", "unknown_job")


def test_section_8_a_worker_that_was_lost_and_comes_back_goes_on_if_its_job_still_waits(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    dispatch = worker.dispatch("j")
    worker.leave()
    again = Worker(broker, slots=None)
    entry = {name: dispatch[name] for name in ("lease", "ns", "job", "attempt", "digest")}
    assert again.ready(1, held=[{**entry, "state": "running"}]) == [dispatch["lease"]]
    again.expect("attach")
    again.finish(dispatch)
    client.result("j", attempt=1)
