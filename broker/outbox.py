"""What waits for a peer that cannot take more now: bounded, so that nobody's slowness grows the broker.

Only droppable messages (chunks, events, progress) count: everything else is bounded by the jobs and requests of the
peer itself, and the body of a result is shared with the store.
"""

from collections import deque
from collections.abc import Callable, Sequence

Frames = Sequence[bytes]


class Outbox:
    """The frames that wait for one peer, in order."""

    __slots__ = ("_frames", "droppable_bytes")

    def __init__(self) -> None:
        self._frames: deque[tuple[Frames, int]] = deque()
        self.droppable_bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frames: Frames, *, droppable: bool) -> None:
        """Queue a message."""
        size = sum(map(len, frames)) if droppable else 0
        self._frames.append((frames, size))
        self.droppable_bytes += size

    def send(self, send: Callable[[Frames], bool]) -> bool:
        """Send in order until `send` says that it would block; True when nothing is left."""
        while self._frames:
            frames, size = self._frames[0]
            if not send(frames):
                return False
            self._frames.popleft()
            self.droppable_bytes -= size
        return True
