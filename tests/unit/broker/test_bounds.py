"""Nothing that peers can bring about grows the broker without a bound."""

from __future__ import annotations

from dspymq.broker.core.definitions import Definition
from dspymq.broker.core.store import KEPT_BYTES, digest_of
from dspymq.broker.core.workers import MAX_REMEMBERED, MAX_UNSETTLED_BYTES, Catalog, Worker
from dspymq.protocol import Limits, lease_id
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error, Reply, Request
from tests.unit.broker.harness import CoreHarness, ready

C, W, W2 = b"client", b"worker", b"worker2"
OLD_EPOCH = "018f0000-0000-7000-8000-000000000000"


def ask(h: CoreHarness, method: str, **params: object) -> Error | Reply:
    h.client(C, Request(rid="r", method=method), bodies.encode(params=params))
    found = [*h.take(C, Error), *h.take(C, Reply)]
    assert len(found) == 1
    return found[0]


def test_results_without_a_body_are_not_kept_without_a_bound() -> None:
    h = CoreHarness(retain_bytes=100 * KEPT_BYTES)
    h.join_client(C)
    h.join_worker(W)
    for n in range(500):
        h.submit(C, f"j{n}")
        h.finish(W, h.one(W, w.Dispatch), body=b"")
    assert len(h.core.store.done) == 100
    assert h.core.store.done_bytes <= 100 * KEPT_BYTES
    assert len(h.core.store.tombstones) == 400


def test_long_details_and_traces_count() -> None:
    h = CoreHarness(retain_bytes=1_000_000)
    h.join_client(C)
    h.join_worker(W)
    for n in range(100):
        h.submit(C, f"j{n}", trace={"traceparent": "t" * 20_000})
        h.finish(W, h.one(W, w.Dispatch), "UNKNOWN", b"", reason="program_error", details={"why": "d" * 20_000})
    assert len(h.core.store.done) < 25


def test_jobs_under_way_count_against_the_bound_on_bodies() -> None:
    """A worker with slots for everything does not lift it."""
    h = CoreHarness(limits=Limits(max_queued_bytes=10_000))
    h.join_client(C)
    h.join_worker(W, slots=2**53 - 1)
    for n in range(15):
        h.submit(C, f"j{n}", body=b"x" * 1_000)
    assert len(h.take(W, w.Dispatch)) == 10
    errors = h.take(C, Error)
    assert [error.reason for error in errors] == ["queue_full"] * 5


def test_what_is_counted_is_counted_down_again() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W, slots=3)
    for n in range(20):
        h.submit(C, f"j{n}", body=b"x" * 100, trace={"a": "b"})
    dispatches = h.take(W, w.Dispatch)
    h.finish(W, dispatches[0])
    h.worker(W, w.Released(lease=dispatches[1].lease, started=False, cause="capacity"))
    h.client(C, c.Cancel(job=dispatches[2].job))
    for n in range(20):
        h.client(C, c.Cancel(job=f"j{n}"))
    h.worker(W, Bye())
    h.wait(10_000)
    assert h.core.store.live == 0
    assert h.core.store.live_bytes == 0
    assert not h.core.fleet.workers
    h.client(C, c.Ack(jobs=[f"j{n}" for n in range(20)]))
    assert h.core.store.done_bytes == 0


def test_an_adopted_job_counts_its_inputs_once_they_are_known() -> None:
    submit = c.Submit(job="j1", program="qa", timeout_ms=60_000, known_epoch=OLD_EPOCH)
    digest = digest_of(submit, b"inputs").hex()
    lease = lease_id(OLD_EPOCH, 1)
    held = w.Held(lease=lease, ns="anonymous", job="j1", attempt=1, digest=digest, state="running", left_ms=50_000)
    h = CoreHarness()
    h.join_worker(W, held=[held])
    assert (h.core.store.live, h.core.store.live_bytes) == (1, 0)
    h.join_client(C)
    h.client(C, submit, b"inputs")
    assert h.core.store.live_bytes == 6
    h.worker(W, w.Result(lease=lease, attempt=1, code="OK", revision="r1"), b"out")
    assert h.core.store.live_bytes == 0
    h.client(C, c.Ack(jobs=["j1"]))
    assert h.core.store.done_bytes == 0


def test_held_leases_that_nobody_knows_are_adopted_within_the_bound_on_jobs() -> None:
    h = CoreHarness(limits=Limits(max_jobs=50))
    pages = [
        w.Held(lease=lease_id(OLD_EPOCH, n), ns="anonymous", job=f"h{n}", attempt=1, digest="ab" * 16, state="running")
        for n in range(200)
    ]
    h.join_worker(W, slots=0, held=pages)
    assert len(h.one(W, w.Synced).keep) == 50
    assert h.core.store.live == 50


def test_a_worker_is_not_sent_more_than_it_settles() -> None:
    h = CoreHarness(limits=Limits(max_queued_bytes=4 * MAX_UNSETTLED_BYTES))
    h.join_client(C)
    h.join_worker(W, slots=1_000)
    body = bytes(16 * 1024 * 1024)
    for n in range(40):
        h.submit(C, f"j{n}", body=body)
    dispatches = h.take(W, w.Dispatch)
    assert len(dispatches) == MAX_UNSETTLED_BYTES // len(body) + 1
    h.finish(W, dispatches[0])
    h.finish(W, dispatches[1])
    assert len(h.take(W, w.Dispatch)) == 2


