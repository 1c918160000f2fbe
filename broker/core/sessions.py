"""Sessions of both endpoints: hello to silence (SPEC section 3). A session is bound to its route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspymq.broker.core.events import ClientPeer, OneShot

if TYPE_CHECKING:
    from dspymq.broker.core.job import Job
    from dspymq.broker.core.workers import Worker

ANONYMOUS = "anonymous"
"""The principal of everybody without authentication: one trust domain."""


class Session:
    """What both kinds share: who it is, and when it was last heard and spoken to."""

    __slots__ = ("features", "heard_ms", "name", "sent_ms", "session")

    def __init__(self, session: str, name: str, features: list[str], now_ms: int) -> None:
        self.session = session
        self.name = name
        self.features = frozenset(features)
        self.heard_ms = now_ms
        self.sent_ms = now_ms


class ClientSession(Session):
    """A client: the jobs attached to it get their answers there."""

    __slots__ = ("flow_name", "jobs", "peer", "principal")

    def __init__(self, peer: ClientPeer, session: str, name: str, features: list[str], now_ms: int) -> None:
        super().__init__(session, name, features, now_ms)
        self.peer = peer
        self.principal = ANONYMOUS
        self.flow_name = name or session
        self.jobs: dict[Job, None] = {}

    @property
    def one_shot(self) -> bool:
        """Whether this is a REQ peer: one question, one answer, no session."""
        return isinstance(self.peer, OneShot)


class WorkerSession(Session):
    """A worker's connection; `worker` is set by its first `ready`."""

    __slots__ = ("acks", "peer", "worker")

    def __init__(self, peer: bytes, session: str, name: str, features: list[str], now_ms: int) -> None:
        super().__init__(session, name, features, now_ms)
        self.peer = peer
        self.worker: Worker | None = None
        self.acks: list[str] = []
        """Leases whose results are to be acknowledged at the end of the round."""
