"""The rules of one-shot clients, and the clients that SPEC.md prints, on a real broker."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import pytest
import zmq

from tests.conformance.bare_peers import PATIENCE_S, Broker, Peer, Worker, answering
from tests.conformance.spec_text import read

PING = {"t": "ping", "n": 7}

REQS = [pytest.param({}, id="REQ"), pytest.param({"REQ_CORRELATE": 1, "REQ_RELAXED": 1}, id="REQ_CORRELATE")]


@pytest.mark.parametrize("options", REQS)
def test_r_3_24_to_3_26_a_req_socket_asks_without_a_session_and_is_answered_once(
    broker: Broker, options: dict[str, int]
) -> None:
    req, worker = Peer(broker.clients, zmq.REQ, **options), Worker(broker)
    assert req.ask(PING) == {"t": "pong", "n": 7}
    assert req.ask({"t": "request", "rid": "r", "method": "stats.get"})["t"] == "reply"
    assert req.ask({"t": "request", "rid": "r", "method": "nope"})["reason"] == "unknown_method"
    assert req.ask(b"junk")["reason"] == "bad_header"
    for header in (
        {"t": "hello", "name": "x"},
        {"t": "submit", "job": "j", "program": "qa", "timeout_ms": 1_000, "want": ["accepted"]},
        {"t": "attach", "job": "j"},
        {"t": "cancel", "job": "j"},
        {"t": "ack", "jobs": ["j"]},
        {"t": "pong"},
    ):
        error = req.ask(header)
        assert (error["code"], error["reason"]) == ("FAILED_PRECONDITION", "one_shot_only")
    req.send({"t": "submit", "job": "j", "program": "qa", "timeout_ms": 9_000}, {"inputs": {}})
    worker.finish(worker.dispatch("j"))
    assert req.expect_with_body("result", job="j", code="OK")[1] == {"outputs": {"answer": "j"}}
    req.send({"t": "submit", "job": "late", "program": "qa", "timeout_ms": 50}, {"inputs": {}})
    worker.acked({"lease": worker_lease(broker, 1)})
    late = worker.dispatch("late")
    worker.expect("cancel", cause="deadline")
    worker.finish(late, "CANCELLED")
    req.expect("result", code="DEADLINE_EXCEEDED")


def worker_lease(broker: Broker, number: int) -> str:
    """The text of a lease of this broker (R-6.1)."""
    epoch = Peer(broker.clients).ask({"t": "hello", "name": "x"})["epoch"]
    return f"{epoch}-{number:012d}"


def test_r_3_26_and_3_27_a_one_shot_job_outlives_its_socket_and_its_result_is_kept() -> None:
    with Broker(orphan_ms=1, client_ping_ms=50) as broker:
        worker = Worker(broker)
        first, second = (Peer(broker.clients, zmq.REQ) for _ in range(2))
        submit = {"t": "submit", "job": "j", "program": "qa", "timeout_ms": 9_000}
        first.send(submit, b"body")
        dispatch = worker.dispatch("j")
        first.close()
        worker.finish(dispatch)
        worker.acked(dispatch)
        for _ in range(2):
            second.send(submit, b"body")
            second.expect("result", job="j", code="OK")
        worker.hears_nothing_else()


def test_r_3_24_more_than_one_frame_before_the_empty_one_is_no_envelope(broker: Broker) -> None:
    peer = Peer(broker.clients)
    peer.send_frames(b"one", b"two", b"", b"DJP1", msgpack.packb(PING))
    peer.refused("INVALID_ARGUMENT", "bad_frames")
    for envelope in ([b""], [b"id", b""]):
        peer.send_frames(*envelope, b"DJP1", msgpack.packb(PING))
        assert peer.frames() == [*envelope, b"DJP1", msgpack.packb({"t": "pong", "n": 7})]


def python_of_spec(name: str) -> Any:
    """What a Python block of SPEC.md defines under this name."""
    scope: dict[str, Any] = {}
    code = next(block for block in read().blocks("python") if f" {name}(" in block or f"class {name}:" in block)
    exec(compile(code, "SPEC.md", "exec"), scope)
    return scope[name]


def test_section_3_6_the_one_shot_client_that_spec_prints_works(broker: Broker) -> None:
    call = python_of_spec("call")
    with answering(broker.workers):
        assert call(broker.clients, "qa", question="2+2?") == {"answer": "2+2?"}
        with pytest.raises(RuntimeError, match="NOT_FOUND/unknown_program"):
            call(broker.clients, "qaa", question="2+2?")


def test_appendix_c_the_small_client_that_spec_prints_works_and_outlives_a_restart() -> None:
    small = python_of_spec("Client")
    with Broker() as first, answering(first.workers):
        client = small(first.clients)
        assert client.call("qa", question="2+2?") == {"answer": "2+2?"}
        with pytest.raises(RuntimeError, match="NOT_FOUND/unknown_program"):
            client.call("qaa", question="2+2?")
    job = client.submit("qa", question="still there?")
    with Broker(clients=first.clients, workers=first.workers, adopt_ms=300) as second, answering(second.workers):
        end = time.monotonic() + PATIENCE_S
        while job not in client.results and time.monotonic() < end:
            client.step()
        assert client.results[job][1] == {"answer": "still there?"}
    client.socket.close()
