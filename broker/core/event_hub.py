"""Subscriptions to what happens at a broker (SPEC section 10.4). Without one, an event costs a look at an empty dict.

Events are lossless within a session: a subscriber that does not read them ends its session, like any slow consumer.
"""

from __future__ import annotations

from typing import Any, Final

from dspymq.broker.core.context import Context
from dspymq.broker.core.params import Params
from dspymq.broker.core.sessions import ClientSession
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol.errors import ProtocolError

KINDS: Final = {
    "job.submitted": "a job was taken in",
    "job.dispatched": "a job went to a worker",
    "job.requeued": "a job waits again after a lost or returned attempt",
    "job.adopted": "a job that a worker held for an earlier broker goes on",
    "job.done": "a job has its result",
    "worker.ready": "a worker said ready for the first time in a session",
    "worker.away": "a worker's session is over, its leases are kept for now",
    "worker.lost": "a worker is lost",
    "worker.lm": "a language model of a worker is throttled, not called, or called again",
    "worker.draining": "a worker gets nothing more",
    "worker.undrained": "a worker gets jobs again",
    "program.defined": "a client has defined a revision of a program",
    "program.undefined": "such a revision is forgotten",
    "program.aliased": "an alias stands for another revision",
    "circuit.opened": "a program failed again and again, and is not run for a while",
    "circuit.closed": "it is run again",
    "client.joined": "a client said hello",
    "client.left": "a client's session is over",
}
"""Every kind of event, and what it tells."""

MAX_SUBSCRIPTIONS: Final = 16
"""Of one session."""


class Subscription:
    """What one session wants to hear of."""

    __slots__ = ("kinds", "seq", "session", "sub")

    def __init__(self, sub: str, session: ClientSession, kinds: frozenset[str]) -> None:
        self.sub = sub
        self.session = session
        self.kinds = kinds
        self.seq = 0


class EventHub:
    """All subscriptions of a broker."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._subscriptions: dict[str, Subscription] = {}
        self._count = 0
        context.on_event = self._publish
        context.has_listeners = False

    def subscribe(self, params: Params) -> Any:
        """Send events of these kinds, or groups of kinds such as `job`, or all, to this session until it ends."""
        session = params.session
        assert isinstance(session, ClientSession), "workers may not subscribe"
        if session.one_shot:
            raise ProtocolError("one_shot_only", "a REQ peer cannot subscribe")
        asked = params.texts("kinds")
        kinds = {kind for kind in KINDS if not asked or kind in asked or kind.partition(".")[0] in asked}
        for name in asked:
            if name not in KINDS and name not in {kind.partition(".")[0] for kind in KINDS}:
                message = f"params.kinds: no kind {name!r}; there are {', '.join(KINDS)}"
                raise ProtocolError("invalid_params", message)
        if sum(s.session is session for s in self._subscriptions.values()) >= MAX_SUBSCRIPTIONS:
            raise ProtocolError("invalid_params", f"a session has at most {MAX_SUBSCRIPTIONS} subscriptions")
        self._count += 1
        sub = f"e{self._count}"
        self._subscriptions[sub] = Subscription(sub, session, frozenset(kinds))
        self._context.has_listeners = True
        return {"sub": sub, "kinds": sorted(kinds)}

    def unsubscribe(self, params: Params) -> Any:
        """End one subscription of this session."""
        sub = params.text("sub")
        found = self._subscriptions.get(sub)
        if found is None or found.session is not params.session:
            raise ProtocolError("invalid_params", f"params.sub: this session has no subscription {sub!r}")
        self._remove([sub])
        return {"sub": sub}

    def session_over(self, session: ClientSession) -> None:
        """Its subscriptions end with it."""
        if self._subscriptions:
            self._remove([sub for sub, s in self._subscriptions.items() if s.session is session])

    def _remove(self, subs: list[str]) -> None:
        for sub in subs:
            del self._subscriptions[sub]
        self._context.has_listeners = bool(self._subscriptions)

    def _publish(self, kind: str, details: dict[str, Any]) -> None:
        body = b""
        for subscription in self._subscriptions.values():
            if kind in subscription.kinds:
                body = body or bodies.encode(event=details)
                event = c.Event(sub=subscription.sub, seq=subscription.seq, kind=kind, at_ms=self._context.unix_ms())
                subscription.seq += 1
                self._context.to_client(subscription.session, event, body)
