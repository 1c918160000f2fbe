"""The open circuit of an LM profile: which calls may find out whether the provider is back, and when."""

from __future__ import annotations

from typing import Final

from dspymq.worker.supervisor.lm_gate_row import Key

MAX_OPEN_MS: Final = 60_000
"""The time for which a circuit is open doubles up to this, unless it began with more."""


class Circuit:
    """From when it opens to when it closes. One call at a time is let out as a probe, one a period.

    A moment in which every connection breaks is no outage, and would open a circuit all the same. So the calls that
    failed before it opened are given the retry that they have, ahead of time: one of them is let out, and the others
    wait for what it finds.
    """

    def __init__(self, now_ms: int, open_ms: int, not_before_ms: int) -> None:
        """It opens for `open_ms`, or until `not_before_ms` if that is later."""
        self.retry_at_ms = max(now_ms + open_ms, not_before_ms)
        self._open_ms = open_ms
        self._period_ms = open_ms
        self._probes: dict[Key, int] = {}
        """Since when they are out."""
        self._early: Key | None = None
        self._had_early = False

    @property
    def decides_for_retries(self) -> bool:
        """Whether an early probe is out: calls that failed before wait for its end."""
        return self._early in self._probes

    @property
    def free_ms(self) -> int:
        """When another call may be let out, as far as is known."""
        return max([self.retry_at_ms, *(began_ms + self._period_ms for began_ms in self._probes.values())])

    def lets_out(self, key: Key, now_ms: int, *, retry: bool) -> bool:
        """Whether this call is a probe now; `retry`: it has been at the provider before."""
        # A probe that takes longer than the circuit was open says nothing for now: another one may.
        if any(now_ms - began_ms < self._period_ms for began_ms in self._probes.values()):
            return False
        if now_ms < self.retry_at_ms:
            if self._had_early or not retry:
                return False
            self._had_early = True
            self._early = key
        self._probes[key] = now_ms
        return True

    def is_probe(self, key: Key) -> bool:
        """Whether this call was let out."""
        return key in self._probes

    def no_verdict(self, key: Key) -> bool:
        """A call has found out nothing, if it was let out at all; whether those who wait for it may try now."""
        if self._probes.pop(key, None) is None or key != self._early:
            return False
        self._had_early = False
        return True

    def failed(self, key: Key, now_ms: int, not_before_ms: int) -> None:
        """A probe has failed: open for twice as long, and until `not_before_ms` at least; an early one changes less."""
        del self._probes[key]
        if key == self._early:
            self.retry_at_ms = max(self.retry_at_ms, not_before_ms)
            return
        self._period_ms = min(2 * self._period_ms, max(MAX_OPEN_MS, self._open_ms))
        self.retry_at_ms = max(now_ms + self._period_ms, not_before_ms)
