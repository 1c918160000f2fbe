"""Circuits of programs (SPEC section 11.9): when they open, whom they refuse, and how they close."""

from __future__ import annotations

from typing import Any

import pytest

from dspymq.broker.core.jobs import REFUSED_AT_ONCE
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from tests.unit.broker.harness import CoreHarness, ready

FAILURES = 3
OPEN_MS = 1_000
A, B, W = b"a", b"b", b"w"
PROGRAM_ERROR: dict[str, Any] = {"code": "UNKNOWN", "reason": "program_error", "retryable": False}


@pytest.fixture
def broker() -> CoreHarness:
    broker = CoreHarness(circuit_failures=FAILURES, circuit_open_ms=OPEN_MS)
    broker.join_client(A, "a")
    broker.join_client(B, "b")
    broker.join_worker(W, slots=2)
    return broker


def run(broker: CoreHarness, job: str, *, peer: bytes = A, body: bytes | None = None, **end: Any) -> c.Result:
    """Submit, run it to this end (a failure of the program's own by default), and give what its client hears."""
    broker.submit(peer, job, body=job.encode() if body is None else body)
    for dispatch in broker.take(W, w.Dispatch):
        broker.finish(W, dispatch, **(end or PROGRAM_ERROR))
    return broker.one(peer, c.Result)


def opened(broker: CoreHarness) -> None:
    for n in range(FAILURES):
        assert run(broker, f"fails-{n}").reason == "program_error"


def rows(broker: CoreHarness) -> list[dict[str, Any]]:
    return broker.core.machine.circuits.rows()


def test_it_opens_and_what_is_refused_never_reaches_a_worker(broker: CoreHarness) -> None:
    opened(broker)
    result = run(broker, "refused")
    assert (result.code, result.reason, result.retryable) == ("UNAVAILABLE", "circuit_open", True)
    assert result.retry_after_ms == OPEN_MS
    assert result.attempt == 0
    (row,) = rows(broker)
    assert (row["program"], row["revision"], row["state"], row["failures"]) == ("qa", "r1", "open", FAILURES)


def test_one_poison_job_never_opens_it_for_all(broker: CoreHarness) -> None:
    for n in range(5 * FAILURES):
        assert run(broker, f"again-{n}", body=b"the same").reason == "program_error"
    assert rows(broker) == []


@pytest.mark.parametrize(
    "end",
    [
        {"code": "UNAVAILABLE", "reason": "lm_unavailable", "retryable": True},
        {"code": "INTERNAL", "reason": "lm_output_unparsable", "retryable": True},
        {"code": "INVALID_ARGUMENT", "reason": "invalid_inputs"},
        {"code": "RESOURCE_EXHAUSTED", "reason": "lm_rate_limited", "retryable": True},
    ],
)
def test_what_is_not_the_programs_own_failure_does_not_count(broker: CoreHarness, end: dict[str, Any]) -> None:
    for n in range(2 * FAILURES):
        run(broker, f"j{n}", **end)
    assert rows(broker) == []


def test_a_success_between_failures_begins_the_count_anew(broker: CoreHarness) -> None:
    for n in range(3 * FAILURES):
        run(broker, f"bad-{n}")
        if n % (FAILURES - 1) == 0:
            run(broker, f"good-{n}", code="OK")
    assert rows(broker) == []


def test_a_flow_whose_last_job_ended_well_is_let_through(broker: CoreHarness) -> None:
    run(broker, "b-0", peer=B, code="OK")
    opened(broker)
    assert run(broker, "b-1", peer=B, code="OK").code == "OK"
    assert run(broker, "a-refused").reason == "circuit_open", "what ends well for one says nothing of the other"
    assert run(broker, "b-2", peer=B).reason == "program_error"
    assert run(broker, "b-3", peer=B).reason == "circuit_open"


def test_one_job_is_the_trial_and_its_success_closes(broker: CoreHarness) -> None:
    opened(broker)
    broker.wait(OPEN_MS, heard=(A, B, W))
    broker.submit(A, "trial", body=b"t")
    broker.submit(A, "beside", body=b"s")
    refused = broker.one(A, c.Result)
    assert (refused.job, refused.reason) == ("beside", "circuit_open")
    (dispatch,) = broker.take(W, w.Dispatch)
    broker.finish(W, dispatch)
    assert broker.one(A, c.Result).code == "OK"
    assert rows(broker) == []
    assert run(broker, "next", code="OK").code == "OK"


