"""One endpoint of the broker: a bound ROUTER, its codec, and an outbox for each peer that is slow."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Generic, TypeVar

import zmq

from dspymq.broker.outbox import Outbox
from dspymq.protocol import ProtocolError, encode, error_answer
from dspymq.protocol.messages import Header
from dspymq.transport import LoopSocket, Unreachable, bind, router

log = logging.getLogger("dspymq.broker")

MAX_OUTBOX_BYTES: Final = 8 * 1024 * 1024
"""What may wait for one peer, bodies of jobs aside; past it nothing of it is sent and its session ends."""

MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
"""Results and dispatches that may wait for one peer, likewise: they are still in the store, or requeued."""

P = TypeVar("P", bound=Hashable)


class Endpoint(Generic[P]):
    """Sends and receives at one address; what frames mean is the callers' business.

    `on_frames(frames)` gets each message with its routing envelope; `prefix(peer)` is the envelope of an answer.
    `on_unreachable(peer)` and `on_slow(peer)` report peers that are gone or do not read. Messages of the types in
    `with_jobs` carry what is bounded elsewhere.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        address: str,
        *,
        on_frames: Callable[[list[bytes]], None],
        on_round: Callable[[], None],
        prefix: Callable[[P], Sequence[bytes]],
        on_unreachable: Callable[[P], None],
        on_slow: Callable[[P], None],
        with_jobs: type[Header],
    ) -> None:
        self._prefix = prefix
        self._with_jobs = with_jobs
        self._on_unreachable = on_unreachable
        self._on_slow = on_slow
        self._outboxes: dict[P, Outbox] = {}
        socket = router(context)
        try:
            self._remove_file = bind(socket, address)
        except zmq.ZMQError:
            socket.close()
            raise
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.socket = LoopSocket(socket, on_frames, self._flush, on_round)

    def send(self, peer: P, message: Header, body: bytes) -> None:
        """Send now, or as soon as the peer can take it."""
        try:
            frames = [*self._prefix(peer), *encode(message, body)]
        except ProtocolError as problem:
            log.error("message_not_sent type=%s problem=%s", type(message).__name__, problem.message)
            frames = [*self._prefix(peer), *encode(error_answer(problem))]
        outbox = self._outboxes.get(peer)
        if outbox is None:
            try:
                if self.socket.send(frames):
                    return
            except Unreachable:
                self._on_unreachable(peer)
                return
            outbox = self._outboxes[peer] = Outbox()
        outbox.add(frames, counts=type(message) is not self._with_jobs)
        if outbox.counted_bytes > MAX_OUTBOX_BYTES or outbox.other_bytes > MAX_WAITING_BYTES:
            # Also of a peer that has no session, and so nothing that could end.
            self.drop(peer)
            self._on_slow(peer)

    def drop(self, peer: P) -> None:
        """Nothing that still waits for this peer is sent."""
        self._outboxes.pop(peer, None)

    def close(self, linger_ms: int) -> None:
        """Close the socket; what was handed to it may go out for a while."""
        self.socket.close(linger_ms)
        with contextlib.suppress(OSError):
            self._remove_file()

    def _flush(self) -> None:
        for peer, outbox in list(self._outboxes.items()):
            try:
                if outbox.send(self.socket.send):
                    self._outboxes.pop(peer, None)
            except Unreachable:
                self._outboxes.pop(peer, None)
                self._on_unreachable(peer)
