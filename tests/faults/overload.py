"""For tests of overload: an onlooker who measures what others notice, crowds of bare clients, a broker's memory."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import zmq

from dspymq.protocol import client_codec, encode
from dspymq.protocol.messages import Header, Hello, Ping, Pong, Welcome
from tests.faults.system import PATIENCE_S, resident_mib
from tests.processes import clean_environ, wait_until

PING_BOUND_S = 10.0
"""A ping waits for one message of each client that sends. Generous: the machine may be busy with other tests."""

ONLOOKER = """
import json, sys, threading, time
from dspymq import Client
stop, problems = threading.Event(), []

def measure(one, waits):
    while not stop.wait(0.005):
        began = time.monotonic()
        try:
            one(len(waits))
        except Exception as error:
            problems.append(repr(error))
        waits.append(time.monotonic() - began)
        if len(waits) == 1:
            print(flush=True)

def call(n):
    answer = client.call(sys.argv[2], text=f"call {n}").text
    assert answer == f"call {n}", answer

pings, calls = [], []
with Client(sys.argv[1], name="onlooker", timeout_s=60) as client:
    threads = [threading.Thread(target=measure, args=(lambda n: client.ping(timeout_s=60), pings))]
    if sys.argv[2]:
        threads.append(threading.Thread(target=measure, args=(call, calls)))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
print(json.dumps([sorted(pings), sorted(calls), problems]))
"""


class Onlooker:
    """A client in a process of its own that pings without a pause, and calls, too, if there is a program that echoes.

    At the end of the block each was answered; no ping took longer than `bound_s`. What it saw is printed.
    """

    def __init__(self, address: str, echo: str = "", *, bound_s: float = PING_BOUND_S) -> None:
        self._command = [sys.executable, "-c", ONLOOKER, address, echo]
        self._loops = 2 if echo else 1
        self._bound_s = bound_s
        self.longest_s = 0.0

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, env=clean_environ(), stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        for _ in range(self._loops):
            # The first answer of each loop.
            assert self._process.stdout.readline() == "\n"
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with self._process:
            if kind is not None:
                self._process.kill()
                return
            pings, calls, problems = json.loads(self._process.communicate(timeout=2 * PATIENCE_S)[0])
        for what, waits in (("ping", pings), ("call", calls)):
            if waits:
                median_ms, longest_ms = waits[len(waits) // 2] * 1000, waits[-1] * 1000
                print(f"{len(waits)} {what}s beside it: median {median_ms:.1f} ms, longest {longest_ms:.0f} ms")
        self.longest_s = pings[-1]
        assert not problems, problems[:5]
        assert self.longest_s < self._bound_s


class Memory:
    """What a process takes in RAM over what it took when this was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = resident_mib(pid)

    @property
    def grown_mib(self) -> float:
        """Now."""
        return resident_mib(self._pid) - self._before

    @property
    def peak_mib(self) -> float:
        """At its most: of the whole life of the process."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        return kib / 1024 - self._before

    def held(self, ceiling_mib: float, rest_mib: float | None = None) -> str:
        """See that it never grew past the ceiling, and is back but for a rest; what was measured, for people."""
        peak_mib = self.peak_mib
        assert peak_mib < ceiling_mib, f"+{peak_mib:.0f} MiB, the ceiling is +{ceiling_mib:.0f}"
        if rest_mib is not None:
            # The broker gives back what is free every few seconds.
            wait_until(lambda: self.grown_mib < rest_mib, PATIENCE_S, f"memory back within {rest_mib} MiB of the start")
        return f"broker +{peak_mib:.0f} MiB at most (ceiling {ceiling_mib:.0f}), +{self.grown_mib:.0f} afterwards"


class Crowd:
    """Bare clients, each a socket and session of its own; pings are answered while anything is heard."""

    def __init__(self, address: str, count: int) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, count + 1)
        self._codec = client_codec()
        self._poller = zmq.Poller()
        self.sockets: list[zmq.Socket[bytes]] = []
        self._numbers: dict[zmq.Socket[bytes], int] = {}
        for n in range(count):
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(address)
            self._poller.register(socket, zmq.POLLIN)
            self._numbers[socket] = n
            self.sockets.append(socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Close every connection without a word. Idempotent."""
        self._context.destroy(linger=0)

    def send(self, n: int, message: Header, body: bytes = b"") -> None:
        """Client `n` says this; a large body is not copied."""
        self.sockets[n].send_multipart(encode(message, body), copy=False)

    def hello(self, timeout_s: float = PATIENCE_S) -> None:
        """Every client says hello, and has its welcome."""
        for n in range(len(self.sockets)):
            self.send(n, Hello(name=f"one of many {n}"))
        waiting = set(range(len(self.sockets)))
        for n, message, _ in self.hear(timeout_s, "a welcome for each"):
            assert isinstance(message, Welcome), message
            waiting.discard(n)
            if not waiting:
                return

    def hear(self, timeout_s: float, what: str) -> Iterator[tuple[int, Any, bytes]]:
        """Who got which message, one after the other. Raises TimeoutError that names `what` when time is over."""
        end = time.monotonic() + timeout_s
        while True:
            ready = self._poller.poll(max(0.0, end - time.monotonic()) * 1000)
            if not ready:
                raise TimeoutError(f"{what} did not happen within {timeout_s} s")
            for socket, _ in ready:
                n = self._numbers[socket]
                with contextlib.suppress(zmq.Again):
                    while True:
                        message, body = self._codec.decode(socket.recv_multipart(zmq.DONTWAIT))
                        if isinstance(message, Ping):
                            self.send(n, Pong(n=message.n))
                        else:
                            yield n, message, body


def allow_files(count: int, pid: int = 0) -> None:
    """Let a process (this one by default) open so many files, as far as its hard limit allows.

    Raises OSError if that is less.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if soft < count:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(count, hard), hard))
        if hard < count:
            raise OSError(f"at most {hard} files are allowed, {count} are needed")
