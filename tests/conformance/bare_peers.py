"""Peers that know nothing of dspymq: pyzmq, or a TCP socket, and the `msgpack` package; and a real broker to meet.

`Broker` here runs the real one on a loop of its own thread. At its end it must still be the same broker, and nothing
may have escaped from its callbacks.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgpack
import zmq

from dspymq.broker import Broker as RealBroker
from dspymq.broker import BrokerConfig
from tests.conformance.spec_rules import zmtp_octets
from tests.conformance.spec_text import read

TAG: Final = b"DJP1"
PATIENCE_S: Final = 10.0
ANY_PORT: Final = "tcp://127.0.0.1:*"

Header = dict[str, Any]


class Broker:
    """A real broker, from `with` to `stop`. Settings are those of BrokerConfig.

    Workers may be silent for longer than by default, so that a slow machine loses none in a test of something else.
    """

    def __init__(self, **settings: Any) -> None:
        self._config = BrokerConfig(**{"clients": ANY_PORT, "workers": ANY_PORT, "worker_ping_ms": 10_000, **settings})
        self.escaped: list[dict[str, Any]] = []
        self.clients = self.workers = ""
        self._started = threading.Event()

    def __enter__(self) -> Broker:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="broker", daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_S), "the broker did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and see that nothing escaped. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive(), "the broker did not stop"
        assert self.escaped == []

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, problem: self.escaped.append(problem))
        self._stop = asyncio.Event()
        real = RealBroker(self._config)
        await real.start()
        self.clients, self.workers = real.clients_address, real.workers_address
        self._started.set()
        await self._stop.wait()
        await real.stop()


class Peer:
    """One socket. Every wait has an end, and pings of the broker are answered while it waits."""

    def __init__(self, address: str, kind: int = zmq.DEALER, **options: int) -> None:
        self.socket = zmq.Context.instance().socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(address)
        self._fences = 0

    def close(self) -> None:
        """Close the socket at once."""
        self.socket.close(0)

    def send(self, header: Header | bytes, body: Any = None, *, tag: bytes = TAG) -> None:
        """Send a message; a header or body of bytes goes out as it is, anything else as msgpack."""
        frames = [tag, header if isinstance(header, bytes) else msgpack.packb(header)]
        if body is not None:
            frames.append(body if isinstance(body, bytes) else msgpack.packb(body))
        self.send_frames(*frames)

    def send_frames(self, *frames: bytes) -> None:
        """Send these frames."""
        self.socket.send_multipart(frames)

    def frames(self, timeout_s: float = PATIENCE_S) -> list[bytes]:
        """The frames of the next message."""
        assert self.socket.poll(timeout_s * 1000), f"nothing came within {timeout_s:.1f} s"
        return list(self.socket.recv_multipart())

    def receive(self, timeout_s: float = PATIENCE_S) -> tuple[Header, Any]:
        """The next message: its header, and its body (None without one, bytes if it is not msgpack)."""
        end = time.monotonic() + timeout_s
        while True:
            tag, header, *rest = self.frames(max(0.0, end - time.monotonic()))
            assert tag == TAG
            message = msgpack.unpackb(header)
            if message["t"] != "ping":
                return message, _unpacked(rest[0]) if rest else None
            self.send({"t": "pong", "n": message.get("n", 0)})

    def expect(self, t: str, timeout_s: float = PATIENCE_S, **fields: Any) -> Header:
        """The next message, which must be this one."""
        return self.expect_with_body(t, timeout_s, **fields)[0]

    def expect_with_body(self, t: str, timeout_s: float = PATIENCE_S, **fields: Any) -> tuple[Header, Any]:
        """The next message, which must be this one, and its body."""
        message, body = self.receive(timeout_s)
        found = {name: message.get(name) for name in fields}
        assert (message["t"], found) == (t, fields), message
        return message, body

    def ask(self, header: Header | bytes, body: Any = None) -> Header:
        """Send, and take the next message as the answer."""
        self.send(header, body)
        return self.receive()[0]

    def refused(self, code: str, reason: str, **fields: Any) -> Header:
        """The next message, which must be this `error`."""
        return self.expect("error", code=code, reason=reason, **fields)

    def hears_nothing_else(self) -> None:
        """Proves that nothing was sent to this peer: the next message answers a ping that is sent now (R-3.17)."""
        self._fences += 1
        self.send({"t": "ping", "n": 1_000_000 + self._fences})
        self.expect("pong", n=1_000_000 + self._fences)


class Client(Peer):
    """A client; `hello=False` leaves the greeting to the test."""

    def __init__(self, broker: Broker, name: str = "client", *, hello: bool = True, **options: int) -> None:
        super().__init__(broker.clients, **options)
        if hello:
            self.send({"t": "hello", "name": name, "features": ["ack"]})
            self.welcome = self.expect("welcome")

    def submit(self, job: str, program: str = "qa", body: Any = None, **fields: Any) -> None:
        """Send a submit; the body is {inputs: {question: job}} unless one is given."""
        header = {"t": "submit", "job": job, "program": program, "timeout_ms": 60_000, **fields}
        self.send(header, {"inputs": {"question": job}} if body is None else body)

    def result(self, job: str, code: str = "OK", **fields: Any) -> tuple[Header, Any]:
        """The next message, which must be this job's result."""
        return self.expect_with_body("result", job=job, code=code, **fields)


