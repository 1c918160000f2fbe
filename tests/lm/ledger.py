"""What the scripted LM has seen, under one lock, and waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class JobStats:
    """One job's requests (or everybody's). Times are time.monotonic() seconds."""

    requests: int = 0
    open: int = 0
    peak_open: int = 0
    ok: int = 0
    errors: int = 0
    disconnects: int = 0
    pieces: int = 0
    tokens: int = 0
    started_at_s: list[float] = field(default_factory=list)
    disconnected_at_s: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Entry:
    """One request's place in the ledger; its outcome is written once, later ones are ignored.

    Written before the bytes are sent, so that a client that has its answer finds it counted.
    """

    def __init__(self, ledger: Ledger, job: str, number: int) -> None:
        self._ledger = ledger
        self._open = True
        self.job = job
        self.number = number

    def piece(self) -> None:
        """A streamed piece is written."""
        self._ledger._add(self.job, pieces=1)

    def answered(self, tokens: int = 0) -> None:
        """The answer, or the end of its stream, is written."""
        self._close(ok=1, tokens=tokens)

    def failed(self) -> None:
        """A scripted failure is answered, or the connection dropped on purpose."""
        self._close(errors=1)

    def disconnected(self) -> None:
        """The client went away before its answer was complete."""
        self._close(disconnects=1)

    def _close(self, **counts: int) -> None:
        if self._open:
            self._open = False
            self._ledger._add(self.job, open=-1, **counts)


class Ledger:
    """Counts per job and in all. Thread-safe; every change wakes the waiters."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: dict[str, JobStats] = {}
        self._all = JobStats()

    def begin(self, job: str, text: str) -> Entry:
        """A request of `job` arrived ("" if it names none); its number within the job counts from 1."""
        with self._changed:
            mine = self._jobs.setdefault(job, JobStats())
            for stats in (mine, self._all):
                stats.started_at_s.append(time.monotonic())
                stats.requests += 1
            mine.texts.append(text[:4000])
            self._add(job, open=1)
            return Entry(self, job, mine.requests)

    def job(self, job: str) -> JobStats:
        """A copy of this job's counts; all zero for a job that was never seen."""
        with self._changed:
            return _copy(self._jobs.get(job, JobStats()))

    def total(self) -> JobStats:
        """A copy of everybody's counts (without texts)."""
        with self._changed:
            return _copy(self._all)

    def count(self, name: str) -> int:
        """One count of everybody's, by its name in JobStats."""
        with self._changed:
            return int(getattr(self._all, name))

    def jobs(self) -> list[str]:
        """The jobs seen, in the order of their first request."""
        with self._changed:
            return list(self._jobs)

    def wait_for(self, predicate: Callable[[], T], timeout_s: float) -> T:
        """Wait until `predicate()` is true and return its value. Raises TimeoutError with what was seen.

        It runs under the ledger's lock at every change: keep it quick.
        """
        with self._changed:
            value = self._changed.wait_for(predicate, timeout_s)
            if value:
                return value
            seen = "; ".join(
                f"{job or 'no job'}: {s.requests} requests, {s.open} open, {s.ok} ok, {s.errors} errors, "
                f"{s.disconnects} disconnects, {s.pieces} pieces"
                for job, s in list(self._jobs.items())[:20]
            )
            raise TimeoutError(f"not within {timeout_s} s; the LM saw: {seen or 'no request'}")

    def _add(self, job: str, **counts: int) -> None:
        with self._changed:
            for stats in (self._jobs[job], self._all):
                for name, count in counts.items():
                    setattr(stats, name, getattr(stats, name) + count)
                stats.peak_open = max(stats.peak_open, stats.open)
                if counts.get("disconnects"):
                    stats.disconnected_at_s.append(time.monotonic())
            self._changed.notify_all()


def _copy(s: JobStats) -> JobStats:
    copy = JobStats(**vars(s))
    copy.started_at_s, copy.disconnected_at_s = list(s.started_at_s), list(s.disconnected_at_s)
    copy.texts = list(s.texts)
    return copy
