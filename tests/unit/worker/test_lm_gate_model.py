"""Whatever executors ask, report, give up or die of: a gate lets out what it may, in order, and forgets no call."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dspymq.worker.gate_messages import Mode, Outcome, Report
from dspymq.worker.supervisor.lm_gate import CALM_MS, LMGate
from dspymq.worker.supervisor.lm_gate_steps import GateSettings, Grant, Refuse, State, Step, Tell

PICK = st.integers(0, 1_000_000)
OUTCOMES: list[Outcome] = ["ok", "ok", "ok", "alive", "throttled", "throttled", "failed", "failed", "neutral"]


class Call:
    """A call that is at the provider."""

    def __init__(self, serial: int, rid: str | None, ticket: int | None) -> None:
        self.serial = serial
        self.rid = rid
        self.ticket = ticket


class PlayedExecutor:
    """What an executor knows: how dspymq.worker.executor.gates goes about its calls."""

    def __init__(self) -> None:
        self.mode: Mode = "free"
        self.serial = 0
        self.open: list[Call] = []

    @property
    def free(self) -> int:
        return sum(call.rid is None for call in self.open)


class GateMachine(RuleBasedStateMachine):
    """Executors that keep to the rules, and a provider that does as it likes."""

    @initialize(adaptive=st.booleans(), failures=st.sampled_from([0, 2, 5]))
    def begin(self, adaptive: bool, failures: int) -> None:
        self.settings = GateSettings(circuit_failures=failures, circuit_open_ms=1_000, adaptive=adaptive)
        self.gate = LMGate("default", self.settings, lambda: 0.5)
        self.now_ms = 1_000
        self.executors: dict[str, PlayedExecutor] = {}
        self.waiting: dict[str, tuple[str, int, int]] = {}
        """By rid: executor, place, and until when."""
        self.probes: dict[str, int] = {}
        self.names = self.rids = self.places = 0
        self.join()
        self.join()

    # -- the executors do what the gate says ------------------------------------------------------------------------

    def do(self, steps: list[Step]) -> None:
        told = []
        for step in steps:
            if isinstance(step, Grant):
                self.granted(step)
            elif isinstance(step, Refuse):
                del self.waiting[step.rid]
                assert step.reason in ("lm_circuit_open", "lm_rate_limited")
                assert step.retry_after_ms > 0
                assert self.gate.state is not State.FREE
            elif isinstance(step, Tell) and step.executor in self.executors:
                told.append(step)
        for step in told:
            executor = self.executors[step.executor]
            before, executor.mode, executor.serial = executor.mode, step.mode, step.serial
            if step.mode != "ask":
                for call in executor.open:
                    call.rid = None
            elif before != "ask":
                self.report(step.executor, "census", step.serial - 1)

    def granted(self, grant: Grant) -> None:
        _, place, _ = self.waiting.pop(grant.rid)
        executor = self.executors[grant.executor]
        executor.open.append(Call(grant.serial, grant.rid if grant.counted else None, grant.ticket))
        limit = self.gate._limit
        if self.gate.state is State.THROTTLED and limit is not None:
            assert self.in_flight() <= limit.value
            assert self.now_ms >= self.gate._paused_until_ms
        if self.gate.state is State.OPEN:
            young = [rid for rid, began in self.probes.items() if self.now_ms - began < self.gate._circuit._period_ms]
            assert not young, "one finds out at a time"
            self.probes[grant.rid] = self.now_ms
        elif self.gate.state is State.THROTTLED:
            assert all(place < other for _, other, _ in self.waiting.values()), "first come, first served"

    def report(self, name: str, outcome: Outcome, serial: int, rid: str | None = None, **more: Any) -> None:
        report = Report(
            profile="default", outcome=outcome, serial=serial, free=self.executors[name].free, grant=rid, **more
        )
        if rid is not None:
            self.probes.pop(rid, None)
        self.do(self.gate.report(name, report, self.now_ms))
        if self.gate.state is not State.OPEN:
            self.probes.clear()

    def in_flight(self) -> int:
        return sum(len(executor.open) for executor in self.executors.values())

    def end(self, name: str, call: Call, outcome: Outcome, **more: Any) -> None:
        executor = self.executors[name]
        executor.open.remove(call)
        if executor.mode != "ask":
            if outcome in ("alive", "neutral") or (outcome == "ok" and executor.mode == "free"):
                return
            if outcome == "ok":
                executor.mode = "free"
        self.report(name, outcome, call.serial, call.rid, **more)

    def ask(self, name: str, *, retry: bool, ticket: int | None, wait_ms: int, left_ms: int) -> None:
        self.rids += 1
        rid = f"r{self.rids}"
        if ticket is None:
            self.places += 1
        self.waiting[rid] = (name, ticket or self.places, self.now_ms + wait_ms)
        steps = self.gate.ask(name, rid, self.now_ms, wait_ms=wait_ms, left_ms=left_ms, retry=retry, ticket=ticket)
        self.do(steps)

    # -- what happens -----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.executors) < 4)
    @rule()
    def join(self) -> None:
        self.names += 1
        name = f"e{self.names}"
        self.executors[name] = PlayedExecutor()
        self.do(self.gate.joined(name, self.now_ms))

    @precondition(lambda self: self.executors)
    @rule(pick=PICK, wait_ms=st.sampled_from([0, 500, 30_000]), left_ms=st.sampled_from([100, 60_000]))
    def call(self, pick: int, wait_ms: int, left_ms: int) -> None:
        name = sorted(self.executors)[pick % len(self.executors)]
        executor = self.executors[name]
        if executor.mode == "ask":
            self.ask(name, retry=False, ticket=None, wait_ms=wait_ms, left_ms=left_ms)
        else:
            executor.open.append(Call(executor.serial, None, None))

    @precondition(lambda self: self.executors)
    @rule(picks=st.lists(PICK, min_size=2, max_size=6))
    def burst(self, picks: list[int]) -> None:
        for pick in picks:
            self.call(pick, 30_000, 60_000)

    @precondition(lambda self: self.in_flight())
    @rule(pick=PICK, outcome=st.sampled_from(OUTCOMES), asked=st.sampled_from([None, 200, 3_000]), again=st.booleans())
    def ends(self, pick: int, outcome: Outcome, asked: int | None, again: bool) -> None:
        all_open = [(name, call) for name, one in sorted(self.executors.items()) for call in one.open]
        name, call = all_open[pick % len(all_open)]
        self.end(name, call, outcome, retry_after_ms=asked if outcome == "throttled" else None)
        if again and outcome in ("throttled", "failed"):
            if self.executors[name].mode == "ask" or outcome == "throttled":
                self.ask(name, retry=True, ticket=call.ticket, wait_ms=30_000, left_ms=60_000)
            else:
                self.executors[name].open.append(Call(self.executors[name].serial, None, None))

    @precondition(lambda self: self.waiting)
    @rule(pick=PICK)
    def withdraw(self, pick: int) -> None:
        rid = sorted(self.waiting)[pick % len(self.waiting)]
        name, _, _ = self.waiting.pop(rid)
        self.do(self.gate.withdraw(name, rid, self.now_ms))

    @precondition(lambda self: self.executors)
    @rule(pick=PICK)
    def dies(self, pick: int) -> None:
        name = sorted(self.executors)[pick % len(self.executors)]
        for call in self.executors.pop(name).open:
            self.probes.pop(call.rid or "", None)
        self.waiting = {rid: one for rid, one in self.waiting.items() if one[0] != name}
        self.do(self.gate.gone(name, self.now_ms))

    @rule(ms=st.sampled_from([1, 100, 1_000, 5_000, 40_000]))
    def time_passes(self, ms: int) -> None:
        end_ms = self.now_ms + ms
        while (due_ms := self.gate.next_ms()) is not None and due_ms <= end_ms:
            self.now_ms = max(self.now_ms, due_ms)
            self.do(self.gate.look(self.now_ms))
            following_ms = self.gate.next_ms()
            assert following_ms is None or following_ms > self.now_ms, "it does not spin"
        self.now_ms = end_ms
        self.do(self.gate.look(end_ms))

    # -- what holds -------------------------------------------------------------------------------------------------

    @invariant()
    def the_books_are_right(self) -> None:
        gate = self.gate
        assert {waiter.key for waiter in gate._row} == {(name, rid) for rid, (name, _, _) in self.waiting.items()}
        if gate.state is not State.FREE:
            assert gate._in_flight() == self.in_flight()
            for name, executor in self.executors.items():
                assert executor.mode == "ask"
                assert gate._peers[name].grants == {call.rid for call in executor.open if call.rid is not None}
        else:
            assert not self.waiting
            assert all(executor.mode != "ask" for executor in self.executors.values())
        assert all(until > self.now_ms for _, _, until in self.waiting.values()), "nobody waits for longer"
        assert self.settings.circuit_failures or gate.state is not State.OPEN

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        gate = self.gate
        if self.waiting and gate.state is State.THROTTLED and self.now_ms >= gate._paused_until_ms:
            assert gate._limit is not None
            assert self.in_flight() >= gate._limit.value
        elif self.waiting and gate.state is State.OPEN:
            assert self.probes, "one is out that answers for all who wait"

    def teardown(self) -> None:
        """When the provider is well again, so is the gate, and no call is left behind."""
        for _ in range(2_000):
            if not (self.in_flight() or self.waiting):
                break
            for name, executor in self.executors.items():
                for call in list(executor.open):
                    self.end(name, call, "ok")
            self.time_passes(100)
        assert not self.waiting
        assert self.in_flight() == 0
        if not self.executors:
            self.join()
        self.time_passes(70_000)
        self.call(0, 30_000, 60_000)
        assert self.in_flight() == 1, "a call goes out at once"
        self.ends(0, "ok", None, False)
        self.time_passes(CALM_MS)
        assert self.gate.state is State.FREE


TestGateModel = GateMachine.TestCase
TestGateModel.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
