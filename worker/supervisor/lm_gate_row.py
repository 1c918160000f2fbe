"""The row in which calls wait for their turn at the gate of an LM profile."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

Key = tuple[str, str]
"""What names a call: its executor and its rid."""


class Waiter(NamedTuple):
    """A call that waits: until `give_up_ms`, and for no pause that ends after `end_ms`. A small `ticket` goes first."""

    ticket: int
    executor: str
    rid: str
    give_up_ms: int
    end_ms: int
    retry: bool

    @property
    def key(self) -> Key:
        """What names it."""
        return self.executor, self.rid


class Row:
    """First come, first served, and nobody waits for longer than it wants."""

    def __init__(self) -> None:
        self._waiting: dict[Key, Waiter] = {}
        # Both hold some that wait no more: whoever came first, or gives up first, mostly is the first to leave.
        self._by_ticket: list[Waiter] = []
        self._by_end: list[tuple[int, Waiter]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(list(self._waiting.values()))

    @property
    def next_ms(self) -> int | None:
        """When the next one gives up."""
        self._forget()
        return self._by_end[0][0] if self._by_end else None

    def add(self, waiter: Waiter) -> None:
        """It waits."""
        self._forget()
        self._waiting[waiter.key] = waiter
        heapq.heappush(self._by_ticket, waiter)
        heapq.heappush(self._by_end, (waiter.give_up_ms, waiter))

    def remove(self, key: Key) -> None:
        """It waits no more, if it did."""
        self._waiting.pop(key, None)

    def first(self) -> Waiter:
        """Take out the one whose turn it is; there must be one."""
        self._forget()
        return self._waiting.pop(heapq.heappop(self._by_ticket).key)

    def late(self, now_ms: int) -> list[Waiter]:
        """Take out those who give up."""
        found = []
        while (due_ms := self.next_ms) is not None and due_ms <= now_ms:
            found.append(self._waiting.pop(heapq.heappop(self._by_end)[1].key))
        return found

    def all(self) -> list[Waiter]:
        """Take out everybody, in order."""
        found = sorted(self._waiting.values())
        for place in (self._waiting, self._by_ticket, self._by_end):
            place.clear()
        return found

    def _forget(self) -> None:
        while self._by_ticket and self._waiting.get(self._by_ticket[0].key) is not self._by_ticket[0]:
            heapq.heappop(self._by_ticket)
        while self._by_end and self._waiting.get(self._by_end[0][1].key) is not self._by_end[0][1]:
            heapq.heappop(self._by_end)
