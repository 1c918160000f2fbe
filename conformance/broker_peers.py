"""The peers of a transcript at the two endpoints of a broker under test."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

import msgpack
import zmq

from dspymq.conformance import legal
from dspymq.conformance.brokers import Control
from dspymq.conformance.matching import Mismatch
from dspymq.protocol import TAG
from dspymq.protocol.limits import HARD_FRAME_BYTES

_SEND_PATIENCE_MS: Final = 20_000
_BYE: Final = [TAG, msgpack.packb({"t": "bye"})]
_BYE_LINGER_MS: Final = 200


class PeersOfBroker:
    """The peers of a transcript: sockets at the endpoints of a broker. An engine.Driver; close it at the end."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._context: zmq.Context[Any] = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._endpoints: dict[str, str] = {}
        self._poller = zmq.Poller()

    def say_bye(self) -> None:
        """Let nobody wait for a peer of this transcript: what it offered and holds is over at once."""
        for name, socket in list(self._sockets.items()):
            if socket.type == zmq.DEALER:
                with contextlib.suppress(zmq.ZMQError):
                    socket.send_multipart(_BYE, zmq.DONTWAIT)
                self._poller.unregister(socket)
                del self._sockets[name]
                socket.close(_BYE_LINGER_MS)

    def close(self) -> None:
        """Close all sockets; the broker stays."""
        for socket in self._sockets.values():
            socket.close(0)
        self._context.term()

    def now_ms(self) -> float:
        """Real milliseconds."""
        return time.monotonic() * 1000

    def connect(self, name: str, kind: str) -> None:
        """A DEALER, or for one-shot clients a REQ, with the options of SPEC section 3.1."""
        socket = self._context.socket(zmq.REQ if kind == "one-shot" else zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDTIMEO, _SEND_PATIENCE_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, HARD_FRAME_BYTES)
        socket.connect(self._control.workers if kind == "worker" else self._control.clients)
        self._sockets[name] = socket
        self._endpoints[name] = "workers" if kind == "worker" else "clients"
        self._poller.register(socket, zmq.POLLIN)

    def lose(self, name: str) -> None:
        """Close the peer's socket, without a word."""
        socket = self._sockets.pop(name)
        self._poller.unregister(socket)
        socket.close(0)

    def send(self, name: str, frames: list[bytes]) -> None:
        """Send. Raises Mismatch if the broker takes nothing any more."""
        try:
            self._sockets[name].send_multipart(frames)
        except zmq.ZMQError as problem:
            self._control.check()
            raise Mismatch(f"nothing can be sent: {problem}", rule="R-3.1") from None

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        """What has come, all of it legal. Raises Mismatch for what is not."""
        ready = dict(self._poller.poll(wait_ms))
        found = []
        for name, socket in self._sockets.items():
            if socket in ready:
                frames = socket.recv_multipart()
                if TAG not in frames:
                    raise Mismatch(f"a message without a tag: {legal.shown(frames)}", rule="R-2.3")
                if legal.check(frames[frames.index(TAG) :], self._endpoints[name], by_broker=True):
                    found.append((name, frames))
        if not found:
            self._control.check()
        return found

    def other(self, step: dict[str, Any]) -> bool:
        """Stop the broker, or kill it and start it again at the same addresses."""
        if "stop_broker" in step:
            self._control.stop()
        elif "restart_broker" in step:
            for name in list(self._sockets):
                self.lose(name)
            self._control.restart()
        else:
            return False
        return True
