"""The open tool calls of one attempt (SPEC section 9.6). Pure: numbers, bytes and times, no future and no clock."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OpenCall:
    """A call that has no answer yet: `number` counts from 0 in its attempt, `body` is {args} as it is sent."""

    number: int
    name: str
    body: bytes
    due_ms: int


class OpenCalls:
    """Numbers calls, remembers them until they are answered or given up, and says which to send again."""

    def __init__(self) -> None:
        self._open: dict[int, OpenCall] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, name: str, body: bytes, now_ms: int, timeout_ms: int) -> OpenCall:
        """The next call; numbers are never used twice."""
        call = OpenCall(self._next, name, body, now_ms + timeout_ms)
        self._next += 1
        self._open[call.number] = call
        return call

    def close(self, number: int) -> bool:
        """Answered, or given up. False if it is not open: a second answer, a late one, or no call of this attempt."""
        return self._open.pop(number, None) is not None

    def again(self, now_ms: int) -> list[tuple[OpenCall, int]]:
        """What a client that attached must see, in order, each with the milliseconds that are left (at least 1)."""
        return [(call, max(1, call.due_ms - now_ms)) for call in self._open.values()]
