"""Thousands of clients at once, and thousands that come and vanish: others are served, and nothing is left of them."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import Counter

import pytest

from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import encode
from dspymq.protocol.messages import Hello, Request
from tests.faults.overload import Crowd, Memory, Onlooker, allow_files
from tests.faults.system import PATIENCE_S, open_files, running_system
from tests.processes import wait_until

CLIENTS = 2_000
CLIENT_KIB = 64
"""Of a client with a job and its result; about half of it when it is idle (docs/operations.md, "Sizes")."""

REST_MIB = 32


@pytest.mark.soak
@pytest.mark.timeout(240)
def test_2000_clients_at_once_each_get_their_one_result_and_vanish() -> None:
    try:
        # Each socket of a client has two.
        allow_files(2 * CLIENTS + 500)
    except OSError as error:
        pytest.skip(f"{CLIENTS} clients need more files: {error}")
    with running_system(processes=1, broker_environ={"DSPYMQ_BROKER_ORPHAN_MS": "1000"}) as system:
        broker = system.broker
        allow_files(CLIENTS + 500, broker.pid)
        files, sessions = open_files(broker.pid), system.client.stats()["clients"]
        memory = Memory(broker.pid)
        with Onlooker(broker.clients, "echo"), Crowd(broker.clients, CLIENTS) as crowd:
            crowd.hello()
            assert system.client.stats()["clients"] == sessions + CLIENTS + 1
            each_kib = memory.grown_mib * 1024 / CLIENTS
            for round_number in range(2):
                one_job_each(crowd, round_number)
            assert system.client.stats()["clients"] == sessions + CLIENTS + 1
            for n in range(CLIENTS):
                crowd.send(n, submit(f"last-{n}", "nap"), bodies.encode(inputs={"ms": 60_000}))
            wait_until(lambda: system.client.stats()["jobs"]["live"] >= CLIENTS, PATIENCE_S, "a job of each")
            crowd.vanish()
            wait_until(lambda: system.client.stats()["clients"] == sessions + 1, 2 * PATIENCE_S, "the end of sessions")
            wait_until(lambda: system.client.stats()["jobs"]["live"] <= 1, PATIENCE_S, "the end of their jobs")
            wait_until(lambda: open_files(broker.pid) <= files + 2, PATIENCE_S, "the end of their connections")
        print(f"{each_kib:.0f} KiB a client; {memory.held(CLIENTS * CLIENT_KIB / 1024, REST_MIB)}")


def submit(job: str, program: str) -> c.Submit:
    return c.Submit(job=job, program=program, timeout_ms=120_000)


def one_job_each(crowd: Crowd, number: int) -> None:
    """Every client submits a job, and has its own result."""
    for n in range(CLIENTS):
        crowd.send(n, submit(f"{number}-{n}", "echo"), bodies.encode(inputs={"text": f"client {n}"}))
    results: Counter[int] = Counter()
    for n, message, body in crowd.hear(2 * PATIENCE_S, "a result for each"):
        assert isinstance(message, c.Result), message
        assert (message.job, message.code) == (f"{number}-{n}", "OK")
        assert bodies.decode(body)["outputs"]["text"] == f"client {n}"
        results[n] += 1
        crowd.send(n, c.Ack(jobs=[message.job]))
        if len(results) == CLIENTS:
            break
    assert set(results.values()) == {1}


def frames(*parts: bytes) -> bytes:
    """A message in ZMTP's framing; short frames only."""
    last = len(parts) - 1
    return b"".join(bytes([n < last, len(part)]) + part for n, part in enumerate(parts))


GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
PROPERTY = b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
READY = b"\x04" + bytes([len(b"\x05READY" + PROPERTY)]) + b"\x05READY" + PROPERTY
HELLO = frames(*encode(Hello(name="storm")))
HANDSHAKE = (GREETING + READY, b"READY")
STAGES: dict[str, list[tuple[bytes, bytes]]] = {
    "connected": [],
    "half a greeting": [(GREETING[:20], b"")],
    "half a handshake": [(GREETING + READY[:10], b"NULL")],
    "said hello": [HANDSHAKE, (HELLO, b"welcome")],
    "submitted": [HANDSHAKE, (HELLO, b"welcome"), (b"", b"accepted")],
}
"""How far a peer gets before it vanishes: what it sends, and what it then waits for. The submit is made up."""

