"""A broker core with its peers as plain values: say what arrives, look at what goes out."""

from __future__ import annotations

from typing import Any, TypeVar

from dspymq.broker.core import BrokerCore, CoreSettings
from dspymq.broker.core import events as ev
from dspymq.broker.core.effects import DropClient, DropWorker, Effect, ToClient, ToWorker
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Header, Hello

EPOCH = "01900000-0000-7000-8000-000000000000"

T = TypeVar("T", bound=Header)


class CoreHarness:
    """Drives a core in virtual time and keeps what each peer was sent."""

    def __init__(self, **settings: Any) -> None:
        self.settings = CoreSettings(**settings)
        self.epochs = 0
        self.core = BrokerCore(self.settings, EPOCH)
        self.now_ms = 1_000_000
        self.sent: dict[Any, list[tuple[Header, bytes]]] = {}
        self.log: list[tuple[Any, Header, bytes]] = []
        """Everything that was sent, in order."""
        self.dropped: list[Any] = []

    def restart(self) -> None:
        """The broker is killed and started again: it knows nothing, and nothing that was on its way arrives."""
        self.epochs += 1
        self.core = BrokerCore(self.settings, f"{EPOCH[:-2]}{self.epochs:02d}")
        self.sent.clear()
        self.log.clear()

    def event(self, event: ev.Event) -> list[Effect]:
        effects = self.core.handle(event, self.now_ms)
        for effect in effects:
            if isinstance(effect, ToClient | ToWorker):
                self.sent.setdefault(effect.peer, []).append((effect.message, effect.body))
                self.log.append((effect.peer, effect.message, effect.body))
            elif isinstance(effect, DropClient | DropWorker):
                self.dropped.append(effect.peer)
        return effects

    def client(self, peer: Any, message: Any, body: bytes = b"") -> None:
        self.event(ev.ClientMessage(peer, message, body))
        self.event(ev.RoundOver())

    def worker(self, peer: bytes, message: Any, body: bytes = b"") -> None:
        self.event(ev.WorkerMessage(peer, message, body))
        self.event(ev.RoundOver())

    def wait(self, ms: int, *, step_ms: int = 500, heard: tuple[bytes, ...] = ()) -> None:
        """Let time pass; the workers and clients in `heard` stay alive by pings."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            self.now_ms = min(self.now_ms + step_ms, end_ms)
            for peer in heard:
                for session in (self.core.context.clients.get(peer), self.core.context.workers.get(peer)):
                    if session is not None:
                        session.heard_ms = self.now_ms
            self.event(ev.Tick())

    def log_of(self, peer: Any) -> list[tuple[Header, bytes]]:
        """Everything that the peer was sent, in order."""
        return [(message, body) for to, message, body in self.log if to == peer]

    def take(self, peer: Any, kind: type[T]) -> list[T]:
        """All messages of this kind that the peer was sent and that were not taken before."""
        kept, found = [], []
        for message, body in self.sent.get(peer, []):
            if isinstance(message, kind):
                found.append(message)
            else:
                kept.append((message, body))
        self.sent[peer] = kept
        return found

    def one(self, peer: Any, kind: type[T]) -> T:
        found = self.take(peer, kind)
        assert len(found) == 1, f"expected one {kind.__name__} for {peer!r}, got {found}"
        return found[0]

    def join_client(self, peer: bytes, name: str = "client", features: list[str] | None = None) -> None:
        self.client(peer, Hello(name=name, features=features or ["ack"]))

    def join_worker(
        self,
        peer: bytes,
        worker: str = "w1",
        *,
        slots: int = 1,
        programs: tuple[str, ...] = ("qa",),
        revision: str = "r1",
        held: list[w.Held] | None = None,
        profiles: tuple[str, ...] = (),
        features: tuple[str, ...] = ("chunks",),
    ) -> None:
        self.worker(peer, Hello(name=worker, features=list(features)))
        self.worker(peer, ready(worker, slots, programs, revision, held=held or [], profiles=profiles))

    def submit(self, peer: Any, job: str, program: str = "qa", *, body: bytes = b"", **fields: Any) -> None:
        fields.setdefault("timeout_ms", 60_000)
        self.client(peer, c.Submit(job=job, program=program, **fields), body)

    def finish(self, peer: bytes, dispatch: w.Dispatch, code: str = "OK", body: bytes = b"out", **fields: Any) -> None:
        self.worker(peer, w.Result(lease=dispatch.lease, attempt=dispatch.attempt, code=code, **fields), body)


def ready(
    worker: str,
    slots: int,
    programs: tuple[str, ...] = ("qa",),
    revision: str = "r1",
    *,
    held: list[w.Held] | None = None,
    profiles: tuple[str, ...] = (),
    more: bool = False,
) -> w.Ready:
    offers = [w.Offer(name=name, revision=revision) for name in programs]
    return w.Ready(
        worker=worker, slots={"default": slots}, programs=offers, held=held, profiles=list(profiles), more=more
    )


def held(dispatch: w.Dispatch, state: Any = "running") -> w.Held:
    return w.Held(
        lease=dispatch.lease,
        ns=dispatch.ns,
        job=dispatch.job,
        attempt=dispatch.attempt,
        digest=dispatch.digest,
        state=state,
    )
