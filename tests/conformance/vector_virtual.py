"""Drives a broker's core in virtual time: the wire without sockets, a second in a moment."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec

from dspymq.broker.core import BrokerCore, CoreSettings
from dspymq.broker.core import events as ev
from dspymq.broker.core.effects import Effect, ToClient, ToWorker
from dspymq.broker.core.store import digest_of
from dspymq.broker.server import _client_peer, _client_prefix
from dspymq.protocol import ProtocolError, client_codec, client_messages, encode, worker_codec

EPOCH: Final = "019a0000-0000-7000-8000-000000000001"
STEP_MS: Final = 10


def digest(program: str, revision: str | None, profile: str | None, body: bytes) -> str:
    """What the broker calls the content of such a submit."""
    submit = client_messages.Submit(job="j", program=program, revision=revision, profile=profile, timeout_ms=1)
    return digest_of(submit, body).hex()


class VirtualBroker:
    """A vector_engine.Driver. Settings are those of SPEC section 13."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = msgspec.convert(settings, CoreSettings)
        self._epochs = 0
        self._now_ms = 1_000_000
        self._kinds: dict[str, str] = {}
        self._lost: set[str] = set()
        self._came: deque[tuple[str, list[bytes]]] = deque()
        self._start(EPOCH)

    def _start(self, epoch: str) -> None:
        self._core = BrokerCore(self._settings, epoch)
        self._clients = client_codec(self._settings.limits)
        self._workers = worker_codec(self._settings.limits)
        self._handle(ev.Tick())

    def now_ms(self) -> float:
        """Virtual milliseconds."""
        return self._now_ms

    def connect(self, name: str, kind: str) -> None:
        """The peer's name is its route."""
        self._kinds[name] = kind

    def lose(self, name: str) -> None:
        """What is sent to it from now on cannot be delivered."""
        self._lost.add(name)

    def other(self, step: dict[str, Any]) -> bool:
        """Stop or restart the broker."""
        if "stop_broker" in step:
            self._handle(ev.Shutdown())
        elif "restart_broker" in step:
            self._lost |= set(self._kinds)
            self._epochs += 1
            self._start(f"{EPOCH[:7]}{self._epochs}{EPOCH[8:]}")
        else:
            return False
        return True

    def send(self, name: str, frames: list[bytes]) -> None:
        """Give the frames to the core, as the broker's shell does."""
        route = name.encode()
        if self._kinds[name] == "one-shot":
            frames = [b"", *frames]
        if self._kinds[name] == "worker":
            self._handle(self._from_worker(route, frames))
        else:
            self._handle(self._from_client([route, *frames]))
        self._handle(ev.RoundOver())

    def _from_client(self, frames: list[bytes]) -> ev.Event:
        peer, rest = _client_peer(frames)
        try:
            return ev.ClientMessage(peer, *self._clients.decode(rest))
        except ProtocolError as problem:
            return ev.BadClientMessage(peer, problem)

    def _from_worker(self, route: bytes, frames: list[bytes]) -> ev.Event:
        try:
            return ev.WorkerMessage(route, *self._workers.decode(frames))
        except ProtocolError as problem:
            return ev.BadWorkerMessage(route, problem)

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        """What was sent; if that is nothing, a step of time goes by."""
        if not self._came:
            self._now_ms += STEP_MS
            self._handle(ev.Tick())
        came, self._came = list(self._came), deque()
        return came

    def _handle(self, event: ev.Event) -> None:
        self._carry(self._core.handle(event, self._now_ms))

    def _carry(self, effects: list[Effect]) -> None:
        gone: list[ev.Event] = []
        for effect in effects:
            if not isinstance(effect, ToClient | ToWorker):
                continue
            peer = effect.peer
            frames = encode(effect.message, effect.body)
            if isinstance(effect, ToClient):
                route, *envelope = _client_prefix(peer)
                name = route.decode()
                if self._kinds[name] == "one-shot":
                    envelope = []
                lost: ev.Event = ev.ClientUnreachable(peer)
            else:
                assert isinstance(peer, bytes), "workers are routes"
                name, envelope, lost = peer.decode(), [], ev.WorkerUnreachable(peer)
            if name in self._lost:
                gone.append(lost)
            else:
                self._came.append((name, [*envelope, *frames]))
        for event in gone:
            self._handle(event)
