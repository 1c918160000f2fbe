"""What every part of the core shares: time, settings, ids, sessions, the outgoing effects, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dspymq.broker.core.effects import DropClient, DropWorker, Effect, Log, ToClient, ToWorker
from dspymq.broker.core.events import ClientPeer
from dspymq.broker.core.sessions import ClientSession, WorkerSession
from dspymq.broker.core.settings import CoreSettings
from dspymq.protocol.ids import lease_id
from dspymq.protocol.messages import Header

if TYPE_CHECKING:
    from dspymq.broker.core.job import Job


class Context:
    """Passed to every part of the core; nothing here decides."""

    def __init__(self, settings: CoreSettings, epoch: str) -> None:
        self.settings = settings
        self.epoch = epoch
        self.now_ms = 0
        self.started_ms: int | None = None
        self.effects: list[Effect] = []
        self.clients: dict[ClientPeer, ClientSession] = {}
        self.workers: dict[bytes, WorkerSession] = {}
        self.counts: Counter[str] = Counter()
        self.ours: dict[Job, Callable[[], None]] = {}
        """Jobs of the broker's own, and what their ends bring about."""
        self.has_listeners = False
        self.traces = False
        """Whether the operator wants to read of every job (see `journal`)."""
        self.on_event: Callable[[str, dict[str, Any]], None] = lambda kind, details: None
        self._leases = 0
        self._retries = 0
        self._sessions = 0

    def new_lease(self) -> str:
        """The next lease of this epoch."""
        self._leases += 1
        return lease_id(self.epoch, self._leases)

    def new_job_id(self) -> str:
        """An id for a job that the broker makes itself, on request."""
        self._retries += 1
        return f"{self.epoch}-r{self._retries}"

    def unix_ms(self) -> int:
        """Unix time, counted on from the epoch's (a UUIDv7 begins with the time it was made)."""
        began_ms = int(self.epoch[:13].replace("-", ""), 16)
        return began_ms + self.now_ms - (self.started_ms or self.now_ms)

    def emit(self, kind: str, **details: Any) -> None:
        """Something happened that a subscription may want to hear of."""
        if self.has_listeners:
            self.on_event(kind, details)

    def log(self, level: int, text: str) -> None:
        """Tell the operator; never of what a job carries, and of no job that takes its usual way."""
        self.effects.append(Log(level, text))

    def new_session(self) -> str:
        """The name of the next session; for logs."""
        self._sessions += 1
        return f"s{self._sessions}"

    def to_client(self, session: ClientSession, message: Header, body: bytes = b"") -> None:
        """Send to a client."""
        session.sent_ms = self.now_ms
        self.effects.append(ToClient(session.peer, message, body))

    def to_worker(self, session: WorkerSession, message: Header, body: bytes = b"") -> None:
        """Send to a worker."""
        session.sent_ms = self.now_ms
        self.effects.append(ToWorker(session.peer, message, body))

    def answer_client(self, peer: ClientPeer, message: Header, body: bytes = b"") -> None:
        """Send to a peer that may have no session."""
        session = self.clients.get(peer)
        if session is not None:
            session.sent_ms = self.now_ms
        self.effects.append(ToClient(peer, message, body))

    def answer_worker(self, peer: bytes, message: Header, body: bytes = b"") -> None:
        """Send to a peer that may have no session."""
        session = self.workers.get(peer)
        if session is not None:
            session.sent_ms = self.now_ms
        self.effects.append(ToWorker(peer, message, body))

    def drop_client(self, peer: ClientPeer) -> None:
        """Nothing that still waits for this peer is sent."""
        self.effects.append(DropClient(peer))

    def drop_worker(self, peer: bytes) -> None:
        """Nothing that still waits for this peer is sent."""
        self.effects.append(DropWorker(peer))
