"""Socket options of DJP/1 (SPEC section 3.1), and why each is set."""

import errno
import os
import socket as unix
from collections.abc import Callable
from typing import Any, Final

import zmq

from dspymq.protocol.limits import HARD_FRAME_BYTES

_PROBE_S: Final = 1.0


def dealer(context: "zmq.Context[Any]") -> "zmq.Socket[bytes]":
    """A client's or worker's socket, not yet connected.

    IMMEDIATE: never queue for a broker that is not there, stale messages would fire when it comes back.
    LINGER 0: closing never hangs; what matters is acknowledged by the protocol. The identity stays empty.
    """
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
    return _common(socket, send_messages=1_000)


def router(context: "zmq.Context[Any]") -> "zmq.Socket[bytes]":
    """A broker's socket, not yet bound.

    ROUTER_MANDATORY: a send to a peer that is full or gone says so (EAGAIN, EHOSTUNREACH) instead of dropping.
    HANDSHAKE_IVL bounds connections that never greet.
    """
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    socket.setsockopt(zmq.BACKLOG, 1_024)
    # What libzmq still holds for a route that is dead is given up with its connection.
    socket.setsockopt(zmq.TCP_MAXRT, 60_000)
    # What libzmq holds for a peer is beyond the broker's own bounds, which count bytes.
    return _common(socket, send_messages=256)


def bind(socket: "zmq.Socket[bytes]", address: str) -> Callable[[], None]:
    """Bind; returns what removes the socket file of an `ipc://` path in the end, which libzmq leaves there.

    Raises zmq.ZMQError, also when somebody listens at that path: libzmq would take it from them. A file that a killed
    process left behind is replaced.
    """
    scheme, _, path = address.partition("://")
    if scheme != "ipc" or path[:1] in ("", "*", "@"):
        socket.bind(address)
        return lambda: None
    if _is_listening(path):
        raise zmq.ZMQError(errno.EADDRINUSE)
    socket.bind(address)
    ours = _file(path)

    def remove() -> None:
        # Another may have taken its place meanwhile.
        if ours is not None and _file(path) == ours:
            os.unlink(path)

    return remove


def _file(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_listening(path: str) -> bool:
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(path)
        except (TimeoutError, BlockingIOError):
            # Its queue is full: somebody is there.
            return True
        except OSError:
            return False
        return True


def _common(socket: "zmq.Socket[bytes]", *, send_messages: int) -> "zmq.Socket[bytes]":
    # No ZMTP heartbeats: libzmq would PING, and then drop, peers whose stack cannot answer.
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, HARD_FRAME_BYTES)
    socket.setsockopt(zmq.SNDHWM, send_messages)
    socket.setsockopt(zmq.RCVHWM, 1_000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    return socket
