"""The tool calls of one job, as its client knows them: each is run once, and answered as often as it comes. Pure."""

import enum
import hashlib
from typing import Final

import msgspec

from dspymq.protocol.errors import Code

KEPT_BYTES: Final = 32 * 1024 * 1024
"""Answers of a job that are kept, in case their calls come again; past it the oldest are given up."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The content of a `tool_result`: code, message, and the body {value}."""

    code: str = Code.OK.value
    message: str | None = None
    body: bytes = b""


GIVEN_UP: Final = Answer(Code.DATA_LOSS.value, "the answer of this call is no longer kept")


class Came(enum.Enum):
    """What a call is when it comes and has no answer yet."""

    NEW = "new"
    """Never seen: to be run."""
    RUNNING = "running"
    """Seen, and being run."""
    STALE = "stale"
    """Of an attempt that is over."""


class _Call:
    __slots__ = ("answer", "attempt", "call", "content")

    def __init__(self, attempt: int, call: int, content: bytes) -> None:
        self.attempt = attempt
        self.call = call
        self.content = content
        self.answer: Answer | None = None


class ToolLedger:
    """See the module. A call is known by attempt and number, and by its content.

    The content counts because a broker that lost everything runs a job anew from attempt 1: the same numbers, but
    perhaps other calls. Runs are numbered, so that a function that still works for a call that is void answers
    nothing.
    """

    def __init__(self) -> None:
        self._attempt = 0
        self._anew = False
        self._calls: dict[int, _Call] = {}
        self._runs: dict[int, _Call] = {}
        self._next_run = 0
        self._kept_bytes = 0

    def rejoin(self, *, anew: bool) -> None:
        """The job was sent again; with `anew`, to a broker that may know nothing of it and count from the start."""
        self._anew = self._anew or anew

    def came(self, attempt: int, call: int, name: str, body: bytes) -> Came | Answer:
        """A call came: its answer if there is one already, else what to do. NEW ones must be `begin`ned at once."""
        if attempt < self._attempt and not self._anew:
            return Came.STALE
        self._anew = False
        known = self._calls.get(call) if attempt == self._attempt else None
        if known is None or known.content != _content(name, body):
            return Came.NEW
        return known.answer or Came.RUNNING

    def begin(self, attempt: int, call: int, name: str, body: bytes) -> tuple[int, bool]:
        """Note that a NEW call is run: the number of the run, and whether all runs before it are void."""
        voids = bool(self._calls) and (attempt != self._attempt or call in self._calls)
        if voids:
            self._calls.clear()
            self._runs.clear()
            self._kept_bytes = 0
        self._attempt = attempt
        self._next_run += 1
        self._calls[call] = self._runs[self._next_run] = _Call(attempt, call, _content(name, body))
        return self._next_run, voids

    def answered(self, run: int, answer: Answer) -> tuple[int, int] | None:
        """A run has its answer: attempt and number of its call, or None if it is void."""
        call = self._runs.pop(run, None)
        if call is None:
            return None
        call.answer = answer
        self._kept_bytes += len(answer.body)
        self._give_up(call)
        return call.attempt, call.call

    def _give_up(self, newest: _Call) -> None:
        for call in list(self._calls.values()) if self._kept_bytes > KEPT_BYTES else ():
            if self._kept_bytes <= KEPT_BYTES:
                return
            if call.answer is not None and call.answer.body and call is not newest:
                self._kept_bytes -= len(call.answer.body)
                call.answer = GIVEN_UP


def _content(name: str, body: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + body).digest()
