"""What waits for a peer that cannot take more now: bounded, so that nobody's slowness grows the broker.

Two sums are kept. What counts is everything that a peer brings about by its own messages (answers, errors, chunks,
events); bodies of results and dispatches do not, since they are bounded by their jobs, and have a bound of their own.
"""

from collections import deque
from collections.abc import Callable, Sequence

Frames = Sequence[bytes]


class Outbox:
    """The frames that wait for one peer, in order."""

    __slots__ = ("_frames", "counted_bytes", "other_bytes")

    def __init__(self) -> None:
        self._frames: deque[tuple[Frames, int, int]] = deque()
        self.counted_bytes = 0
        self.other_bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frames: Frames, *, counts: bool) -> None:
        """Queue a message."""
        size = sum(map(len, frames))
        counted, other = (size, 0) if counts else (0, size)
        self._frames.append((frames, counted, other))
        self.counted_bytes += counted
        self.other_bytes += other

    def send(self, send: Callable[[Frames], bool]) -> bool:
        """Send in order until `send` says that it would block; True when nothing is left."""
        while self._frames:
            frames, counted, other = self._frames[0]
            if not send(frames):
                return False
            self._frames.popleft()
            self.counted_bytes -= counted
            self.other_bytes -= other
        return True
