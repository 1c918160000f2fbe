"""Named points in time for a pure core: set, cancel, take those that are due."""

import heapq
import itertools
from collections.abc import Hashable
from typing import Final

_SLACK: Final = 64
"""Dead entries that are tolerated beside twice the live ones, before the heap is rebuilt."""


class Timers:
    """A heap of (time, key) in which each key stands at most once; setting a key again moves it.

    Cancelled and moved entries stay in the heap until they surface or outnumber the live ones, so that all
    operations cost O(log n) and the memory is bounded by what is live.
    """

    def __init__(self) -> None:
        self._at: dict[Hashable, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._count = itertools.count()

    def set(self, key: Hashable, at_ms: int) -> None:
        """Make `key` due at `at_ms`, and only then."""
        entry = (at_ms, next(self._count))
        self._at[key] = entry
        heapq.heappush(self._heap, (*entry, key))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._heap = [(*entry, key) for key, entry in self._at.items()]
            heapq.heapify(self._heap)

    def cancel(self, key: Hashable) -> None:
        """Forget `key`; unknown keys are fine."""
        self._at.pop(key, None)

    def at(self, key: Hashable) -> int | None:
        """When `key` is due, or None."""
        entry = self._at.get(key)
        return entry[0] if entry else None

    def next_at(self) -> int | None:
        """The earliest time at which something is due, or None."""
        self._drop_dead()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_ms: int) -> Hashable | None:
        """Take the next key that is due, or None."""
        self._drop_dead()
        if not self._heap or self._heap[0][0] > now_ms:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._at[key]
        return key

    def __len__(self) -> int:
        return len(self._at)

    def _drop_dead(self) -> None:
        heap = self._heap
        while heap:
            at_ms, count, key = heap[0]
            if self._at.get(key) == (at_ms, count):
                return
            heapq.heappop(heap)
