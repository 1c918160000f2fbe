"""protocol/vectors over real sockets: a broker's process, the Python client, and the pool with a scripted LM."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from tests.conformance.vector_broker_process import SocketBroker
from tests.conformance.vector_cases import (
    BROKER_TRANSCRIPTS,
    CLIENT_TRANSCRIPTS,
    INVALID,
    WORKER_TRANSCRIPTS,
)
from tests.conformance.vector_client import PythonClient
from tests.conformance.vector_engine import Engine
from tests.conformance.vector_match import Memory, frame
from tests.conformance.vector_pool import PythonPool, running_worker

Transcript = dict[str, Any]
PATIENCE_MS = 10_000


@pytest.mark.parametrize("transcript", BROKER_TRANSCRIPTS)
def test_transcripts_of_a_broker(transcript: Transcript) -> None:
    broker = SocketBroker(transcript.get("settings", {}))
    try:
        Engine(broker, transcript).run()
    finally:
        broker.close()


@pytest.fixture(scope="module")
def one_broker() -> Iterator[SocketBroker]:
    """A broker for everything that is invalid: it must outlast all of it."""
    broker = SocketBroker({})
    broker.connect("bystander", "client")
    _ask(broker, "bystander", [b"DJP1", msgpack.packb({"t": "hello", "name": "bystander"})])
    yield broker
    # It may have been silent for longer than dead_ms: then this is a new session, else the same welcome.
    _ask(broker, "bystander", [b"DJP1", msgpack.packb({"t": "hello", "name": "bystander"})])
    pong = _ask(broker, "bystander", [b"DJP1", msgpack.packb({"t": "ping", "n": 9})])
    assert pong == {"t": "pong", "n": 9}
    broker.close()


@pytest.mark.parametrize("case", INVALID)
def test_what_is_invalid_is_answered_by_its_error(one_broker: SocketBroker, case: dict[str, Any]) -> None:
    for endpoint in case["endpoints"]:
        name = f"{case['name']}-{endpoint}"
        one_broker.connect(name, endpoint.removesuffix("s"))
        one_broker.send(name, [frame(each) for each in case["frames"]])
        hello = [b"DJP1", msgpack.packb({"t": "hello", "name": "p"})]
        if case["answer"] is None:
            assert _ask(one_broker, name, hello)["t"] == "welcome"
        else:
            answer = _next(one_broker, name)
            assert answer["t"] == "error"
            assert {field: answer.get(field) for field in case["answer"]} == case["answer"]
            assert _ask(one_broker, name, hello)["t"] == "welcome"
        one_broker.lose(name)


def _ask(broker: SocketBroker, name: str, frames: list[bytes]) -> dict[str, Any]:
    broker.send(name, frames)
    return _next(broker, name)


def _next(broker: SocketBroker, name: str) -> dict[str, Any]:
    end = broker.now_ms() + PATIENCE_MS
    while broker.now_ms() < end:
        for came, frames in broker.receive(20):
            header: dict[str, Any] = msgpack.unpackb(frames[1])
            if header["t"] == "ping":
                broker.send(came, [b"DJP1", msgpack.packb({"t": "pong", "n": header.get("n", 0)})])
            elif came == name:
                return header
    raise AssertionError(f"nothing came for {name}")


@pytest.mark.parametrize("transcript", CLIENT_TRANSCRIPTS)
def test_transcripts_of_a_client(transcript: Transcript, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "dspymq.client")
    memory = Memory()
    client = PythonClient(transcript, memory)
    try:
        Engine(client, transcript, "client", memory).run()
    finally:
        client.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[PythonPool]:
    """One pool for all transcripts: a worker outlives its brokers."""
    with running_worker() as pool:
        yield pool


@pytest.mark.parametrize("transcript", WORKER_TRANSCRIPTS)
def test_transcripts_of_a_worker(pool: PythonPool, transcript: Transcript) -> None:
    pool.begin()
    Engine(pool, transcript, "worker").run()
