"""The gates of a pool's LM profiles: what executors ask and report, and what they, the log and the broker are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from dspymq.protocol import body as bodies
from dspymq.protocol.errors import REASONS, ProtocolError
from dspymq.protocol.messages import Error, Reply, Request
from dspymq.worker import gate_messages as g
from dspymq.worker.profiles import LMProfile
from dspymq.worker.supervisor.context import Context
from dspymq.worker.supervisor.effects import Log
from dspymq.worker.supervisor.lm_gate import LMGate
from dspymq.worker.supervisor.lm_gate_steps import GateSettings, Grant, Note, Refuse, Step, Tell

_NEWS_RID = "news"
"""Of requests that nobody answers."""


class LMGates:
    """One gate for each profile that the pool has. `changed` is set when there is something new to see."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._gates: dict[str, LMGate] = {}
        for profile, settings in context.settings.lm_gates.items():
            self._gates[profile] = LMGate(profile, settings, context.random)
        self._stalled: frozenset[str] = frozenset()
        self.changed = False

    def request(self, executor: str, message: Request, body: bytes) -> bool:
        """Take what an executor says of gates; False if it is about something else."""
        now_ms = self._context.now_ms
        steps: list[Step] = []
        try:
            if message.method == g.ASK:
                ask = g.read(body, g.Ask)
                gate = self._gate(ask.profile)
                steps = gate.ask(
                    executor,
                    message.rid,
                    now_ms,
                    wait_ms=ask.wait_ms,
                    left_ms=ask.left_ms,
                    retry=ask.retry,
                    ticket=ask.ticket,
                )
            elif message.method == g.REPORT:
                report = g.read(body, g.Report)
                gate = self._gate(report.profile)
                steps = gate.report(executor, report, now_ms)
            elif message.method == g.WITHDRAW:
                withdraw = g.read(body, g.Withdraw)
                gate = self._gate(withdraw.profile)
                steps = gate.withdraw(executor, withdraw.rid, now_ms)
            else:
                return False
        except (ProtocolError, msgspec.ValidationError) as error:
            self._context.error(f"executor.bad_request executor={executor} method={message.method} error={error}")
            return True
        self._do(gate, steps)
        return True

    def joined(self, executor: str) -> None:
        """An executor is ready: it learns how to go about its calls."""
        for gate in self._gates.values():
            self._do(gate, gate.joined(executor, self._context.now_ms))

    def gone(self, executor: str) -> None:
        """An executor has ended."""
        self._stalled -= {executor}
        for gate in self._gates.values():
            self._do(gate, gate.gone(executor, self._context.now_ms))

    def stalled(self, executors: frozenset[str]) -> None:
        """These, of all that there are, stand still."""
        changed, self._stalled = self._stalled ^ executors, executors
        for executor in changed:
            for gate in self._gates.values():
                self._do(gate, gate.stalled(executor, self._context.now_ms, stalled=executor in executors))

    def look(self) -> None:
        """Time passed."""
        now_ms = self._context.now_ms
        for gate in self._gates.values():
            due_ms = gate.next_ms()
            if due_ms is not None:
                if due_ms <= now_ms:
                    self._do(gate, gate.look(now_ms))
                else:
                    self._context.alarm.set(due_ms)

    def refuse_all(self) -> bool:
        """Whether there are profiles, and no call of any would go out now."""
        now_ms = self._context.now_ms
        return bool(self._gates) and all(gate.refuses_all(now_ms) for gate in self._gates.values())

    def rows(self) -> list[dict[str, Any]]:
        """Entries of `executors` in the body of `ready` (SPEC section 11.6): no process, but a `problem`."""
        now_ms, offset = self._context.now_ms, self._context.settings.wall_offset_ms
        return [
            {"id": f"lm {gate.profile}", "pid": None, "state": gate.state.value, "slots": {},
             "in_flight": shown["in_flight"], "started_at_ms": gate.since_ms + offset, "problem": gate.problem(),
             "lm": shown}
            for gate in self._gates.values()
            if (shown := gate.shown(now_ms)) is not None
        ]  # fmt: skip

    def _gate(self, profile: str) -> LMGate:
        gate = self._gates.get(profile)
        if gate is None:
            # An embedder's pool without settings for it.
            gate = self._gates[profile] = LMGate(profile, GateSettings(), self._context.random)
        return gate

    def _do(self, gate: LMGate, steps: list[Step]) -> None:
        context = self._context
        for step in steps:
            match step:
                case Grant(executor, rid, serial, ticket, counted):
                    leave = g.Leave(serial=serial, ticket=ticket, counted=counted)
                    context.to_executor(executor, Reply(rid=rid), bodies.encode(result=msgspec.to_builtins(leave)))
                case Refuse(executor, rid, reason, message, retry_after_ms):
                    entry = REASONS[reason]
                    error = Error(
                        code=str(entry.code),
                        reason=reason,
                        message=message,
                        retryable=entry.retryable,
                        retry_after_ms=retry_after_ms,
                        rid=rid,
                    )
                    context.to_executor(executor, error)
                case Tell(executor, mode, serial):
                    news = g.News(profile=gate.profile, mode=mode, serial=serial)
                    context.to_executor(executor, Request(rid=_NEWS_RID, method=g.NEWS), g.written(news))
                case Note(level, text):
                    context.effects.append(Log(level, text))
                    self.changed = True
        context.alarm.set(gate.next_ms())


def gate_settings(profiles: Iterable[LMProfile]) -> dict[str, GateSettings]:
    """The settings of the gates of these profiles, by name."""
    return {
        profile.name: GateSettings(
            circuit_failures=profile.circuit_failures,
            circuit_open_ms=round(profile.circuit_open_s * 1000),
            adaptive=profile.adaptive,
        )
        for profile in profiles
    }
