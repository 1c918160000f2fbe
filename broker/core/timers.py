"""Timers that cost nothing once cancelled.

A heap with lazily dropped entries would keep a finished job until its old deadline: a job with a timeout of an hour
that ends in a second. Here each timer stands in the bucket of its time, and cancelling takes it out.
"""

import heapq
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

GRANULARITY_MS: Final = 10
"""Timers fire up to this much late, never early."""

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """At most one timer a key."""

    def __init__(self) -> None:
        self._bucket_of: dict[K, int] = {}
        self._buckets: dict[int, dict[K, None]] = {}
        self._order: list[int] = []
        self._firing: deque[tuple[int, K]] = deque()

    def __len__(self) -> int:
        return len(self._bucket_of)

    def set(self, key: K, due_ms: int) -> None:
        """Start the key's timer, in place of the one it had."""
        self.cancel(key)
        bucket = -(-due_ms // GRANULARITY_MS)
        self._bucket_of[key] = bucket
        keys = self._buckets.get(bucket)
        if keys is None:
            self._buckets[bucket] = {key: None}
            heapq.heappush(self._order, bucket)
        else:
            keys[key] = None

    def cancel(self, key: K) -> None:
        """Stop the key's timer, if it has one."""
        bucket = self._bucket_of.pop(key, None)
        if bucket is not None:
            self._buckets.get(bucket, {}).pop(key, None)

    def shift(self, ms: int, latest_ms: int) -> None:
        """Let every timer fire so much later, but not after `latest_ms`."""
        for key, bucket in list(self._bucket_of.items()):
            self.set(key, min(bucket * GRANULARITY_MS + ms, latest_ms))

    def due(self, now_ms: int) -> Iterator[K]:
        """Take out every timer that is due, earliest first; one that is cancelled meanwhile does not fire.

        Who stops reading finds the rest the next time.
        """
        while True:
            while self._firing:
                bucket, key = self._firing.popleft()
                if self._bucket_of.get(key) == bucket:
                    del self._bucket_of[key]
                    yield key
            if not self._order or self._order[0] * GRANULARITY_MS > now_ms:
                return
            bucket = heapq.heappop(self._order)
            self._firing.extend((bucket, key) for key in self._buckets.pop(bucket))

    def next_ms(self) -> int | None:
        """When the next timer is due, or None."""
        if self._firing:
            return self._firing[0][0] * GRANULARITY_MS
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heapq.heappop(self._order)]
        return self._order[0] * GRANULARITY_MS if self._order else None