EACH = 1_000
AT_ONCE = 100
SILENT = 100
"""Connections that stay, and never greet: HANDSHAKE_IVL ends them."""


def submission(n: int) -> bytes:
    message = c.Submit(job=f"storm-{n}", program="nap", timeout_ms=60_000, want=["accepted"])
    return frames(*encode(message, bodies.encode(inputs={"ms": 60_000})))


def read_until(peer: socket.socket, heard: bytes) -> None:
    got = b""
    while heard not in got:
        more = peer.recv(4_096)
        assert more, f"closed before {heard!r} came, after {got!r}"
        got += more


def vanish(address: tuple[str, int], steps: list[tuple[bytes, bytes]], numbers: range) -> None:
    """Peers that come this far side by side, and vanish: every other one with a reset, the others in order."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S)) for _ in numbers]
        for peer in peers[::2]:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for said, heard in steps:
            for n, peer in zip(numbers, peers, strict=True):
                peer.sendall(said or submission(n))
            for peer in peers:
                read_until(peer, heard)


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_a_storm_of_connections_that_vanish_at_every_stage() -> None:
    """5,000 peers: the file descriptors come back, and the jobs of those that had one are cancelled."""
    settings = {"DSPYMQ_BROKER_ORPHAN_MS": "500", "DSPYMQ_BROKER_CLIENT_PING_MS": "2000"}
    with running_system(processes=1, broker_environ=settings) as system, contextlib.ExitStack() as silent:
        broker = system.broker
        host, port = broker.clients.removeprefix("tcp://").rsplit(":", 1)
        address = (host, int(port))
        files, sessions = open_files(broker.pid), system.client.stats()["clients"]
        memory = Memory(broker.pid)
        with Onlooker(broker.clients, "echo"):
            for n in range(SILENT):
                peer = silent.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
                peer.sendall(GREETING[: n % 20])
            for first in range(0, EACH, AT_ONCE):
                for steps in STAGES.values():
                    vanish(address, steps, range(first, first + AT_ONCE))
            counts = system.client.stats()["counts"]
            wait_until(lambda: system.client.stats()["clients"] == sessions + 1, PATIENCE_S, "the end of sessions")
            wait_until(lambda: system.client.stats()["jobs"]["live"] <= 1, PATIENCE_S, "the end of their jobs")
            wait_until(lambda: open_files(broker.pid) <= files + 2, PATIENCE_S, "the end of their connections")
        assert counts["submitted"] >= EACH
        assert system.client.stats()["counts"]["done.CANCELLED"] == EACH
        print(memory.held(64, REST_MIB))


SLEEPERS = 5
OUTBOX_MIB = 8
SOCKET_MIB = 5
"""256 replies, and what the outbox needs beside its bytes."""


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_clients_that_ask_on_and_read_nothing_cost_their_bound_and_lose_their_sessions() -> None:
    with running_system(processes=1) as system:
        broker = system.broker
        memory = Memory(broker.pid)
        with Onlooker(broker.clients, "echo"), Crowd(broker.clients, SLEEPERS) as crowd:
            crowd.hello()
            asked, end = 0, time.monotonic() + 4 * PATIENCE_S
            while system.client.stats()["counts"].get("slow_consumers", 0) < SLEEPERS:
                assert time.monotonic() < end, f"{asked} requests"
                for _ in range(200):
                    for n in range(SLEEPERS):
                        crowd.send(n, Request(rid=f"r{asked}", method="programs.list"))
                    asked += SLEEPERS
            crowd.vanish()
        print(f"{asked} requests; {memory.held(SLEEPERS * (OUTBOX_MIB + SOCKET_MIB))}")
