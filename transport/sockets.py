"""Socket options of DJP/1 (SPEC section 3.1), and why each is set."""

from typing import Any

import zmq

from dspymq.protocol.limits import HARD_FRAME_BYTES


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
