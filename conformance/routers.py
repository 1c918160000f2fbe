"""The brokers that a client or worker under test connects to: bare ROUTERs, whose every word is a transcript's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgpack
import zmq

from dspymq.conformance import legal
from dspymq.conformance.matching import Mismatch
from dspymq.protocol import encode
from dspymq.protocol.messages import Error
from dspymq.transport import router

_BIND_PATIENCE_S: Final = 15.0
_NO_SESSION: Final = encode(Error(code="FAILED_PRECONDITION", reason="no_session", retryable=True))
_IGNORED: Final = ("pong", "bye", "error")
"""What R-3.8 ignores without a session."""


class Routers:
    """ROUTERs at addresses of their own, by the names that a transcript has for them.

    An engine.Driver but for `other`. `endpoint` is `clients` or `workers`; those of `one_shot` are for REQ sockets.
    """

    def __init__(self, names: Sequence[str], endpoint: str, one_shot: Collection[str] = ()) -> None:
        self._endpoint = endpoint
        self._envelopes: dict[str, list[bytes]] = {name: [] for name in one_shot}
        self._context: zmq.Context[Any] = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._routes: dict[str, bytes] = {}
        self._former: dict[str, set[bytes]] = {name: set() for name in names}
        self._greeted: set[str] = set()
        self.addresses: dict[str, str] = {}
        for name in names:
            self._bind(name, "tcp://127.0.0.1:*")

    def _bind(self, name: str, address: str) -> None:
        socket = router(self._context)
        end = time.monotonic() + _BIND_PATIENCE_S
        while True:
            try:
                socket.bind(address)
                break
            except zmq.ZMQError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        self.addresses[name] = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._sockets[name] = socket
        self._poller.register(socket, zmq.POLLIN)

    def close(self) -> None:
        """Close all."""
        self._context.destroy(linger=0)

    def now_ms(self) -> float:
        """Real milliseconds."""
        return time.monotonic() * 1000

    def connect(self, name: str, kind: str) -> None:
        """Bound from the beginning."""

    def lose(self, name: str) -> None:
        """The broker ends without a word, and another begins at the same address: all routes to it are new."""
        self._former[name].clear()
        socket = self._sockets.pop(name)
        self._poller.unregister(socket)
        socket.close(0)
        self._bind(name, self.addresses[name])

    def begin_anew(self, name: str) -> None:
        """As `lose`, and what was connected before is forgotten."""
        self._routes.pop(name, None)
        self._former[name].clear()
        self.lose(name)

    def send(self, name: str, frames: list[bytes]) -> None:
        """To the connection that was heard last. Raises Mismatch if it cannot take any more.

        A peer may give a connection up at any time (R-3.9): what is said to it then is lost, as on any network.
        """
        if name not in self._routes:
            raise Mismatch("nobody has said hello", rule="R-3.6")
        before = [self._routes[name], *self._envelopes.get(name, ())]
        try:
            self._sockets[name].send_multipart([*before, *frames], zmq.DONTWAIT)
        except zmq.ZMQError as problem:
            if problem.errno != zmq.EHOSTUNREACH:
                raise Mismatch(f"the connection takes nothing: {problem}") from None

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        """What has come, all of it legal. Raises Mismatch for what is not."""
        ready = dict(self._poller.poll(wait_ms))
        found = []
        for name, socket in self._sockets.items():
            if socket in ready:
                route, *frames = socket.recv_multipart()
                if name in self._envelopes:
                    found.append((name, self._opened(name, route, frames)))
                elif self._is_to_be_heard(name, route, frames):
                    found.append((name, frames))
        return found

    def _opened(self, name: str, route: bytes, frames: list[bytes]) -> list[bytes]:
        """What a REQ socket has sent, without its envelope (SPEC section 3.6)."""
        _see_that_it_is_made_by_zeromq(route)
        if b"" not in frames[:2]:
            raise Mismatch(f"no envelope of a REQ socket: {legal.shown(frames)}", rule="R-3.24")
        end = frames.index(b"") + 1
        self._routes[name], self._envelopes[name] = route, frames[:end]
        legal.check(frames[end:], self._endpoint, by_broker=False)
        return frames[end:]

    def _is_to_be_heard(self, name: str, route: bytes, frames: list[bytes]) -> bool:
        """Whether it is a message of the newest connection."""
        _see_that_it_is_made_by_zeromq(route)
        if not legal.check(frames, self._endpoint, by_broker=False):
            return False
        t = msgpack.unpackb(frames[1])["t"]
        if t == "hello":
            self._routes[name] = route
            self._former[name].add(route)
            self._greeted.add(name)
        elif name not in self._greeted:
            raise Mismatch(f"the first message is `{t}`, not hello", rule="R-3.6")
        elif route not in self._former[name]:
            # ZeroMQ may connect again without the peer's noticing: then it has no session, and is told so.
            if t not in _IGNORED:
                with contextlib.suppress(zmq.ZMQError):
                    self._sockets[name].send_multipart([route, *_NO_SESSION], zmq.DONTWAIT)
            return False
        # Else these may be the last words of a connection that was given up.
        return route == self._routes.get(name)

    def forget_peers(self) -> None:
        """What is connected from now on is another process."""
        self._greeted.clear()


def _see_that_it_is_made_by_zeromq(route: bytes) -> None:
    if len(route) != 5 or route[0] != 0:
        raise Mismatch(f"the ZeroMQ identity is {route!r}, and must be left empty", rule="R-3.4")
