"""The gate of an LM profile, as lists of events: throttled, paused, open, half-open, and back."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from dspymq.worker.gate_messages import Report
from dspymq.worker.supervisor.lm_gate import CALM_MS, MAX_PAUSE_MS, LMGate
from dspymq.worker.supervisor.lm_gate_limit import Limit
from dspymq.worker.supervisor.lm_gate_steps import GateSettings, Grant, Note, Refuse, State, Step, Tell

S = TypeVar("S", Grant, Refuse, Tell, Note)


class Rig:
    """A gate, its time, and what its last event made it do."""

    def __init__(self, executors: int = 1, **settings: Any) -> None:
        self.gate = LMGate("default", GateSettings(**settings), lambda: 0.0)
        self.now_ms = 1_000
        self.steps: list[Step] = []
        self.serials: dict[str, int] = {}
        self.rids = 0
        for number in range(1, executors + 1):
            self.saw(self.gate.joined(f"e{number}", self.now_ms))

    def saw(self, steps: list[Step]) -> list[Step]:
        self.steps = steps
        return steps

    def all(self, kind: type[S]) -> list[S]:
        return [step for step in self.steps if isinstance(step, kind)]

    def ask(self, executor: str = "e1", wait_ms: int = 30_000, left_ms: int = 60_000, **more: Any) -> str:
        self.rids += 1
        rid = f"r{self.rids}"
        self.saw(self.gate.ask(executor, rid, self.now_ms, wait_ms=wait_ms, left_ms=left_ms, **more))
        return rid

    def granted(self) -> list[str]:
        return [step.rid for step in self.all(Grant)]

    def report(
        self, outcome: Any, *, executor: str = "e1", free: int = 0, serial: int | None = None, **more: Any
    ) -> None:
        known = self.gate._serial if serial is None else serial
        report = Report(profile="default", outcome=outcome, serial=known, free=free, why=f"a {outcome}", **more)
        self.saw(self.gate.report(executor, report, self.now_ms))

    def wait(self, ms: int) -> None:
        """Time passes; what the gate wants to do meanwhile it does."""
        end_ms = self.now_ms + ms
        steps: list[Step] = []
        while (due_ms := self.gate.next_ms()) is not None and due_ms <= end_ms:
            self.now_ms = max(self.now_ms, due_ms)
            steps += self.gate.look(self.now_ms)
        self.now_ms = end_ms
        self.steps = steps + self.gate.look(end_ms)


def modes(rig: Rig) -> dict[str, str]:
    return {step.executor: step.mode for step in rig.all(Tell)}


# -- free -------------------------------------------------------------------------------------------------------------


def test_a_failure_has_the_next_success_reported_and_that_ends_the_streak() -> None:
    rig = Rig(executors=2)
    rig.report("failed")
    assert modes(rig) == {"e1": "watch", "e2": "watch"}
    rig.report("failed")
    assert modes(rig) == {}, "both watch already"
    rig.report("ok", executor="e2")
    for _ in range(4):
        rig.report("failed")
    assert rig.gate.state is State.FREE
    rig.report("failed")
    assert rig.gate.state is State.OPEN


def test_what_is_a_requests_own_fault_neither_counts_nor_excuses() -> None:
    rig = Rig()
    for outcome in ("failed", "alive", "failed", "neutral", "failed", "alive", "failed", "neutral"):
        rig.report(outcome)
    assert rig.gate.state is State.FREE
    rig.report("failed")
    assert rig.gate.state is State.OPEN


def test_with_circuit_failures_0_it_never_opens() -> None:
    rig = Rig(circuit_failures=0)
    for _ in range(50):
        rig.report("failed")
        rig.report("throttled", retry_after_ms=10)
        rig.wait(20)
    assert rig.gate.state is State.THROTTLED


# -- throttled --------------------------------------------------------------------------------------------------------


def throttled(rig: Rig, open_calls: int, **more: Any) -> None:
    """The first 429, while so many calls are open at `e1`."""
    rig.report("throttled", free=open_calls - 1, **more)


def test_the_first_throttle_leaves_half_of_what_was_open_in_the_whole_pool() -> None:
    rig = Rig(executors=2)
    old = rig.gate._serial
    throttled(rig, 16)
    assert modes(rig) == {"e1": "ask", "e2": "ask"}
    rig.report("census", executor="e1", free=15, serial=old)
    rig.report("census", executor="e2", free=16, serial=old)
    for left in range(14, 3, -1):
        rig.report("throttled", free=left, serial=old)
    rid = rig.ask()
    assert rig.granted() == [], "20 are open, half of 32 may be"
    for left in range(15, 11, -1):
        rig.report("ok", executor="e2", free=left, serial=old)
    assert rig.granted() == []
    rig.report("ok", executor="e2", free=11, serial=old)
    assert rig.granted() == [rid]


def test_retry_after_lets_nobody_out_before_and_the_first_in_the_row_then() -> None:
    rig = Rig()
    throttled(rig, 4, retry_after_ms=2_000)
    rig.report("neutral", free=0, serial=0)
    rids = [rig.ask(), rig.ask(), rig.ask()]
    rig.wait(1_999)
    assert rig.all(Grant) == []
    rig.wait(1)
    assert rig.granted() == rids[:2]


def test_a_call_that_was_throttled_keeps_its_place_in_the_row() -> None:
    rig = Rig()
    throttled(rig, 1)
    first = rig.ask()
    ticket = rig.all(Grant)[0].ticket
    second = rig.ask()
    rig.report("throttled", grant=first, retry_after_ms=100)
    again = rig.ask(ticket=ticket, retry=True)
    rig.wait(100)
    assert rig.granted() == [again]
    rig.report("ok", grant=again)
    assert rig.granted() == [second]


@pytest.mark.parametrize(("wait_ms", "left_ms"), [(500, 60_000), (30_000, 500)])
def test_a_pause_longer_than_a_call_may_wait_refuses_it_at_once(wait_ms: int, left_ms: int) -> None:
    rig = Rig()
    throttled(rig, 1, retry_after_ms=2_000)
    rig.ask(wait_ms=wait_ms, left_ms=left_ms)
    assert [(step.reason, step.retry_after_ms) for step in rig.all(Refuse)] == [("lm_rate_limited", 2_000)]


def test_a_pause_that_begins_refuses_those_who_cannot_wait_for_its_end() -> None:
    rig = Rig()
    throttled(rig, 1, retry_after_ms=100)
    short, long = rig.ask(wait_ms=1_000), rig.ask(wait_ms=9_000)
    rig.report("throttled", retry_after_ms=5_000, serial=0)
    assert [step.rid for step in rig.all(Refuse)] == [short]
    rig.wait(5_000)
    assert rig.granted() == [long]


def test_waiting_ends_in_time_also_without_a_pause() -> None:
    rig = Rig()
    throttled(rig, 2)
    rig.ask(wait_ms=700)
    rig.wait(699)
    assert rig.all(Refuse) == []
    rig.wait(1)
    assert [step.reason for step in rig.all(Refuse)] == ["lm_rate_limited"]


def test_one_round_of_calls_cuts_once() -> None:
    rig = Rig()
    throttled(rig, 16)
    assert rig.gate._limit is not None
    assert rig.gate._limit.value == 8
    rig.report("census", free=0, serial=0)
    rids = [rig.ask() for _ in range(8)]
    serial = rig.all(Grant)[0].serial
    for rid in rids:
        rig.report("throttled", grant=rid, serial=serial)
    assert rig.gate._limit.value == 4


def test_without_a_time_the_pauses_grow_while_nothing_succeeds() -> None:
    rig = Rig(circuit_failures=0)
    throttled(rig, 1)
    pauses = []
    for _ in range(8):
        rid = rig.ask()
        began_ms = rig.now_ms
        if rid not in rig.granted():
            rig.wait(rig.gate._paused_until_ms - rig.now_ms)
        pauses.append(rig.now_ms - began_ms)
        assert rig.granted() == [rid]
        rig.report("throttled", grant=rid)
    assert pauses == [0, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]


def test_it_is_free_again_when_nobody_has_waited_for_a_while() -> None:
    rig = Rig(executors=2)
    throttled(rig, 2)
    rig.report("census", free=0, serial=0)
    rig.wait(CALM_MS - 1)
    assert rig.gate.state is State.THROTTLED
    rig.ask(executor="e2")
    rig.report("ok", grant=rig.granted()[0], executor="e2")
    rig.wait(1)
    assert rig.gate.state is State.FREE
    assert modes(rig) == {"e1": "free", "e2": "free"}
    rig.ask()
    assert [step.counted for step in rig.all(Grant)] == [False]


def test_it_stays_throttled_while_calls_wait() -> None:
    rig = Rig()
    throttled(rig, 2)
    rig.report("census", free=0, serial=0)
    running = [rig.ask()]
    for _ in range(100):
        rig.ask(wait_ms=10**9)
    for _ in range(30):
        rig.wait(CALM_MS // 10)
        rig.report("ok", grant=running.pop(0))
        running += rig.granted()
    assert rig.gate.state is State.THROTTLED


def test_an_executor_that_stands_still_holds_up_nobody() -> None:
    rig = Rig(executors=2)
    throttled(rig, 2)
    rig.report("census", free=0, serial=0)
    held = rig.ask()
    waiting = rig.ask("e2")
    assert rig.granted() == []
    rig.saw(rig.gate.stalled("e1", rig.now_ms, stalled=True))
    assert rig.granted() == [waiting]
    rig.saw(rig.gate.stalled("e1", rig.now_ms, stalled=False))
    next_one = rig.ask("e2")
    rig.report("ok", executor="e2", grant=waiting)
    assert rig.granted() == [next_one], "a success at the limit raised it"
    rig.report("ok", grant=held)


def test_a_provider_that_names_a_distant_time_is_asked_again_before() -> None:
    rig = Rig()
    throttled(rig, 1, retry_after_ms=86_400_000)
    rig.ask()
    assert [step.retry_after_ms for step in rig.all(Refuse)] == [MAX_PAUSE_MS]


def test_without_adaptation_a_pause_is_all() -> None:
    rig = Rig(adaptive=False)
    throttled(rig, 8, retry_after_ms=1_000)
    rids = [rig.ask() for _ in range(20)]
    rig.wait(1_000)
    assert rig.granted() == rids


def simulated(rig: Rig, most: int, jobs: int, workers: int, run_ms: int = 100) -> tuple[int, list[int]]:
    """`workers` callers, one call after the other, at a provider that takes `most` at once: wasted calls, limits."""
    wasted, limits = 0, []
    throttled(rig, workers)
    rig.report("census", free=0, serial=0)
    running: dict[str, tuple[int, int]] = {}
    backlog = jobs
    tickets: list[int | None] = [None] * workers
    done = 0

    def take() -> None:
        nonlocal wasted
        for grant in rig.all(Grant):
            if len(running) >= most:
                wasted += 1
                rig_steps.append((grant.rid, grant.serial, grant.ticket))
            else:
                running[grant.rid] = (rig.now_ms + run_ms, grant.serial)

    rig_steps: list[tuple[str, int, int]] = []
    while done < jobs:
        while tickets and backlog > 0:
            ticket = tickets.pop()
            backlog -= 1
            rig.ask(ticket=ticket)
            take()
        while rig_steps:
            rid, serial, ticket = rig_steps.pop()
            rig.report("throttled", grant=rid, serial=serial)
            take()
            rig.ask(ticket=ticket, retry=True, wait_ms=10**9, left_ms=10**9)
            take()
        end_ms = min((end for end, _ in running.values()), default=rig.now_ms + 50)
        rig.wait(max(0, end_ms - rig.now_ms))
        take()
        for rid, (end, serial) in list(running.items()):
            if end <= rig.now_ms:
                del running[rid]
                done += 1
                tickets.append(None)
                rig.report("ok", grant=rid, serial=serial)
                take()
        assert rig.gate._limit is not None
        limits.append(rig.gate._limit.value)
    return wasted, limits


@pytest.mark.parametrize("most", [1, 2, 4, 8, 16, 24])
def test_the_limit_settles_near_what_the_provider_takes(most: int) -> None:
    rig = Rig()
    wasted, limits = simulated(rig, most, jobs=1_000, workers=32)
    settled = limits[len(limits) // 4 :]
    assert wasted < 120, "of 1000"
    assert 0.6 * most <= sum(settled) / len(settled) <= most + 1


def test_a_step_past_a_limit_that_was_too_much_takes_longer() -> None:
    limit = Limit()
    limit.size("e1", 16)
    for _ in range(8):
        limit.succeeded()
    assert limit.value == 9
    limit.cut()
    assert limit.value == 6
    for _ in range(6 + 7):
        limit.succeeded()
    assert limit.value == 8
    for _ in range(31):
        limit.succeeded()
    assert limit.value == 8
    limit.succeeded()
    assert limit.value == 9
    for _ in range(36 + 10):
        limit.succeeded()
    assert limit.value == 11, "past it, it is forgotten"


# -- open -------------------------------------------------------------------------------------------------------------


def opened(rig: Rig) -> None:
    for _ in range(5):
        rig.report("failed")
    assert rig.gate.state is State.OPEN


def test_open_it_refuses_at_once_then_lets_one_out_whose_success_closes_it() -> None:
    rig = Rig(executors=2)
    opened(rig)
    rig.ask()
    assert [(step.reason, step.retry_after_ms) for step in rig.all(Refuse)] == [("lm_circuit_open", 5_000)]
    rig.wait(4_999)
    rig.ask()
    assert [step.retry_after_ms for step in rig.all(Refuse)] == [1]
    rig.wait(1)
    probe = rig.ask("e2")
    assert rig.granted() == [probe]
    rig.ask()
    assert [step.retry_after_ms for step in rig.all(Refuse)] == [5_000]
    rig.report("ok", executor="e2", grant=probe)
    assert rig.gate.state is State.FREE
    assert modes(rig) == {"e1": "free", "e2": "free"}
    assert [step.text for step in rig.all(Note)] == ["event=lm_circuit_closed profile=default"]


def test_each_probe_that_fails_doubles_the_time_up_to_a_minute() -> None:
    rig = Rig()
    opened(rig)
    periods = []
    for _ in range(6):
        rig.ask()
        periods.append(rig.all(Refuse)[0].retry_after_ms)
        rig.wait(periods[-1])
        probe = rig.ask()
        assert rig.granted() == [probe]
        rig.report("failed", grant=probe)
    assert periods == [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]


@pytest.mark.parametrize("end", ["neutral", "withdraw", "gone"])
def test_a_probe_that_found_out_nothing_leaves_its_place_to_the_next(end: str) -> None:
    rig = Rig(executors=2)
    opened(rig)
    rig.wait(5_000)
    probe = rig.ask()
    if end == "neutral":
        rig.report("neutral", grant=probe)
    elif end == "withdraw":
        rig.saw(rig.gate.withdraw("e1", probe, rig.now_ms))
    else:
        rig.saw(rig.gate.gone("e1", rig.now_ms))
    second = rig.ask("e2")
    assert rig.granted() == [second]


def test_an_answer_that_refuses_the_request_shows_that_the_provider_is_back() -> None:
    rig = Rig()
    opened(rig)
    rig.wait(5_000)
    rig.report("alive", grant=rig.ask())
    assert rig.gate.state is State.FREE


def test_a_probe_without_an_end_holds_up_nobody_for_longer_than_the_circuit_is_open() -> None:
    rig = Rig()
    opened(rig)
    rig.wait(5_000)
    slow = rig.ask()
    rig.wait(4_999)
    assert rig.ask() not in rig.granted()
    rig.wait(1)
    quick = rig.ask()
    assert rig.granted() == [quick]
    rig.report("ok", grant=slow)
    assert rig.gate.state is State.FREE


def test_what_failed_before_may_try_again_once_for_all_and_ahead_of_time() -> None:
    """A moment in which every connection is reset is not an outage: it costs calls their pause, not their lives."""
    rig = Rig()
    opened(rig)
    rig.wait(500)
    first, second, third = (rig.ask(retry=True) for _ in range(3))
    assert (rig.granted(), rig.all(Refuse)) == ([], [])
    new = rig.ask()
    assert [step.rid for step in rig.all(Refuse)] == [new]
    rig.report("ok", grant=first)
    assert rig.granted() == [second, third]
    assert rig.gate.state is State.FREE


def test_if_that_fails_all_like_it_are_refused_and_the_time_stays() -> None:
    rig = Rig()
    opened(rig)
    rig.wait(500)
    first, second = rig.ask(retry=True), rig.ask(retry=True)
    rig.report("failed", grant=first)
    assert [step.rid for step in rig.all(Refuse)] == [second]
    assert rig.ask(retry=True) == rig.all(Refuse)[0].rid
    assert rig.all(Refuse)[0].retry_after_ms == 4_500


def test_throttles_that_persist_open_it_too() -> None:
    rig = Rig()
    throttled(rig, 1, retry_after_ms=1_000)
    for _ in range(4):
        rid = rig.ask()
        rig.wait(1_000)
        assert rig.granted() == [rid]
        rig.report("throttled", grant=rid, retry_after_ms=1_000)
    assert rig.gate.state is State.OPEN
    rig.wait(5_000)
    probe = rig.ask()
    rig.report("throttled", grant=probe, retry_after_ms=45_000)
    rig.ask()
    assert [step.retry_after_ms for step in rig.all(Refuse)] == [45_000]
    rig.wait(45_000)
    rig.report("ok", grant=rig.ask())
    assert rig.gate.state is State.THROTTLED, "it closes with the limit that it had"


def test_what_began_before_it_closed_does_not_open_it_again() -> None:
    rig = Rig()
    opened(rig)
    rig.wait(5_000)
    rig.report("ok", grant=rig.ask())
    for _ in range(10):
        rig.report("failed", serial=0)
    assert rig.gate.state is State.FREE


def test_an_executor_that_starts_learns_the_state() -> None:
    rig = Rig()
    opened(rig)
    rig.saw(rig.gate.joined("e9", rig.now_ms))
    assert modes(rig) == {"e9": "ask"}
    fresh = Rig()
    assert fresh.steps == [], "nothing has happened: nothing to say"


def test_it_is_shown_only_while_it_is_not_free() -> None:
    rig = Rig()
    assert rig.gate.shown(rig.now_ms) is None
    opened(rig)
    shown = rig.gate.shown(rig.now_ms + 1_000)
    assert shown is not None
    assert (shown["state"], shown["retry_after_ms"], shown["failures"]) == ("open", 4_000, 5)
    assert "failed 5 times in a row, the last time with a failed; calls are refused" in rig.gate.problem()
