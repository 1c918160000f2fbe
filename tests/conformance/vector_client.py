"""Drives the real Python client: the transcript is its broker, behind a real ROUTER."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgpack
import zmq

from dspymq import Client
from dspymq.exceptions import DspymqError
from dspymq.job import Job
from dspymq.protocol import Code, Codec, ProtocolError, client_codec
from dspymq.transport import router
from tests.conformance.vector_match import Memory, Mismatch

PATIENCE_S = 15.0


class Routers:
    """The brokers of a transcript: ROUTERs at addresses of their own. A vector_engine.Driver, but for `other`."""

    def __init__(self, names: list[str], codec: Codec[Any]) -> None:
        self._codec = codec
        self.context: zmq.Context[Any] = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._routes: dict[str, bytes] = {}
        self.addresses: dict[str, str] = {}
        for name in names:
            self._bind(name, "tcp://127.0.0.1:*")

    def _bind(self, name: str, address: str) -> None:
        socket = router(self.context)
        end = time.monotonic() + PATIENCE_S
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
        self.context.destroy(linger=0)

    def now_ms(self) -> float:
        """Real milliseconds."""
        return time.monotonic() * 1000

    def connect(self, name: str, kind: str) -> None:
        """Bound from the beginning."""

    def lose(self, name: str) -> None:
        """The broker ends without a word, and another begins at the same address."""
        socket = self._sockets.pop(name)
        self._poller.unregister(socket)
        socket.close(0)
        self._bind(name, self.addresses[name])

    def send(self, name: str, frames: list[bytes]) -> None:
        """To the connection that was heard last."""
        self._sockets[name].send_multipart([self._routes[name], *frames])

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        """What has come."""
        ready = dict(self._poller.poll(wait_ms))
        found = []
        for name, socket in self._sockets.items():
            if socket in ready:
                route, *frames = socket.recv_multipart()
                self._check(route, frames)
                if msgpack.unpackb(frames[1])["t"] != "hello" and route != self._routes.get(name):
                    continue  # the last words of a connection that was given up
                self._routes[name] = route
                found.append((name, frames))
        return found

    def _check(self, route: bytes, frames: list[bytes]) -> None:
        """What is tested sends legal messages only, on a connection without an identity of its own."""
        if len(route) != 5 or route[0] != 0:
            raise Mismatch(f"the routing id {route.hex()} is not one that ZeroMQ made")
        try:
            self._codec.decode(frames)
        except ProtocolError as problem:
            raise Mismatch(f"an illegal message came: {problem} in {frames[:2]}") from None

    def other(self, step: dict[str, Any]) -> bool:
        """No more than that."""
        return False


class PythonClient(Routers):
    """The client under test, and its brokers."""

    def __init__(self, transcript: dict[str, Any], memory: Memory) -> None:
        super().__init__(list(transcript["peers"]), client_codec())
        self._memory = memory
        self._client = Client(list(self.addresses.values()), name="under-test")
        self._jobs: dict[str, Job] = {}
        self._asked: dict[str, Future[Any]] = {}
        self._threads = ThreadPoolExecutor(max_workers=4)

    def close(self) -> None:
        """Close the client, then its brokers."""
        self._client.close()
        super().close()
        self._threads.shutdown(wait=True)

    def other(self, step: dict[str, Any]) -> bool:
        """Tell the client something, or look at what its caller gets."""
        if "tell" in step:
            self._tell(step["tell"], self._memory.fill(step))
        elif "outcome" in step:
            self._outcome(step)
        elif "text" in step:
            self._text(self._jobs[step["text"]], step["fields"])
        else:
            return False
        return True

    def _tell(self, what: str, step: dict[str, Any]) -> None:
        call = step.get("call", "")
        if what == "submit":
            options = dict(step.get("options", {}))
            if "timeout_ms" in step:
                options["timeout_s"] = step["timeout_ms"] / 1000
            if "window" in step:
                options["window"] = step["window"]
            if "tools" in step:
                options["tools"] = self._tools(step["tools"])
            streams = step.get("stream", False)
            self._jobs[call] = self._client.submit(step["program"], step["inputs"], stream=streams, **options)
        elif what == "attach":
            self._jobs[call] = self._client.attach(step["job"], stream=step.get("stream", False))
        elif what == "cancel":
            self._jobs[call].cancel()
        elif what == "read":
            next(iter(self._jobs[call]))
        elif what == "ask":
            self._asked[call] = self._threads.submit(self._client.request, step["method"], step.get("params"))
        elif what == "close":
            self._threads.submit(self._client.close)
        else:
            raise AssertionError(f"no client can be told to {what}")

    def _tools(self, names: list[str]) -> list[Callable[..., Any]]:
        counter = itertools.count(1)

        def add(a: int, b: int) -> int:
            return a + b

        def count() -> int:
            return next(counter)

        def broken() -> int:
            raise RuntimeError("broken")

        known: dict[str, Callable[..., Any]] = {"add": add, "count": count, "broken": broken}
        return [known[name] for name in names]

    def _outcome(self, step: dict[str, Any]) -> None:
        call = step["outcome"]
        try:
            if call in self._asked:
                found: Any = self._asked[call].result(PATIENCE_S)
                attempt = None
            else:
                prediction = self._jobs[call].result(PATIENCE_S)
                found, attempt = prediction.outputs, prediction.attempt
        except DspymqError as error:
            code = error.code if error.code in Code.__members__ else type(error).default_code
            said = {"code": str(code), "reason": error.reason}
            wanted = {name: step[name] for name in ("code", "reason") if name in step}
            self._memory.match(wanted, said, "the outcome")
            return
        if step["code"] != "OK":
            raise Mismatch(f"the outcome is OK: {found}")
        self._memory.match(step.get("outputs", {}), found, "the outputs")
        if "attempt" in step:
            self._memory.match(step["attempt"], attempt, "the attempt")

    def _text(self, job: Job, fields: dict[str, str]) -> None:
        end = time.monotonic() + PATIENCE_S
        while dict(job.text) != fields:
            if time.monotonic() > end:
                raise Mismatch(f"the text is {dict(job.text)}, not {fields}")
            time.sleep(0.002)