def test_jobs_retry_is_bounded_and_makes_no_odd_job() -> None:
    h = CoreHarness(limits=Limits(max_jobs_per_flow=3))
    h.join_client(C)
    h.join_worker(W)
    h.submit(C, "j1", body=b"in")
    h.finish(W, h.one(W, w.Dispatch))
    for bad in ("x" * 65, "caf\u00e9", "a\nb", ""):
        answer = ask(h, "jobs.retry", job="j1", new_job=bad)
        assert isinstance(answer, Error)
        assert answer.reason == "invalid_params"
    for n in range(3):
        assert isinstance(ask(h, "jobs.retry", job="j1", new_job=f"again{n}"), Reply)
    full = ask(h, "jobs.retry", job="j1", new_job="again3")
    assert isinstance(full, Error)
    assert full.reason == "queue_full"


def test_jobs_retry_refuses_a_job_whose_inputs_an_earlier_broker_had() -> None:
    held = w.Held(
        lease=lease_id(OLD_EPOCH, 1),
        ns="anonymous",
        job="j1",
        attempt=1,
        digest="ab" * 16,
        state="done",
        left_ms=50_000,
    )
    h = CoreHarness()
    h.join_worker(W, held=[held])
    h.worker(W, w.Result(lease=held.lease, attempt=1, code="OK", revision="r1"), b"out")
    h.join_client(C)
    answer = ask(h, "jobs.retry", job="j1")
    assert isinstance(answer, Error)
    assert answer.reason == "unknown_job"
    assert h.take(W, w.Dispatch) == []


def test_the_catalog_forgets_the_oldest_that_nobody_offers() -> None:
    catalog, worker = Catalog(), Worker("w")
    for n in range(5 * MAX_REMEMBERED):
        catalog.note(f"p{n}", "r1")
        worker.programs = {"p0": {"r1"}, f"p{n}": {"r1"}}
        catalog.prune([worker], [Definition("p2", "r1", b"", {})])
    assert "p0" in catalog, "it is offered"
    assert "p2" in catalog, "it is defined"
    assert f"p{5 * MAX_REMEMBERED - 1}" in catalog
    assert "p1" not in catalog
    assert len(catalog.programs) <= 3 * MAX_REMEMBERED


def test_revisions_are_forgotten_alike() -> None:
    h = CoreHarness()
    h.join_worker(W)
    for n in range(3 * MAX_REMEMBERED):
        h.worker(W, ready("w1", 1, revision=f"r{n}"))
    assert (
        h.core.fleet.catalog.newest("qa", {f"r{n}" for n in range(3 * MAX_REMEMBERED)}) == f"r{3 * MAX_REMEMBERED - 1}"
    )
    assert h.core.fleet.catalog.newest("qa", {"r1"}) is None


def test_codes_that_are_none_do_not_grow_the_counts() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W)
    for n in range(30):
        h.submit(C, f"j{n}")
        h.finish(W, h.one(W, w.Dispatch), code=f"CODE_{n}")
    assert h.core.context.counts["done.other"] == 30
    assert not [key for key in h.core.context.counts if "CODE" in key]


def test_thousands_of_needs_do_not_make_each_new_one_dearer() -> None:
    """Counted, not timed: how often all needs are gone through."""
    h = CoreHarness()
    h.join_client(C)
    scans = 0
    drop = h.core.scheduler._drop_idle_needs

    def counting() -> None:
        nonlocal scans
        scans += 1
        drop()

    h.core.scheduler._drop_idle_needs = counting  # type: ignore[method-assign]
    for n in range(5_000):
        h.submit(C, f"j{n}", lane=f"lane-{n}")
    assert scans <= 4


def test_a_job_cancelled_for_its_client_that_is_gone_says_so() -> None:
    h = CoreHarness(orphan_ms=1_000)
    h.join_client(C)
    h.join_worker(W)
    h.submit(C, "j1", body=b"in")
    dispatch = h.one(W, w.Dispatch)
    h.wait(32_500, heard=(W,))
    h.finish(W, dispatch, "CANCELLED", b"", reason="cancelled", message="the job was cancelled")
    h.join_client(b"again")
    h.submit(b"again", "j1", body=b"in")
    result = h.one(b"again", c.Result)
    assert (result.code, result.reason) == ("CANCELLED", "client_gone")


def test_a_result_that_was_earlier_than_the_cancel_stands() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W)
    h.submit(C, "j1")
    dispatch = h.one(W, w.Dispatch)
    h.client(C, c.Cancel(job="j1"))
    h.finish(W, dispatch, body=b"out")
    assert h.one(C, c.Result).code == "OK"


def test_a_worker_that_does_not_read_loses_its_session_and_not_its_jobs() -> None:
    from dspymq.broker.core import events as ev

    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W)
    h.submit(C, "j1")
    dispatch = h.one(W, w.Dispatch)
    h.event(ev.SlowWorker(W))
    assert h.one(W, Bye).reason == "slow_consumer"
    held = w.Held(lease=dispatch.lease, ns="anonymous", job="j1", attempt=1, digest=dispatch.digest, state="running")
    h.join_worker(W2, "w1", held=[held])
    assert h.one(W2, w.Synced).keep == [dispatch.lease]
    h.finish(W2, dispatch)
    assert h.one(C, c.Result).attempt == 1
