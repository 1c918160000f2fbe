"""Bare peers for both endpoints of a broker: they say what a test makes them say, and hear what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import zmq

from dspymq.protocol import body as bodies
from dspymq.protocol import client_codec, encode, new_uuid7, worker_codec
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Header, Hello, Ping, Pong, Welcome

M = TypeVar("M", bound=Header)
WAIT_S = 10.0


class RawPeer:
    """A DEALER, or what `kind` says. It answers pings while it waits, unless `answers_pings` is False."""

    def __init__(self, address: str, codec: Any, *, kind: int = zmq.DEALER, answers_pings: bool = True) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 200_000)
        self.socket.connect(address)
        self._codec = codec
        self._answers_pings = answers_pings
        self.seen: list[tuple[Any, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def send(self, message: Header, body: bytes = b"") -> None:
        self.socket.send_multipart(encode(message, body))

    def send_frames(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def receive(self, timeout_s: float = WAIT_S) -> tuple[Any, bytes] | None:
        """The next message but pongs, and pings that are answered; None if none comes."""
        end = time.monotonic() + timeout_s
        while self.socket.poll(max(0.0, end - time.monotonic()) * 1000):
            frames = self.socket.recv_multipart()
            if b"DJP1" in frames[1:3]:
                # The envelope of what was taken for a REQ peer's message.
                frames = frames[frames.index(b"DJP1") :]
            message, body = self._codec.decode(frames)
            if isinstance(message, Ping) and self._answers_pings:
                self.send(Pong(n=message.n))
            elif not isinstance(message, Pong):
                self.seen.append((message, body))
                return message, body
        return None

    def expect(
        self, kind: type[M], where: Callable[[M], bool] = lambda _: True, timeout_s: float = WAIT_S
    ) -> tuple[M, bytes]:
        """The next message of this kind; others stay in `seen`."""
        end = time.monotonic() + timeout_s
        while (got := self.receive(max(0.0, end - time.monotonic()))) is not None:
            if isinstance(got[0], kind) and where(got[0]):
                return got[0], got[1]
        raise AssertionError(f"no {kind.__name__} came; seen: {[type(m).__name__ for m, _ in self.seen[-20:]]}")

    def round_trip(self, n: int = 4_711) -> None:
        """Wait until the broker has heard all that was sent before."""
        self.send(Ping(n=n))
        end = time.monotonic() + WAIT_S
        while self.socket.poll(max(0.0, end - time.monotonic()) * 1000):
            message, body = self._codec.decode(self.socket.recv_multipart())
            if isinstance(message, Pong) and message.n == n:
                return
            self.seen.append((message, body))
        raise AssertionError("no pong came")

    def hello(self, name: str = "raw", features: Sequence[str] = ()) -> Welcome:
        """Say hello, and return the welcome."""
        self.send(Hello(name=name, features=list(features)))
        return self.expect(Welcome)[0]


class RawClient(RawPeer):
    """A client without a session, until it says hello."""

    def __init__(self, address: str, *, kind: int = zmq.DEALER, answers_pings: bool = True) -> None:
        super().__init__(address, client_codec(), kind=kind, answers_pings=answers_pings)

    def submit(self, program: str, job: str = "", timeout_ms: int = 30_000, **inputs: Any) -> str:
        """Submit a job with these inputs."""
        job = job or new_uuid7()
        self.send(c.Submit(job=job, program=program, timeout_ms=timeout_ms), bodies.encode(inputs=inputs))
        return job

    def result(self, job: str, timeout_s: float = WAIT_S) -> tuple[c.Result, dict[str, Any]]:
        """The first result of a job, and its outputs."""
        came = [(m, b) for m, b in self.seen if isinstance(m, c.Result) and m.job == job]
        message, body = came[0] if came else self.expect(c.Result, lambda result: result.job == job, timeout_s)
        return message, bodies.decode(body).get("outputs") or {}


class RawWorker(RawPeer):
    """A worker that offers what it is told to."""

    def __init__(self, address: str, *, answers_pings: bool = True) -> None:
        super().__init__(address, worker_codec(), answers_pings=answers_pings)
        self.name = new_uuid7()

    def ready(self, slots: int, *programs: str, body: bytes = b"", **fields: Any) -> None:
        """The first `ready` of a session; waits for `synced`."""
        offers = [w.Offer(name=name, revision="1") for name in programs]
        self.send(
            w.Ready(worker=self.name, slots={"default": slots}, programs=offers, held=[], **fields),
            body,
        )
        self.expect(w.Synced)

    def answer(self, dispatch: w.Dispatch, outputs: dict[str, Any] | None = None, **fields: Any) -> None:
        """A result for this dispatch; OK unless `fields` say otherwise."""
        values: dict[str, Any] = {"lease": dispatch.lease, "attempt": dispatch.attempt, "code": "OK", "revision": "1"}
        self.send(w.Result(**(values | fields)), bodies.encode(outputs=outputs or {}))
