"""The open requests and pings of a client. Pure.

A request is sent again after a lost session, except those whose repetition would do something twice. Its wait is
bounded by its own timeout.
"""

from collections.abc import Callable
from typing import Any, Final

from dspymq import exceptions
from dspymq.events import Answered, AskBroker, Output, PingBroker, Send
from dspymq.exceptions import DspymqError
from dspymq.jobs import unreachable
from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Error, Ping, Pong, Reply, Request
from dspymq.session import Session
from dspymq.timers import Timers

ONCE: Final = frozenset({"jobs.retry"})
"""Methods that make something new each time they are called."""


class _Open:
    __slots__ = ("body", "deadline_ms", "method", "n", "rid", "sent", "was_sent")

    def __init__(self, rid: str, method: str, body: bytes, n: int, deadline_ms: int) -> None:
        self.rid = rid
        self.method = method
        self.body = body
        self.n = n
        self.deadline_ms = deadline_ms
        self.sent = False
        self.was_sent = False


class RequestBook:
    """See the module. Timer keys are `("request", rid)`."""

    def __init__(
        self, session: Session, *, timers: Timers, emit: Callable[[Output], None], connect_timeout_ms: int | None
    ) -> None:
        self._session = session
        self._timers = timers
        self._emit = emit
        self._connect_timeout_ms = connect_timeout_ms
        self._open: dict[str, _Open] = {}
        self._pings: dict[int, str] = {}
        self._last_n = 0

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, event: AskBroker, now_ms: int) -> None:
        """Take a request over."""
        self._add(_Open(event.rid, event.method, event.body, 0, now_ms + event.timeout_ms), now_ms)

    def ping(self, event: PingBroker, now_ms: int) -> None:
        """Take a ping over; its numbers start at 1, those of an idle session are 0."""
        self._last_n += 1
        self._pings[self._last_n] = event.rid
        self._add(_Open(event.rid, "", b"", self._last_n, now_ms + event.timeout_ms), now_ms)

    def session_up(self) -> None:
        """Send what is open."""
        for entry in list(self._open.values()):
            if not entry.sent:
                self._send(entry)

    def session_down(self) -> None:
        """What was sent has to be sent again, or fails if that could do it twice."""
        for entry in list(self._open.values()):
            entry.sent = False
            if entry.was_sent and entry.method in ONCE:
                lost = f"the session was lost; whether `{entry.method}` was done is not known"
                self._end(entry, exceptions.Unavailable(lost, reason="session_lost"))

    def reply(self, message: Reply, body: bytes) -> None:
        """The answer to a request."""
        entry = self._open.get(message.rid)
        if entry is None:
            return
        try:
            value: Any = bodies.decode(body).get("result")
        except ProtocolError as problem:
            value = exceptions.Internal(f"bad reply: {problem.message}", reason=problem.reason)
        self._end(entry, value)

    def pong(self, message: Pong) -> None:
        """The answer to a ping."""
        entry = self._open.get(self._pings.get(message.n, ""))
        if entry is not None:
            self._end(entry, None)

    def refused(self, error: Error) -> None:
        """`error` named this request."""
        self.fail(error.rid or "", exceptions.from_refusal(error))

    def fail(self, rid: str, error: DspymqError) -> None:
        """End one request with this error."""
        entry = self._open.get(rid)
        if entry is not None:
            self._end(entry, error)

    def fail_all(self, make_error: Callable[[], DspymqError]) -> None:
        """End every request."""
        for entry in list(self._open.values()):
            self._end(entry, make_error())

    def request_due(self, rid: str, now_ms: int) -> None:
        """The time to reach a broker, or the timeout, has come."""
        entry = self._open.get(rid)
        if entry is None:
            return
        if not entry.was_sent and not self._session.live:
            self._end(entry, unreachable(self._session, None))
        elif now_ms < entry.deadline_ms:
            self._timers.set(("request", rid), entry.deadline_ms)
        else:
            name = f"`{entry.method}`" if entry.method else "ping"
            late = f"{name} was not answered in time by {self._session.address}"
            self._end(entry, exceptions.DeadlineExceeded(late, reason="deadline", retryable=True))

    def _add(self, entry: _Open, now_ms: int) -> None:
        self._open[entry.rid] = entry
        due_ms = entry.deadline_ms
        if not self._session.live and self._connect_timeout_ms is not None:
            due_ms = min(due_ms, now_ms + self._connect_timeout_ms)
        self._timers.set(("request", entry.rid), due_ms)
        if self._session.live:
            self._send(entry)

    def _send(self, entry: _Open) -> None:
        entry.sent = entry.was_sent = True
        if entry.method:
            self._emit(Send(Request(rid=entry.rid, method=entry.method), entry.body))
        else:
            self._emit(Send(Ping(n=entry.n)))

    def _end(self, entry: _Open, value: Any) -> None:
        del self._open[entry.rid]
        self._pings.pop(entry.n, None)
        self._timers.cancel(("request", entry.rid))
        self._emit(Answered(entry.rid, value))
