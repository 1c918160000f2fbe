"""The subscriptions of a client to its broker's events (SPEC section 10.4). Pure.

A subscription lives in a session; here it is made anew in each. The first event after that says with `gap` that some
may have been missed.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dspymq import exceptions
from dspymq.events import EventArrived, Output, Send, Subscribe, SubscriptionEnded, SubscriptionReady
from dspymq.exceptions import DspymqError
from dspymq.protocol import body as bodies
from dspymq.protocol.client_messages import Event
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Error, Reply, Request
from dspymq.session import Session

_PREFIX: Final = "sub-"


class BrokerEvent(msgspec.Struct, frozen=True):
    """Something happened at the broker: `kind` (such as `job.done`), when (Unix time), and what is known of it.

    `gap` says that events before this one may have been missed.
    """

    kind: str
    at_ms: int
    details: dict[str, Any]
    gap: bool = False


class _Open:
    __slots__ = ("gap", "kinds", "next_seq", "ready", "sub")

    def __init__(self, kinds: list[str]) -> None:
        self.kinds = kinds
        self.sub: str | None = None
        self.next_seq = 0
        self.ready = False
        self.gap = False


class SubscriptionBook:
    """See the module. `key` is the client's own name of a subscription, `sub` the broker's."""

    def __init__(self, session: Session, *, emit: Callable[[Output], None]) -> None:
        self._session = session
        self._emit = emit
        self._open: dict[str, _Open] = {}
        self._by_sub: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, event: Subscribe) -> None:
        """Take a subscription over."""
        self._open[event.key] = _Open(list(event.kinds))
        if self._session.live:
            self._send(event.key)

    def close(self, key: str) -> None:
        """The caller wants no more of it."""
        entry = self._open.pop(key, None)
        if entry is not None and entry.sub is not None:
            self._by_sub.pop(entry.sub, None)
            if self._session.live:
                body = bodies.encode(params={"sub": entry.sub})
                self._emit(Send(Request(rid=f"un{_PREFIX}{key}", method="events.unsubscribe"), body))

    def session_up(self) -> None:
        """Subscribe anew."""
        for key in self._open:
            self._send(key)

    def session_down(self) -> None:
        """What the broker had is gone with the session."""
        self._by_sub.clear()
        for entry in self._open.values():
            entry.sub = None
            entry.gap = entry.ready

    def reply(self, message: Reply, body: bytes) -> bool:
        """Whether this was the answer to one of ours."""
        key = message.rid.removeprefix(_PREFIX)
        entry = self._open.get(key)
        if entry is None or key == message.rid:
            return False
        try:
            entry.sub = str(bodies.decode(body)["result"]["sub"])
        except (ProtocolError, KeyError, TypeError) as problem:
            self._end(key, exceptions.Internal(f"bad reply to events.subscribe: {problem}"))
            return True
        entry.next_seq = 0
        self._by_sub[entry.sub] = key
        if not entry.ready:
            entry.ready = True
            self._emit(SubscriptionReady(key))
        return True

    def refused(self, error: Error) -> bool:
        """Whether this `error` named one of ours."""
        key = (error.rid or "").removeprefix(_PREFIX)
        if key == error.rid or key not in self._open:
            return False
        self._end(key, exceptions.from_refusal(error))
        return True

    def event(self, message: Event, body: bytes) -> None:
        """An event; those of a subscription that was closed here meanwhile are dropped."""
        key = self._by_sub.get(message.sub)
        entry = self._open.get(key or "")
        if key is None or entry is None:
            return
        gap = entry.gap or message.seq != entry.next_seq
        entry.gap = False
        entry.next_seq = message.seq + 1
        try:
            details = bodies.part(body, "event")
        except ProtocolError:
            details, gap = {}, True
        self._emit(EventArrived(key, BrokerEvent(message.kind, message.at_ms, details, gap)))

    def fail_all(self, make_error: Callable[[], DspymqError]) -> None:
        """End every subscription."""
        for key in list(self._open):
            self._end(key, make_error())

    def _send(self, key: str) -> None:
        body = bodies.encode(params={"kinds": self._open[key].kinds})
        self._emit(Send(Request(rid=f"{_PREFIX}{key}", method="events.subscribe"), body))

    def _end(self, key: str, error: DspymqError) -> None:
        entry = self._open.pop(key)
        if entry.sub is not None:
            self._by_sub.pop(entry.sub, None)
        self._emit(SubscriptionEnded(key, error))
