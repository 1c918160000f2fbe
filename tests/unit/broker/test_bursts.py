"""What becomes due for very many jobs in one moment is done bit by bit, so that others are served meanwhile."""

import pytest

from dspymq.broker.core import client_side
from dspymq.broker.core.jobs import FIRED_AT_ONCE
from dspymq.broker.core.timers import Timers
from dspymq.protocol import client_messages as c
from dspymq.protocol.messages import Bye, Error
from tests.unit.broker.harness import CoreHarness

MANY = 3 * FIRED_AT_ONCE + 1


def flooded(**settings: int) -> CoreHarness:
    harness = CoreHarness(**settings)
    harness.join_client(b"flood")
    for n in range(MANY):
        harness.submit(b"flood", f"job-{n}", "nobody", timeout_ms=1_000)
    return harness


def live(harness: CoreHarness) -> int:
    return harness.core.store.live


def test_deadlines_of_one_moment_end_bit_by_bit_in_their_order() -> None:
    harness = flooded()
    harness.wait(1_000)
    for ticks in (1, 2, 3):
        assert live(harness) <= MANY - ticks * FIRED_AT_ONCE
        assert live(harness) > 0
        harness.wait(20)
    assert live(harness) == 0
    ended = [result.job for result in harness.take(b"flood", c.Result)]
    assert ended == [f"job-{n}" for n in range(MANY)]


def test_the_jobs_of_a_client_that_says_bye_are_cancelled_bit_by_bit() -> None:
    """As many as one turn takes at once, the others in those that follow, without waiting for orphan_ms."""
    harness = flooded(orphan_ms=60_000)
    harness.client(b"flood", Bye())
    assert live(harness) == MANY - FIRED_AT_ONCE
    for _ in range(3):
        harness.wait(20)
    assert live(harness) == 0
    assert harness.core.context.counts["done.CANCELLED"] == MANY


def test_who_attaches_to_a_job_in_time_keeps_it() -> None:
    harness = flooded()
    harness.client(b"flood", Bye())
    harness.join_client(b"other")
    harness.client(b"other", c.Attach(job=f"job-{MANY - 1}"))
    for _ in range(4):
        harness.wait(20)
    assert live(harness) == 1


def test_timers_that_were_not_read_to_their_end_go_on_there() -> None:
    timers: Timers[int] = Timers()
    for n in range(6):
        timers.set(n, 10)
    due = timers.due(10)
    assert [next(due), next(due)] == [0, 1]
    assert len(timers) == 4
    assert timers.next_ms() == 10
    timers.cancel(3)
    timers.set(4, 500)
    timers.set(6, 10)
    assert list(timers.due(10)) == [2, 5, 6]
    assert timers.next_ms() == 500
    assert list(timers.due(500)) == [4]
    assert timers.next_ms() is None


def test_a_body_that_is_refused_for_want_of_room_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest costs more than all else; a duplicate, or a tombstone, still goes before the bounds."""
    harness = CoreHarness()
    harness.join_client(b"one")
    harness.submit(b"one", "taken", body=b"x")
    limits = harness.core.settings.limits
    harness.core.store.live_bytes = limits.max_queued_bytes
    with monkeypatch.context() as patched:
        patched.delattr(client_side, "digest_of")
        harness.submit(b"one", "more", body=b"x")
    assert harness.one(b"one", Error).reason == "queue_full"
    harness.submit(b"one", "taken", body=b"x", want=["accepted"])
    assert harness.one(b"one", c.Accepted).duplicate
    harness.submit(b"one", "taken", body=b"other")
    assert harness.one(b"one", Error).reason == "id_conflict"
