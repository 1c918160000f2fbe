"""What the language models counted: each pool has one of its own, so that it is known which of them asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.lm import JobStats, ScriptedLM


class Asked(NamedTuple):
    """A request: when it came (time.monotonic()), and of which pool."""

    at_s: float
    pool: str


class Requests:
    """The books of all LMs; call names are the jobs there."""

    def __init__(self, lms: Mapping[str, ScriptedLM]) -> None:
        self._lms = lms

    def names(self) -> set[str]:
        """The jobs that were seen."""
        return {name for lm in self._lms.values() for name in lm.jobs}

    def open(self) -> int:
        """Requests being answered now."""
        return sum(lm.open for lm in self._lms.values())

    def of(self, call: str) -> list[Asked]:
        """A call's requests, in their order."""
        return sorted(Asked(at_s, pool) for pool, lm in self._lms.items() for at_s in lm.job(call).started_at_s)

    def count(self, call: str) -> JobStats:
        """A call's requests, answers, tokens and closed requests, of all pools."""
        total = JobStats()
        for lm in self._lms.values():
            seen = lm.job(call)
            total.requests += seen.requests
            total.ok += seen.ok
            total.tokens += seen.tokens
            total.disconnects += seen.disconnects
        return total

    def closed_s(self, call: str, asked: Asked) -> float | None:
        """When this request was closed by its pool; None if it was answered, or that is not sure."""
        seen = self._lms[asked.pool].job(call)
        return seen.disconnected_at_s[0] if seen.requests == seen.disconnects == 1 else None