def test_a_trial_that_fails_opens_it_for_twice_as_long_up_to_a_minute(broker: CoreHarness) -> None:
    opened(broker)
    expected_ms = OPEN_MS
    for n in range(8):
        broker.wait(expected_ms, heard=(A, B, W))
        assert run(broker, f"trial-{n}").reason == "program_error"
        expected_ms = min(2 * expected_ms, 60_000)
        assert run(broker, f"refused-{n}").retry_after_ms == expected_ms


def test_a_trial_that_is_lost_or_says_nothing_leaves_the_place_to_another(broker: CoreHarness) -> None:
    opened(broker)
    broker.wait(OPEN_MS, heard=(A, B, W))
    broker.submit(A, "trial", body=b"t")
    (dispatch,) = broker.take(W, w.Dispatch)
    broker.client(A, c.Cancel(job="trial"))
    broker.finish(W, dispatch, code="CANCELLED", reason="cancelled")
    assert broker.one(A, c.Result).code == "CANCELLED"
    assert run(broker, "another", code="OK").code == "OK"
    assert rows(broker) == []


def test_what_was_under_way_when_it_opened_does_not_prolong_it(broker: CoreHarness) -> None:
    broker.worker(W, ready("w1", 10))
    for n in range(FAILURES + 4):
        broker.submit(A, f"j{n}", body=b"%d" % n)
    for dispatch in broker.take(W, w.Dispatch):
        broker.finish(W, dispatch, **PROGRAM_ERROR)
    assert len(broker.take(A, c.Result)) == FAILURES + 4
    assert run(broker, "refused").retry_after_ms == OPEN_MS


def test_queued_jobs_fail_fast_a_bounded_number_at_a_time(broker: CoreHarness) -> None:
    for n in range(3_000):
        broker.submit(A, f"j{n}", body=b"%d" % n)
    dispatched = broker.take(W, w.Dispatch)
    ended = 0
    while ended < FAILURES:
        for dispatch in dispatched:
            broker.finish(W, dispatch, **PROGRAM_ERROR)
            ended += 1
        dispatched = broker.take(W, w.Dispatch)
    assert not dispatched
    assert REFUSED_AT_ONCE <= len(broker.take(A, c.Result)) < 3_000, "not all within one event"
    broker.wait(200, step_ms=20, heard=(A, B, W))
    assert broker.core.scheduler.queued == 0
    assert broker.core.store.live == 0


def test_poison_counts(broker: CoreHarness) -> None:
    for n in range(FAILURES):
        broker.submit(A, f"p{n}", body=b"%d" % n)
        for _ in range(2):
            (dispatch,) = broker.take(W, w.Dispatch)
            broker.worker(W, w.Started(lease=dispatch.lease, attempt=dispatch.attempt, revision="r1", worker="w1"))
            broker.worker(W, w.Released(lease=dispatch.lease, started=True, cause="crash", blame="self"))
        assert broker.one(A, c.Result).reason == "poison"
    assert run(broker, "refused").reason == "circuit_open"


def test_a_new_revision_begins_anew(broker: CoreHarness) -> None:
    opened(broker)
    broker.worker(W, ready("w1", 2, revision="r2"))
    assert run(broker, "new", code="OK").code == "OK"


def test_it_can_be_turned_off() -> None:
    broker = CoreHarness(circuit_failures=0)
    broker.join_client(A, "a")
    broker.join_worker(W, slots=2)
    for n in range(50):
        assert run(broker, f"j{n}").reason == "program_error"


def test_inline_programs_are_each_another_one(broker: CoreHarness) -> None:
    broker.worker(W, ready("w1", 2, programs=("_inline",)))
    for n in range(2 * FAILURES):
        broker.submit(A, f"j{n}", "_inline", body=b"%d" % n)
        (dispatch,) = broker.take(W, w.Dispatch)
        broker.finish(W, dispatch, **PROGRAM_ERROR)
    assert rows(broker) == []
