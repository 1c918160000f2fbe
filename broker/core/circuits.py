"""Circuits: a program that fails again and again is not run for a while (SPEC section 11.9).

One for each (program, revision) that ended jobs here. It opens after so many failures of the program's own, in jobs
of different content, with no success between. Open, it refuses jobs at once, except for flows whose own last job ended
well: what fails for one need not fail for all. After a while one job is let through; it closes the circuit, or opens it
for twice as long.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any, Final

from dspymq.broker.core.context import Context
from dspymq.broker.core.definitions import split_alias
from dspymq.broker.core.job import End, Job
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import Code

OWN_FAILURES: Final = frozenset({Code.UNKNOWN, Code.INTERNAL, Code.DATA_LOSS})
"""Codes of a program's own failures, unless they are retryable; and poison, which is the broker's word."""

LONGEST_MS: Final = 60_000
"""A circuit is not open for longer than that without a trial."""

TRIAL_RETRY_MS: Final = 1_000
"""`retry_after_ms` while a trial is under way."""

MAX_CIRCUITS: Final = 5_000
MAX_FLOWS: Final = 1_000
"""Of one circuit: those that are remembered to have ended well, the latest."""


class Circuit:
    """What is known of one program at one revision."""

    __slots__ = ("failed", "open_for_ms", "open_until_ms", "trial", "well")

    def __init__(self) -> None:
        self.failed: set[bytes] = set()
        """Digests of the jobs that failed since the last success."""
        self.well: OrderedDict[str, None] = OrderedDict()
        """Flows whose last job here ended well."""
        self.open_for_ms = 0
        """How long it is open this time; 0: it is closed."""
        self.open_until_ms = 0
        self.trial: Job | None = None


class Circuits:
    """All circuits of a broker. With `circuit_failures` 0 there are none."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._failures = context.settings.circuit_failures
        self._open_ms = context.settings.circuit_open_ms
        self._circuits: OrderedDict[tuple[str, str], Circuit] = OrderedDict()
        self._open = 0

    @property
    def any_open(self) -> bool:
        """Whether any is."""
        return self._open > 0

    def refusal(self, job: Job, revision: str | None) -> End | None:
        """Why this job may not run at this revision now; None if it may."""
        if revision is None:
            return None
        circuit = self._circuits.get((_name(job), revision))
        if circuit is None or not circuit.open_for_ms or job.flow.name in circuit.well:
            return None
        left_ms = circuit.open_until_ms - self._context.now_ms
        if left_ms <= 0 and circuit.trial in (None, job):
            return None
        text = f"{_name(job)} failed {len(circuit.failed)} times in a row; it is not run for a while"
        return End(Code.UNAVAILABLE, "circuit_open", text, max(left_ms, TRIAL_RETRY_MS if left_ms <= 0 else 1))

    def begins(self, job: Job, revision: str) -> None:
        """The job is dispatched: at an open circuit it is the trial, unless its flow is let through anyway."""
        if self._open:
            circuit = self._circuits.get((_name(job), revision))
            if circuit is not None and circuit.open_for_ms and job.flow.name not in circuit.well:
                circuit.trial = job

    def released(self, job: Job, revision: str) -> None:
        """An attempt is over, however: if it was the trial and has told nothing, another may be."""
        if self._open:
            circuit = self._circuits.get((_name(job), revision))
            if circuit is not None and circuit.trial is job:
                circuit.trial = None

    def result(self, job: Job, revision: str, message: w.Result) -> None:
        """The job ended as its worker says. What is neither a success nor the program's own failure changes nothing."""
        if message.code == Code.OK:
            self._succeeded(job, revision)
        elif message.code in OWN_FAILURES and not message.retryable:
            self.failed(job, revision)

    def failed(self, job: Job, revision: str) -> None:
        """The program failed by itself, or ended its process (poison)."""
        if not self._watches(job):
            return
        circuit = self._circuit(_name(job), revision)
        circuit.well.pop(job.flow.name, None)
        if circuit.open_for_ms:
            # What was under way when it opened says nothing new.
            if self._context.now_ms >= circuit.open_until_ms and circuit.trial in (None, job):
                self._opens(job, revision, circuit, min(2 * circuit.open_for_ms, LONGEST_MS))
            return
        circuit.failed.add(job.digest)
        if len(circuit.failed) >= self._failures:
            self._open += 1
            self._opens(job, revision, circuit, self._open_ms)

    def rows(self) -> list[dict[str, Any]]:
        """Those that are open, for people."""
        now_ms = self._context.now_ms
        return [
            {
                "program": program,
                "revision": revision,
                "state": "open" if now_ms < circuit.open_until_ms else "trial",
                "failures": len(circuit.failed),
                "retry_after_ms": max(0, circuit.open_until_ms - now_ms),
            }
            for (program, revision), circuit in self._circuits.items()
            if circuit.open_for_ms
        ]

    def _succeeded(self, job: Job, revision: str) -> None:
        if not self._watches(job):
            return
        circuit = self._circuit(_name(job), revision)
        was_well = job.flow.name in circuit.well
        circuit.well[job.flow.name] = None
        circuit.well.move_to_end(job.flow.name)
        if len(circuit.well) > MAX_FLOWS:
            circuit.well.popitem(last=False)
        if not circuit.open_for_ms:
            circuit.failed.clear()
        elif not was_well:
            self._closes(_name(job), revision, circuit)

    def _watches(self, job: Job) -> bool:
        # Each inline program is another one, under the same name.
        return self._failures > 0 and not job.submit.program.startswith("_")

    def _circuit(self, program: str, revision: str) -> Circuit:
        key = (program, revision)
        circuit = self._circuits.get(key)
        if circuit is None:
            circuit = self._circuits[key] = Circuit()
            if len(self._circuits) > MAX_CIRCUITS:
                _, oldest = self._circuits.popitem(last=False)
                self._open -= bool(oldest.open_for_ms)
        return circuit

    def _opens(self, job: Job, revision: str, circuit: Circuit, for_ms: int) -> None:
        circuit.open_for_ms = for_ms
        circuit.open_until_ms = self._context.now_ms + for_ms
        circuit.trial = None
        program, failures = _name(job), len(circuit.failed)
        self._context.counts["circuits_opened"] += 1
        text = f"circuit_opened program={program} revision={revision} failures={failures} for_ms={for_ms}"
        self._context.log(logging.WARNING, text)
        self._context.emit(
            "circuit.opened", program=program, revision=revision, failures=failures, retry_after_ms=for_ms
        )

    def _closes(self, program: str, revision: str, circuit: Circuit) -> None:
        circuit.open_for_ms = 0
        circuit.trial = None
        circuit.failed.clear()
        self._open -= 1
        self._context.log(logging.WARNING, f"circuit_closed program={program} revision={revision}")
        self._context.emit("circuit.closed", program=program, revision=revision)


def _name(job: Job) -> str:
    return split_alias(job.submit.program)[0]
