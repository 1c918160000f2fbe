"""The gate of one LM profile: how many calls of this pool its provider may get now. Pure: events in, steps out.

All executors of a pool share it, since their provider sees them as one. While it is `FREE` executors ask nobody; they
report troubles, and after a failure the next success. `THROTTLED` (the provider said 429) each call asks for leave and
waits its turn: nothing goes out before the time that the provider named, and then no more at once than a limit that
follows what the provider takes. `OPEN` (it failed again and again) calls are refused at once, but for one now and then
that finds out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from dspymq.worker.gate_messages import Mode, Report
from dspymq.worker.supervisor.lm_gate_circuit import Circuit
from dspymq.worker.supervisor.lm_gate_limit import Limit
from dspymq.worker.supervisor.lm_gate_row import Key, Row, Waiter
from dspymq.worker.supervisor.lm_gate_steps import GateSettings, Grant, Note, Refuse, State, Step, Tell

CALM_MS: Final = 10_000
"""A throttled gate is free again when nothing was throttled, and nobody had to wait, for so long."""

BACKOFF_MS: Final = 250
MAX_BACKOFF_MS: Final = 10_000
"""Pauses after a throttle that named no time and followed another, or came at the limit of one call."""

MAX_PAUSE_MS: Final = 300_000
"""A provider that names a later time is asked again after this."""

MAX_SPREAD_MS: Final = 500
"""Pauses are up to a tenth longer, and this at most: other pools may have been told the same time."""


class _Peer:
    """What is known of one executor."""

    __slots__ = ("free", "grants", "mode", "stalled")

    def __init__(self) -> None:
        self.mode: Mode = "free"
        self.free = 0
        """Calls that it began without asking and that still run; right while the gate is not free."""
        self.grants: set[str] = set()
        self.stalled = False


class LMGate:
    """One gate. Times are milliseconds of any clock that never goes back; `random` gives numbers from 0 to 1."""

    def __init__(self, profile: str, settings: GateSettings, random: Callable[[], float]) -> None:
        self.profile = profile
        self._settings = settings
        self._random = random
        self._now_ms = 0
        self._steps: list[Step] = []
        self._peers: dict[str, _Peer] = {}
        self._row = Row()
        self._tickets = 0
        self.state = State.FREE
        self.since_ms = 0
        self._serial = 0
        """Counts decisions. What a call says of its provider is older than the decisions after its own serial."""
        self._closed_serial = 0
        self._failures = 0
        """Failures, and rounds of calls that were throttled, since the last success."""
        self._why = ""
        self._limit: Limit | None = None
        self._dry = 0
        """Rounds that were throttled since the last success."""
        self._paused_until_ms = 0
        self._pressed_ms = 0
        """When a call was throttled, or waited, for the last time."""
        self._circuit: Circuit | None = None

    # -- what happens -----------------------------------------------------------------------------------------------

    def joined(self, executor: str, now_ms: int) -> list[Step]:
        """An executor is ready."""
        self._begin(now_ms)
        peer = self._peers[executor] = _Peer()
        peer.mode = self._mode()
        if self._serial or peer.mode != "free":
            self._steps.append(Tell(executor, peer.mode, self._serial))
        return self._end()

    def gone(self, executor: str, now_ms: int) -> list[Step]:
        """An executor has ended, and its calls with it."""
        self._begin(now_ms)
        peer = self._peers.pop(executor, _Peer())
        for waiter in self._row:
            if waiter.executor == executor:
                self._row.remove(waiter.key)
        for rid in peer.grants:
            self._no_verdict((executor, rid))
        return self._end()

    def stalled(self, executor: str, now_ms: int, *, stalled: bool) -> list[Step]:
        """An executor stands still: nobody waits for what it has open. Or it goes on."""
        self._begin(now_ms)
        self._peer(executor).stalled = stalled
        return self._end()

    def ask(
        self,
        executor: str,
        rid: str,
        now_ms: int,
        *,
        wait_ms: int,
        left_ms: int,
        retry: bool = False,
        ticket: int | None = None,
    ) -> list[Step]:
        """A call asks for leave. It waits `wait_ms` at most, and its job has `left_ms` left.

        `retry`: it has been at the provider before. `ticket`: its place in the row from then.
        """
        self._begin(now_ms, pressed=False)
        if ticket is None:
            self._tickets += 1
            ticket = self._tickets
        waiter = Waiter(ticket, executor, rid, now_ms + wait_ms, now_ms + min(wait_ms, left_ms), retry)
        if self._circuit is not None:
            self._ask_open(waiter, self._circuit)
        elif self.state is State.THROTTLED and self._paused_until_ms > waiter.end_ms:
            self._refuse_throttled(waiter)
        else:
            self._row.add(waiter)
        return self._end()

    def withdraw(self, executor: str, rid: str, now_ms: int) -> list[Step]:
        """A call no longer wants its leave, whether it has it or not."""
        self._begin(now_ms)
        self._row.remove((executor, rid))
        self._peer(executor).grants.discard(rid)
        self._no_verdict((executor, rid))
        return self._end()

    def report(self, executor: str, report: Report, now_ms: int) -> list[Step]:
        """An executor tells how a call ended, or how many it has open."""
        self._begin(now_ms)
        peer = self._peer(executor)
        peer.free = report.free
        has_ended = report.outcome != "census"
        open_calls = self._in_flight() + (has_ended and report.grant is None)
        if report.grant is not None:
            peer.grants.discard(report.grant)
        elif report.outcome == "ok" and peer.mode == "watch":
            peer.mode = "free"
        if self._circuit is not None:
            self._report_open((executor, report.grant or ""), report, self._circuit)
        elif report.outcome == "throttled":
            self._throttled(report)
        elif report.outcome == "failed":
            self._failed(report)
        elif report.outcome == "ok":
            self._succeeded(open_calls)
        if self._limit is not None and report.serial < self._serial:
            self._limit.size(executor, report.free + has_ended)
        return self._end()

    def look(self, now_ms: int) -> list[Step]:
        """Time passed."""
        self._begin(now_ms)
        return self._end()

    def next_ms(self) -> int | None:
        """When to look again, if nothing happens before."""
        due = [self._row.next_ms]
        if self.state is State.THROTTLED:
            if not self._row:
                due.append(self._calm_ms())
            elif self._paused_until_ms > self._now_ms:
                due.append(self._paused_until_ms)
        return min((one for one in due if one is not None), default=None)

    def shown(self, now_ms: int) -> dict[str, Any] | None:
        """What there is to see of it; None while it is free. `retry_after_ms`: nobody calls before that."""
        if self.state is State.FREE:
            return None
        until_ms = self._paused_until_ms if self._circuit is None else self._circuit.retry_at_ms
        limit = None if self._limit is None else self._limit.value
        return {
            "profile": self.profile,
            "state": self.state.value,
            "limit": limit if self._circuit is None else 0,
            "in_flight": self._in_flight(),
            "waiting": len(self._row),
            "failures": self._failures,
            "retry_after_ms": max(0, until_ms - now_ms),
        }

    def problem(self) -> str:
        """The same for people."""
        if self.state is State.OPEN:
            return f"{self._history()}; calls are refused until it answers one again"
        limit = "" if self._limit is None else f", {self._limit.value} at once"
        return f"the provider throttles ({self._why}); calls wait for their turn{limit}"

    def refuses_all(self, now_ms: int) -> bool:
        """Whether no call would go out now."""
        return self._circuit is not None and now_ms < self._circuit.retry_at_ms

    # -- throttled --------------------------------------------------------------------------------------------------

    def _throttled(self, report: Report) -> None:
        is_new_round = report.serial == self._serial
        is_least = False
        self._why = report.why
        self._pressed_ms = self._now_ms
        if report.retry_after_ms:
            self._pause(report.retry_after_ms)
        if self.state is State.FREE:
            self._enter(State.THROTTLED)
            self._limit = Limit() if self._settings.adaptive else None
            told = f" retry_after_ms={report.retry_after_ms}" if report.retry_after_ms else ""
            self._note(f"event=lm_throttled profile={self.profile} why={self._why!r}{told}")
        elif not is_new_round:
            return
        elif self._limit is not None:
            is_least = self._limit.value == 1
            self._limit.cut()
        self._next_round()
        self._dry += 1
        self._failures += 1
        if not report.retry_after_ms and (self._dry > 1 or is_least):
            self._pause(min(MAX_BACKOFF_MS, BACKOFF_MS << min(self._dry - 1, 10)))
        self._open_if_due()

    def _succeeded(self, open_calls: int) -> None:
        self._failures = self._dry = 0
        # A limit that is not used up shows nothing.
        if self._limit is not None and (self._row or open_calls >= self._limit.value):
            self._limit.succeeded()

    def _pause(self, asked_ms: int) -> None:
        asked_ms = min(asked_ms, MAX_PAUSE_MS)
        spread_ms = round(min(asked_ms / 10, MAX_SPREAD_MS) * self._random())
        self._paused_until_ms = max(self._paused_until_ms, self._now_ms + asked_ms + spread_ms)
        for waiter in self._row:
            if waiter.end_ms < self._paused_until_ms:
                self._row.remove(waiter.key)
                self._refuse_throttled(waiter)

    # -- open -------------------------------------------------------------------------------------------------------

    def _failed(self, report: Report) -> None:
        if not self._settings.circuit_failures or report.serial < self._closed_serial:
            return
        self._failures += 1
        self._why = report.why
        if self.state is State.FREE:
            self._tell("watch", where=("free",))
        self._open_if_due()

    def _open_if_due(self) -> None:
        if not 0 < self._settings.circuit_failures <= self._failures:
            return
        self._enter(State.OPEN)
        self._next_round()
        circuit = self._circuit = Circuit(self._now_ms, self._settings.circuit_open_ms, self._paused_until_ms)
        self._note(
            f"event=lm_circuit_open profile={self.profile} failures={self._failures} why={self._why!r} "
            f"retry_after_ms={circuit.retry_at_ms - self._now_ms}"
        )
        for waiter in self._row.all():
            self._refuse_open(waiter, circuit)

    def _ask_open(self, waiter: Waiter, circuit: Circuit) -> None:
        if circuit.lets_out(waiter.key, self._now_ms, retry=waiter.retry):
            self._grant(waiter)
        elif waiter.retry and circuit.decides_for_retries:
            self._row.add(waiter)
        else:
            self._refuse_open(waiter, circuit)

    def _report_open(self, key: Key, report: Report, circuit: Circuit) -> None:
        if not circuit.is_probe(key):
            return
        if report.outcome == "neutral":
            self._no_verdict(key)
        elif report.outcome in ("ok", "alive"):
            self._close()
        else:
            self._failures += 1
            self._why = report.why
            circuit.failed(key, self._now_ms, self._now_ms + min(report.retry_after_ms or 0, MAX_PAUSE_MS))
            for waiter in self._row.all():
                self._refuse_open(waiter, circuit)

    def _no_verdict(self, key: Key) -> None:
        if self._circuit is not None and self._circuit.no_verdict(key):
            for waiter in self._row.all():
                self._ask_open(waiter, self._circuit)

    def _close(self) -> None:
        self._circuit = None
        self._failures = self._dry = 0
        self._note(f"event=lm_circuit_closed profile={self.profile}")
        self._next_round()
        self._closed_serial = self._serial
        if self._limit is None:
            self._free()
        else:
            self._pressed_ms = self._now_ms
            self._enter(State.THROTTLED)

    # -- the row ----------------------------------------------------------------------------------------------------

    def _begin(self, now_ms: int, *, pressed: bool = True) -> None:
        self._now_ms = now_ms
        self._steps = []
        if pressed and self._row:
            self._pressed_ms = now_ms

    def _end(self) -> list[Step]:
        self._pump()
        self._expire()
        if self.state is State.THROTTLED:
            if self._row:
                self._pressed_ms = self._now_ms
            elif self._now_ms >= self._calm_ms():
                self._note(f"event=lm_unthrottled profile={self.profile}")
                self._free()
        return self._steps

    def _calm_ms(self) -> int:
        return max(self._pressed_ms + CALM_MS, self._paused_until_ms)

    def _pump(self) -> None:
        """Let those go who may, in the order in which they came."""
        if self.state is State.OPEN or (self.state is State.THROTTLED and self._now_ms < self._paused_until_ms):
            return
        room = None
        if self._limit is not None:
            room = max(0, self._limit.value - self._in_flight())
        while self._row and room != 0:
            self._grant(self._row.first())
            room = None if room is None else room - 1

    def _expire(self) -> None:
        for waiter in self._row.late(self._now_ms):
            if self._circuit is not None:
                self._refuse_open(waiter, self._circuit)
            else:
                self._refuse_throttled(waiter)

    def _grant(self, waiter: Waiter) -> None:
        counted = self.state is not State.FREE
        if counted:
            self._peer(waiter.executor).grants.add(waiter.rid)
        self._steps.append(Grant(waiter.executor, waiter.rid, self._serial, waiter.ticket, counted))

    def _refuse_throttled(self, waiter: Waiter) -> None:
        message = f"the LM of the profile {self.profile!r} throttles, and the call's turn does not come in time"
        retry_after_ms = max(BACKOFF_MS, self._paused_until_ms - self._now_ms)
        self._steps.append(Refuse(waiter.executor, waiter.rid, "lm_rate_limited", message, retry_after_ms))

    def _refuse_open(self, waiter: Waiter, circuit: Circuit) -> None:
        message = f"the LM of the profile {self.profile!r} is not called for now: {self._history()}"
        retry_after_ms = max(1, circuit.free_ms - self._now_ms)
        self._steps.append(Refuse(waiter.executor, waiter.rid, "lm_circuit_open", message, retry_after_ms))

    # -- all --------------------------------------------------------------------------------------------------------

    def _peer(self, executor: str) -> _Peer:
        return self._peers.setdefault(executor, _Peer())

    def _in_flight(self) -> int:
        return sum(peer.free + len(peer.grants) for peer in self._peers.values() if not peer.stalled)

    def _mode(self) -> Mode:
        if self.state is not State.FREE:
            return "ask"
        return "watch" if self._failures else "free"

    def _history(self) -> str:
        return f"the provider failed {self._failures} times in a row, the last time with {self._why}"

    def _enter(self, state: State) -> None:
        self.state = state
        self.since_ms = self._now_ms

    def _next_round(self) -> None:
        self._serial += 1
        self._tell("ask", where=("free", "watch"))

    def _free(self) -> None:
        self._enter(State.FREE)
        self._limit = None
        self._pump()
        for peer in self._peers.values():
            peer.free = 0
            peer.grants.clear()
        self._tell(self._mode(), where=("ask",))

    def _tell(self, mode: Mode, *, where: tuple[Mode, ...]) -> None:
        for executor, peer in self._peers.items():
            if peer.mode in where:
                peer.mode = mode
                self._steps.append(Tell(executor, mode, self._serial))

    def _note(self, text: str) -> None:
        self._steps.append(Note(logging.WARNING, text))
