"""Who is next (SPEC section 11): flows, priority, lanes; and that queued jobs cost nothing."""

from __future__ import annotations

from dspymq.broker.core.timers import Timers
from dspymq.protocol import Limits
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from tests.unit.broker.harness import CoreHarness, ready

W = b"worker"


def drain(h: CoreHarness, jobs: int) -> list[str]:
    """Answer dispatches one by one; the order in which jobs ran."""
    order = []
    for _ in range(jobs):
        dispatch = h.take(W, w.Dispatch)[0] if not order else h.one(W, w.Dispatch)
        order.append(dispatch.job)
        h.finish(W, dispatch)
    return order


def test_the_flow_with_the_fewest_slots_is_next_whatever_its_priority() -> None:
    h = CoreHarness()
    h.join_worker(W, slots=0)
    h.join_client(b"flood", "flood")
    h.join_client(b"small", "small")
    for n in range(50):
        h.submit(b"flood", f"flood{n}", priority=9)
    for n in range(3):
        h.submit(b"small", f"small{n}", priority=0)
    h.worker(W, ready("w1", 1))
    order = drain(h, 10)
    assert {"small0", "small1", "small2"} <= set(order[:6])


def test_slots_are_shared_out_evenly() -> None:
    h = CoreHarness()
    h.join_worker(W, slots=0)
    for name in ("a", "b", "c"):
        h.join_client(name.encode(), name)
        for n in range(10):
            h.submit(name.encode(), f"{name}{n}")
    h.worker(W, ready("w1", 6))
    ran = [dispatch.job[0] for dispatch in h.take(W, w.Dispatch)]
    assert sorted(ran) == ["a", "a", "b", "b", "c", "c"]


def test_priority_orders_the_jobs_of_one_flow_then_age() -> None:
    h = CoreHarness()
    h.join_worker(W, slots=0)
    h.join_client(b"c")
    for job, priority in (("low", 1), ("first", 9), ("second", 9), ("middle", 4)):
        h.submit(b"c", job, priority=priority)
    h.worker(W, ready("w1", 1))
    assert drain(h, 4) == ["first", "second", "middle", "low"]


def test_priority_holds_across_programs_of_one_flow() -> None:
    h = CoreHarness()
    h.join_worker(W, slots=0, programs=("p", "q"))
    h.join_client(b"c")
    h.submit(b"c", "old", "p", priority=4)
    h.submit(b"c", "urgent", "q", priority=8)
    h.worker(W, ready("w1", 1, ("p", "q")))
    assert drain(h, 2) == ["urgent", "old"]


def test_the_least_loaded_worker_is_taken_and_ties_rotate() -> None:
    h = CoreHarness()
    h.join_client(b"c")
    h.join_worker(b"w1", "w1", slots=2)
    h.join_worker(b"w2", "w2", slots=2)
    for n in range(4):
        h.submit(b"c", f"j{n}")
    assert len(h.take(b"w1", w.Dispatch)) == 2
    assert len(h.take(b"w2", w.Dispatch)) == 2


def test_a_lane_has_its_own_slots() -> None:
    h = CoreHarness()
    h.join_client(b"c")
    h.join_worker(W)
    h.worker(W, w.Ready(worker="w1", slots={"default": 1, "batch": 1}, programs=[w.Offer(name="qa", revision="r1")]))
    h.submit(b"c", "long", lane="batch")
    h.submit(b"c", "longer", lane="batch")
    h.submit(b"c", "short")
    assert [d.job for d in h.take(W, w.Dispatch)] == ["long", "short"]


def test_jobs_that_nobody_can_run_do_not_stand_in_the_way() -> None:
    h = CoreHarness()
    h.join_client(b"c")
    h.join_worker(W, programs=("qa", "gone"))
    h.worker(W, ready("w1", 0, ("qa",)))
    for n in range(100):
        h.submit(b"c", f"stuck{n}", "gone", priority=9)
    h.submit(b"c", "runs")
    h.worker(W, ready("w1", 1, ("qa",)))
    assert h.one(W, w.Dispatch).job == "runs"


def test_cancelling_queued_jobs_leaves_nothing_behind() -> None:
    h = CoreHarness(retain_ms=1_000)
    h.join_client(b"c")
    for n in range(500):
        h.submit(b"c", f"j{n}")
        h.client(b"c", c.Cancel(job=f"j{n}"))
    h.wait(2_000, heard=(b"c",))
    assert not h.core.store.jobs
    assert not h.core.scheduler.flows
    assert len(h.core.machine.timers) == 0
    assert all(not queue.count and len(queue._heap) < 64 for queue in h.core.scheduler.needs.values())


def test_queued_jobs_are_not_scanned() -> None:
    """Counted, not timed: a dispatch looks at no queued job but the one it takes."""
    h = CoreHarness(limits=Limits(max_jobs=100_000, max_jobs_per_flow=100_000))
    h.join_client(b"flood", "flood")
    h.join_client(b"live", "live")
    h.join_worker(W, programs=("qa", "other"))
    h.worker(W, ready("w1", 1, ("qa",)))
    for n in range(5_000):
        h.submit(b"flood", f"f{n}", "other")
    picked: list[object] = []
    original = h.core.scheduler.pick

    def counting(worker: object) -> object:
        job = original(worker)  # type: ignore[arg-type]
        picked.append(job)
        return job

    h.core.scheduler.pick = counting  # type: ignore[assignment,method-assign]
    for n in range(50):
        h.submit(b"live", f"live{n}", "qa")
    drain(h, 50)
    assert len([job for job in picked if job is not None]) == 49
    assert len(picked) <= 100


def test_timers_fire_in_order_never_early_and_cancelled_ones_cost_nothing() -> None:
    timers: Timers[str] = Timers()
    timers.set("late", 1_000)
    timers.set("early", 15)
    timers.set("moved", 20)
    timers.set("moved", 500)
    timers.set("cancelled", 30)
    timers.cancel("cancelled")
    assert len(timers) == 3
    assert list(timers.due(14)) == []
    assert list(timers.due(25)) == ["early"]
    assert timers.next_ms() == 500
    assert list(timers.due(2_000)) == ["moved", "late"]
    assert len(timers) == 0
    assert timers.next_ms() is None


def test_a_timer_cancelled_by_another_that_fired_does_not_fire() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 10)
    timers.set("b", 10)
    fired = []
    for key in timers.due(10):
        fired.append(key)
        timers.cancel("b")
    assert fired == ["a"]
