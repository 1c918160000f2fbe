"""The kit's brokers, over real sockets."""

from __future__ import annotations

import zmq

from dspymq.conformance.routers import Routers
from dspymq.protocol import encode
from dspymq.protocol.messages import Hello, Pong
from dspymq.transport import dealer


def test_what_is_said_to_a_connection_that_was_given_up_is_lost() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    routers = Routers(["b"], "clients")
    try:
        peer = dealer(context)
        peer.connect(routers.addresses["b"])
        assert peer.poll(5_000, zmq.POLLOUT)
        peer.send_multipart(encode(Hello(name="c", features=())))
        assert [name for name, _ in routers.receive(5_000)] == ["b"]
        peer.close(0)
        while _knows(routers):
            assert routers.receive(1) == []  # libzmq tells nobody; the test's timeout is the deadline
        routers.send("b", encode(Pong()))
    finally:
        routers.close()
        context.term()


def _knows(routers: Routers) -> bool:
    try:
        routers._sockets["b"].send_multipart([routers._routes["b"], *encode(Pong())], zmq.DONTWAIT)
    except zmq.ZMQError as problem:
        assert problem.errno == zmq.EHOSTUNREACH
        return False
    return True
