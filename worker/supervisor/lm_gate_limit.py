"""How many calls at once a provider that throttles takes: found out, and followed when it changes.

Additive increase, multiplicative decrease, as in TCP: one more after as many successes as the limit allows at once,
fewer when a call is throttled. Up to a limit that was too much the last time it goes slowly.
"""

from __future__ import annotations

from typing import Final

SLOW: Final = 4
MIN_SLOW: Final = 16
"""Near a limit that was too much, a step takes so many times as many successes, and so many at least."""


class Limit:
    """`value` calls may be open. It begins with half of what was open when the first ones were throttled."""

    def __init__(self) -> None:
        self.value = 1
        self._peaks: dict[str, int] = {}
        self._sizing = True
        """Executors still tell what was open."""
        self._ceiling: int | None = None
        self._credit = 0
        self._grown = False

    def size(self, executor: str, open_calls: int) -> None:
        """So many calls of this executor were open at the beginning."""
        if self._sizing:
            self._peaks[executor] = max(open_calls, self._peaks.get(executor, 0))
            self.value = max(1, sum(self._peaks.values()) // 2)

    def cut(self) -> None:
        """A call was throttled: less by a quarter where the limit had grown to, by half where it was far too much."""
        self._sizing = False
        if self._grown:
            self._ceiling = self.value
            self.value = max(1, self.value * 3 // 4)
        else:
            self.value = max(1, self.value // 2)
        self._grown = False
        self._credit = 0

    def succeeded(self) -> None:
        """A call ended well while as many were open as may be."""
        self._credit += 1
        if self._credit < self._step():
            return
        if self._ceiling is not None and self.value >= self._ceiling:
            self._ceiling = None
        self.value += 1
        self._credit = 0
        self._grown = True
        self._sizing = False

    def _step(self) -> int:
        if self._ceiling is not None and self.value + 1 >= self._ceiling:
            return max(MIN_SLOW, SLOW * self.value)
        return self.value
