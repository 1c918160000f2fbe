"""Runs of the kit: which transcripts, one after the other or at once, and the verdict of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from dspymq.conformance import features
from dspymq.conformance.clients import ClientUnderTest
from dspymq.conformance.command import CommandFault
from dspymq.conformance.conversation import Driver
from dspymq.conformance.engine import Engine, Failure
from dspymq.conformance.matching import Memory
from dspymq.conformance.vectors import rules, section_of, transcripts
from dspymq.conformance.verdicts import Outcome, Verdict
from dspymq.conformance.workers import WorkerUnderTest

Transcript = dict[str, Any]
Report = Callable[[Outcome], None]

PATIENCE_MS = 10_000
STOOD_STILL_MS = 100
"""Half of the shortest `dead_ms` of a transcript is 150 ms; a peer of the kit pings after half of `ping_ms`."""
MOST_RUNS = 4
log = logging.getLogger("dspymq.conformance")


class NothingToRun(ValueError):
    """No transcript is left by what was chosen."""


class CannotRun(Exception):
    """Nothing can be said of what is tested: its COMMAND does not start, or no broker answers."""


@dataclass(frozen=True)
class Choice:
    """Which transcripts are run, and with how much patience.

    `rules` such as `R-5.7`, `sections` and `names` (of transcripts) are each one of several that will do; empty: all.
    """

    rules: Sequence[str] = ()
    sections: Sequence[int] = ()
    names: Sequence[str] = ()
    scale: float = 1.0
    jobs: int = 1

    @property
    def patience_ms(self) -> int:
        """How long a message may take."""
        return int(PATIENCE_MS * self.scale)

    def takes(self, transcript: Transcript) -> bool:
        """Whether this one is run."""
        numbers = transcript["rules"]
        return (
            (not self.rules or any(rule in self.rules for rule in numbers))
            and (not self.sections or any(section_of(rule) in self.sections for rule in numbers))
            and (not self.names or transcript["name"] in self.names)
        )

    def of(self, role: str, more: Sequence[Transcript] = ()) -> list[Transcript]:
        """The transcripts of a role that are run, and of `more`. Raises NothingToRun."""
        known = [*transcripts(role), *more]
        missing = [name for name in self.names if name not in {each["name"] for each in known}]
        if missing:
            raise NothingToRun(f"there is no transcript {missing[0]!r}; --list shows them all")
        found = [each for each in known if self.takes(each)]
        if not found:
            raise NothingToRun("no transcript of this role shows that; --list shows them all")
        return found


def play(driver: Driver, transcript: Transcript, role: str, choice: Choice, memory: Memory | None = None) -> Outcome:
    """Run one transcript; whatever goes wrong becomes its verdict."""
    begun = time.monotonic()
    engine = Engine(driver, transcript, role, memory, choice.patience_ms, choice.scale)
    outcome = outcome_of(transcript, Verdict.PASS)
    try:
        engine.run()
    except Failure as failure:
        is_recommended = failure.recommended or _recommends(failure.rule)
        outcome.verdict = Verdict.INFORMATIONAL if is_recommended else Verdict.FAIL
        outcome.blamed, outcome.text = failure.rule, failure.text
        outcome.step, outcome.wanted = failure.step, failure.wanted
    except CommandFault as fault:
        outcome.verdict, outcome.text = Verdict.FAIL, str(fault)
    except Exception as fault:  # one transcript, not the run
        log.exception("conformance.fault transcript=%s", transcript["name"])
        outcome.verdict, outcome.text = Verdict.FAIL, f"a fault of the kit itself: {type(fault).__name__}: {fault}"
    outcome.took_ms = (time.monotonic() - begun) * 1000
    outcome.stood_still_ms = engine.stood_still_ms
    if outcome.verdict is not Verdict.PASS:
        outcome.exchange = engine.exchange.events
    return outcome


def judged(run: Callable[[], Outcome]) -> Outcome:
    """The verdict of a transcript. One that fails while the kit itself stands still says nothing: it is run again."""
    for _ in range(MOST_RUNS - 1):
        outcome = run()
        has_failed = outcome.verdict in (Verdict.FAIL, Verdict.INFORMATIONAL)
        if not has_failed or outcome.stood_still_ms < STOOD_STILL_MS:
            return outcome
        log.warning("conformance.stood_still transcript=%s for_ms=%d", outcome.name, outcome.stood_still_ms)
    return run()


def _recommends(rule: str) -> bool:
    return rule in rules() and rules()[rule].recommends


def outcome_of(transcript: Transcript, verdict: Verdict, text: str = "") -> Outcome:
    """A verdict without a run, or before it."""
    return Outcome(transcript["name"], transcript["about"], transcript["rules"], verdict, text=text)


def unsupported(transcript: Transcript, role: str, supports: frozenset[str]) -> Outcome | None:
    """The verdict of a transcript that asks for more than the driver supports; None if it does not."""
    missing = sorted(features.needed(role, transcript) - supports)
    if not missing:
        return None
    return outcome_of(transcript, Verdict.NOT_SUPPORTED, f"the driver does not support {', '.join(missing)}")


def run_client(argv: Sequence[str], choice: Choice, report: Report = lambda _: None) -> list[Outcome]:
    """Test a client: one COMMAND for each transcript, `choice.jobs` at once. Raises CannotRun, NothingToRun."""
    chosen = choice.of("client")
    supports = _supports(argv)
    runs = at_once(choice.jobs, lambda each: judged(lambda: _run_client(argv, each, supports, choice)), chosen)
    return list(reported(runs, report))


def _supports(argv: Sequence[str]) -> frozenset[str]:
    nothing: Transcript = {"peers": {"b": "broker"}}
    try:
        probe = ClientUnderTest(argv, nothing, Memory(), 0)
    except CommandFault as fault:
        raise CannotRun(str(fault)) from None
    try:
        return probe.wait_ready()
    except CommandFault as fault:
        raise CannotRun(str(fault)) from None
    finally:
        probe.close()


def _run_client(argv: Sequence[str], transcript: Transcript, supports: frozenset[str], choice: Choice) -> Outcome:
    left_out = unsupported(transcript, "client", supports)
    if left_out is not None:
        return left_out
    memory = Memory()
    try:
        client = ClientUnderTest(argv, transcript, memory, choice.patience_ms / 1000)
    except CommandFault as fault:
        return outcome_of(transcript, Verdict.FAIL, str(fault))
    try:
        client.wait_ready()
        return play(client, transcript, "client", choice, memory)
    except CommandFault as fault:
        return outcome_of(transcript, Verdict.FAIL, str(fault))
    finally:
        client.close()


def run_worker(argv: Sequence[str], choice: Choice, report: Report = lambda _: None) -> list[Outcome]:
    """Test a worker: one COMMAND, started anew after a failure. Raises CannotRun, NothingToRun."""
    chosen = choice.of("worker")
    worker = WorkerUnderTest(argv)
    try:
        try:
            worker.begin()
        except CommandFault as fault:
            raise CannotRun(str(fault)) from None
        runs = (judged(partial(_run_worker, worker, each, choice)) for each in chosen)
        return list(reported(runs, report))
    finally:
        worker.close()


def _run_worker(worker: WorkerUnderTest, transcript: Transcript, choice: Choice) -> Outcome:
    try:
        worker.begin()
        left_out = unsupported(transcript, "worker", worker.supports)
        outcome = left_out or play(worker, transcript, "worker", choice)
    except CommandFault as fault:
        outcome = outcome_of(transcript, Verdict.FAIL, str(fault))
    if outcome.verdict in (Verdict.FAIL, Verdict.INFORMATIONAL):
        worker.restart()
    return outcome


def at_once(jobs: int, run: Callable[[Transcript], Outcome], chosen: Sequence[Transcript]) -> Iterator[Outcome]:
    """The outcomes, in the order of the transcripts. Who interrupts it waits for those that have begun only."""
    threads = ThreadPoolExecutor(max_workers=jobs)
    try:
        yield from threads.map(run, chosen)
    finally:
        threads.shutdown(cancel_futures=True)


def reported(outcomes: Iterator[Outcome], report: Report) -> Iterator[Outcome]:
    """The same, each told to `report` as it comes."""
    for each in outcomes:
        report(each)
        yield each