class Worker(Peer):
    """A worker with one lane; `ready` is sent at once, as an empty page of held, unless `slots` is None."""

    def __init__(self, broker: Broker, worker: str = "w1", slots: int | None = 1, **fields: Any) -> None:
        super().__init__(broker.workers)
        self.worker = worker
        features = fields.pop("features", ["chunks"])
        self.send({"t": "hello", "name": worker, "features": features})
        self.welcome = self.expect("welcome")
        if slots is not None:
            assert self.ready(slots, held=[], **fields) == []

    def ready(self, slots: int, body: Any = None, **fields: Any) -> list[str]:
        """Send a ready; with `held` in it the `keep` of its synced is returned."""
        programs = [{"name": "qa", "revision": "r1"}]
        header = {"t": "ready", "worker": self.worker, "slots": {"default": slots}, "programs": programs, **fields}
        self.send(header, body)
        if "held" not in fields:
            return []
        keep: list[str] = self.expect("synced").get("keep", [])
        return keep

    def dispatch(self, job: str | None = None, **fields: Any) -> Header:
        """The next message, which must be a dispatch."""
        return self.expect("dispatch", **({"job": job} if job else {}), **fields)

    def say(self, t: str, dispatch: Header, body: Any = None, **fields: Any) -> None:
        """Send a message about an attempt."""
        self.send({"t": t, "lease": dispatch["lease"], "attempt": dispatch["attempt"], **fields}, body)

    def finish(self, dispatch: Header, code: str = "OK", body: Any = None, **fields: Any) -> None:
        """End an attempt, and take the acknowledgement."""
        if body is None and code == "OK":
            body = {"outputs": {"answer": dispatch["job"]}}
        self.say("result", dispatch, body, code=code, **fields)

    def acked(self, *dispatches: Header) -> None:
        """The next message, which must acknowledge just these."""
        self.expect("ack", leases=[dispatch["lease"] for dispatch in dispatches])

    def release(self, dispatch: Header, *, started: bool, cause: str = "crash", **fields: Any) -> None:
        """Give an attempt back."""
        self.send({"t": "released", "lease": dispatch["lease"], "started": started, "cause": cause, **fields})

    def leave(self) -> None:
        """Say bye; the broker has heard it when this returns."""
        self.send({"t": "bye"})
        self.send({"t": "ping"})
        self.refused("FAILED_PRECONDITION", "no_session")
        self.close()


class RawZmtp:
    """A DEALER on a bare TCP socket, by the octets that SPEC.md's appendix A prints."""

    def __init__(self, address: str) -> None:
        greeting, ready, _ = zmtp_octets(read())
        self.socket = tcp(address)
        self.socket.sendall(greeting)
        assert self._exactly(64)[:1] == b"\xff"
        self.socket.sendall(ready)
        assert self.frame()[0] & 4, "a READY command"

    def send(self, octets: bytes) -> None:
        """Send these octets as they are."""
        self.socket.sendall(octets)

    def message(self) -> list[bytes]:
        """The frames of the next message."""
        frames = []
        while True:
            flags, data = self.frame()
            frames.append(data)
            if not flags & 1:
                return frames

    def frame(self) -> tuple[int, bytes]:
        """The flags and the octets of the next frame. Raises EOFError when the broker has closed."""
        flags = self._exactly(1)[0]
        size = struct.unpack(">Q", self._exactly(8))[0] if flags & 2 else self._exactly(1)[0]
        return flags, self._exactly(size)

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


def _unpacked(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body)
    except ValueError:
        return body


def tcp(address: str) -> socket.socket:
    """A TCP connection to an address of a broker."""
    connection = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), PATIENCE_S)
    connection.settimeout(PATIENCE_S)
    return connection


@contextmanager
def answering(address: str) -> Iterator[None]:
    """A worker in a thread, that answers each job of `qa` with its `question`, until the `with` ends.

    It greets again when the broker does not know it.
    """
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            peer = Peer(address)
            peer.send({"t": "hello", "name": "answering"})
            while not stop.is_set():
                if not peer.socket.poll(20):
                    continue
                _, packed, *rest = peer.frames()
                message = msgpack.unpackb(packed)
                if message["t"] == "welcome":
                    offers = [{"name": "qa", "revision": "r1"}]
                    ready = {"worker": f"w-{id(peer)}", "slots": {"default": 4}, "programs": offers, "held": []}
                    peer.send({"t": "ready", **ready})
                elif message["t"] == "dispatch":
                    answer = {"outputs": {"answer": msgpack.unpackb(rest[0])["inputs"]["question"]}}
                    peer.send({"t": "result", "lease": message["lease"], "attempt": 1, "code": "OK"}, answer)
                elif message["t"] == "ping":
                    peer.send({"t": "pong"})
                elif message["t"] in ("error", "bye"):
                    break
            peer.close()

    thread = threading.Thread(target=serve, name="answering", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)
