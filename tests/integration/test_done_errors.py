"""Whatever is wrong is answered by the documented error, costs no LM request, and disturbs nobody else."""

import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from dspymq import exceptions
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import encode, new_uuid7
from dspymq.protocol.messages import Error, Hello
from tests.faults.peers import RawClient, RawPeer, RawWorker
from tests.faults.system import Bystander, System, running_system

MIB = 1024 * 1024
TYPED = "text: str, count: int, tags: list[str], mood: Literal['happy', 'sad'] -> answer"
RIGHT: dict[str, Any] = {"text": "a", "count": 1, "tags": ["x"], "mood": "happy"}


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=2, concurrency=4) as made:
        yield made


@pytest.mark.parametrize(
    ("program", "inputs", "wrong"),
    [
        ("qa", {}, {"question"}),
        ("qa", {"question": "x", "extra": 1}, {"extra"}),
        ("qa", {"question": 5}, {"question"}),
        ("qa", {"question": None}, {"question"}),
        ("qa", {"question": {"text": "x"}}, {"question"}),
        ("sync_qa", {}, {"question"}),
        ("sync_qa", {"question": ["a"]}, {"question"}),
        ("sync_qa", {"question": "x", "Question": "x"}, {"Question"}),
        (TYPED, {}, {"text", "count", "tags", "mood"}),
        (TYPED, {**RIGHT, "count": "many"}, {"count"}),
        (TYPED, {**RIGHT, "count": 1.5}, {"count"}),
        (TYPED, {**RIGHT, "tags": "x"}, {"tags"}),
        (TYPED, {**RIGHT, "tags": [1]}, {"tags"}),
        (TYPED, {**RIGHT, "mood": "grim"}, {"mood"}),
        (TYPED, {**RIGHT, "mood": ["happy"], "none": 0}, {"mood", "none"}),
    ],
)
def test_missing_unknown_and_ill_typed_inputs_are_refused_before_the_lm(
    system: System, program: str, inputs: dict[str, Any], wrong: set[str]
) -> None:
    before = system.lm.requests
    with pytest.raises(exceptions.InvalidArgument) as caught:
        system.client.submit(program, inputs).result(20)
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "invalid_inputs")
    assert set(caught.value.fields) == wrong
    assert len(caught.value.details["fields"]) == len(wrong)
    assert not caught.value.retryable
    assert system.lm.requests == before


def test_right_inputs_of_the_same_signature_are_answered(system: System) -> None:
    """So that the refusals above are for the one thing that is wrong."""
    assert system.client.submit(TYPED, {**RIGHT, "count": 2.0}).result(20).answer


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"signature": "question ->"},
        {"signature": "question -> answer: os.system"},
        {"signature": "question -> answer: __import__('os').system('true')"},
        {"signature": "question -> answer", "kind": "teleport"},
        {"signature": "question -> answer" * 10_000},
        {"signature": "question -> answer", "surplus": 1},
        {"signature": ["question"]},
        "question -> answer",
    ],
)
def test_inline_specs_that_cannot_be_built_are_refused_before_the_lm(system: System, spec: Any) -> None:
    before = system.lm.requests
    with RawClient(system.broker.clients) as client:
        client.hello()
        job = new_uuid7()
        submit = c.Submit(job=job, program="_inline", timeout_ms=20_000)
        client.send(submit, bodies.encode(inputs={"question": "x"}, spec=spec))
        result, _ = client.result(job)
    assert (result.code, result.reason) == ("INVALID_ARGUMENT", "invalid_spec")
    assert system.lm.requests == before


@pytest.mark.parametrize(
    "body", [b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa6inputs\x05", b"\x80\x00", b"\xdf\xff\xff\xff\xff", b"\x91" * 9_000]
)
def test_bodies_that_are_no_map_are_refused_before_the_lm(system: System, body: bytes) -> None:
    before = system.lm.requests
    with RawClient(system.broker.clients) as client:
        client.hello()
        job = new_uuid7()
        client.send(c.Submit(job=job, program="qa", timeout_ms=20_000), body)
        result, _ = client.result(job)
    assert (result.code, result.reason) == ("INVALID_ARGUMENT", "invalid_body")
    assert system.lm.requests == before


def test_an_unknown_program_is_not_found_and_names_what_was_meant(system: System) -> None:
    with pytest.raises(exceptions.NotFound) as caught:
        system.client.call("echoo", text="x")
    assert caught.value.reason == "unknown_program"
    assert "echo" in caught.value.details["close_matches"]
    assert "echo" in caught.value.message


def test_an_unknown_profile_and_revision_fail_at_once_where_asked(system: System) -> None:
    for option in ({"profile": "nobody"}, {"revision": "never"}, {"lane": "slow"}):
        with pytest.raises(exceptions.Unavailable) as caught:
            system.client.submit("qa", {"question": "x"}, fail_fast=True, **option).result(10)
        assert caught.value.reason == "no_worker"
        assert next(iter(option)) in caught.value.message


def test_a_body_of_20_mb_is_refused_and_disturbs_nobody(system: System) -> None:
    before = system.lm.requests
    with pytest.raises(exceptions.ResourceExhausted) as caught:
        system.client.call("qa", question="x" * 20 * MIB)
    assert caught.value.reason == "body_too_large"
    assert system.lm.requests == before
    with Bystander(system), RawClient(system.broker.clients) as client:
        client.hello()
        for _ in range(5):
            job = client.submit("qa", question="x" * 20 * MIB)
            error, _ = client.expect(Error)
            assert (error.code, error.reason, error.job) == ("RESOURCE_EXHAUSTED", "body_too_large", job)
        # The session goes on: what fits is answered.
        assert client.result(client.submit("echo", text="after"))[1]["text"] == "after"
    assert b"x" * 5_000 not in system.broker.process.stderr().encode()


def test_frames_past_the_hard_limit_cost_their_sender_the_connection_only(system: System) -> None:
    with Bystander(system), RawClient(system.broker.clients) as client:
        client.hello()
        client.send_frames(b"DJP1", encode(c.Submit(job="huge", program="qa", timeout_ms=1_000))[1], bytes(130 * MIB))
        with RawClient(system.broker.clients) as other:
            other.hello()
            assert other.result(other.submit("echo", text="y"))[1]["text"] == "y"


RANDOM = random.Random(20_261_124)
GARBAGE: list[tuple[bytes, ...]] = [
    (b"",),
    (b"", b""),
    (b"", b"", b""),
    (b"DJP1",),
    (b"DJP1", b""),
    (b"DJP1", b"\xc0"),
    (b"DJP1", b"\x80"),
    (b"DJP1", b"\x81\xa1t\xa5hello"),
    (b"DJP1", b"\x81\xa1t\xc4\x05hello"),
    (b"DJP1", b"\x82\xa1t\xa4ping\xa1t\xa4ping"),
    (b"DJP1", b"\x82\xa1t\xa4ping\xa1x\xd4\x01\x00"),
    (b"DJP1", b"\x81\xa1t\xa4ping\x00"),
    (b"DJP1", b"\x81\xa1t\xa4\xff\xfe\xfd\xfc"),
    (b"DJP1", b"\x91" * 60_000),
    (b"DJP1", b"\x81\xa1x" * 20_000),
    (b"DJP1", b"x" * 100_000),
    (b"djp1", b"\x81\xa1t\xa4ping"),
    (b"GET / HTTP/1.1\r\n\r\n",),
    *((RANDOM.randbytes(RANDOM.randint(0, 12)), RANDOM.randbytes(RANDOM.randint(0, 300))) for _ in range(200)),
    *((b"DJP1", RANDOM.randbytes(RANDOM.randint(1, 60)), RANDOM.randbytes(10)) for _ in range(300)),
    *(tuple(RANDOM.randbytes(3) for _ in range(RANDOM.randint(4, 40))) for _ in range(50)),
]
REFUSALS = {"bad_frames", "bad_header", "header_too_large", "unknown_type", "wrong_endpoint", "unsupported_version"}


@pytest.mark.parametrize("endpoint", ["clients", "workers"])
@pytest.mark.parametrize("has_session", [False, True])
def test_random_frames_on_either_socket_are_answered_by_an_error_each(
    system: System, endpoint: str, has_session: bool
) -> None:
    """Every message is answered, so none was lost, nothing was guessed, and a session that stood still stands."""
    peer: RawPeer
    peer = RawClient(system.broker.clients) if endpoint == "clients" else RawWorker(system.broker.workers)
    with Bystander(system), peer:
        if has_session:
            peer.hello()
        for frames in GARBAGE:
            peer.send_frames(*frames)
            error, _ = peer.expect(Error)
            assert error.reason in REFUSALS | {"one_shot_only", "no_session"}, (frames[:2], error)
        if has_session:
            peer.round_trip()
    system.still_serves()


@pytest.mark.parametrize("endpoint", ["clients", "workers"])
def test_random_bytes_and_http_on_either_port_disturb_nobody(system: System, endpoint: str) -> None:
    host, port = getattr(system.broker, endpoint).removeprefix("tcp://").rsplit(":", 1)
    junk = [b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 64, b"\xff" + bytes(8) + b"\x7f\x03"]
    junk += [RANDOM.randbytes(RANDOM.randint(1, 4_000)) for _ in range(30)]
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    junk += [greeting, greeting + RANDOM.randbytes(500), greeting + b"\x04\x19\x05READY" + b"\xff" * 17]
    with Bystander(system):
        open_ones = []
        for data in junk:
            raw = socket.create_connection((host, int(port)), timeout=5)
            raw.sendall(data)
            open_ones.append(raw)
        for raw in open_ones[::2]:
            raw.close()
        system.still_serves()
        for raw in open_ones[1::2]:
            raw.close()


@pytest.mark.parametrize("endpoint", ["clients", "workers"])
def test_a_djp2_peer_is_told_what_is_spoken(system: System, endpoint: str) -> None:
    peer: RawPeer
    peer = RawClient(system.broker.clients) if endpoint == "clients" else RawWorker(system.broker.workers)
    with peer:
        _, header = encode(Hello(name="from-the-future"))
        for tag in (b"DJP2", b"DJP0", b"DJPX"):
            peer.send_frames(tag, header)
            error, _ = peer.expect(Error)
            assert (error.code, error.reason) == ("UNIMPLEMENTED", "unsupported_version")
            assert error.details == {"versions": ["DJP1"]}
        peer.hello()
    system.still_serves()


def test_messages_of_the_other_role_and_direction_are_refused(system: System) -> None:
    ready = encode_ready()
    with RawClient(system.broker.clients) as client, RawWorker(system.broker.workers) as worker:
        client.hello()
        worker.hello()
        client.send_frames(*ready)
        assert client.expect(Error)[0].reason == "wrong_endpoint"
        worker.send_frames(*encode(c.Submit(job="j", program="qa", timeout_ms=1)))
        assert worker.expect(Error)[0].reason == "wrong_endpoint"
        client.send(c.Result(job="j", attempt=1, code="OK"))
        assert client.expect(Error)[0].reason == "wrong_direction"
        worker.send(c.Error(code="UNKNOWN", reason="none"))
        client.send(c.Error(code="UNKNOWN", reason="none"))
        worker.round_trip()
        client.round_trip()
        assert not [m for m, _ in [*worker.seen[2:], *client.seen[3:]] if isinstance(m, Error)]


def encode_ready() -> list[bytes]:
    from dspymq.protocol import worker_messages as w

    return encode(w.Ready(worker="w", slots={"default": 1}, held=[]))


def test_a_one_shot_req_peer_gets_exactly_one_answer(system: System) -> None:
    with RawClient(system.broker.clients, kind=zmq.REQ) as req:
        for n in range(3):
            assert req.result(req.submit("echo", text=str(n)))[1]["text"] == str(n)
        req.send(c.Submit(job=new_uuid7(), program="echo", timeout_ms=1_000, want=["chunks"]))
        assert req.expect(Error)[0].reason == "one_shot_only"
        req.send_frames(b"DJP2", b"")
        assert req.expect(Error)[0].reason == "unsupported_version"
        req.send(c.Submit(job=new_uuid7(), program="no_such_program", timeout_ms=1_000))
        assert req.expect(Error)[0].reason == "unknown_program"


def test_the_log_holds_no_payload_and_no_key(system: System) -> None:
    secret = f"secret-{os.getpid()}-payload"
    system.ask(secret)
    with pytest.raises(exceptions.DspymqError):
        system.client.call("qa", question=f"{secret} #status=500", surplus=secret)
    for log in (system.broker.process.stderr(), system.pool.process.stderr()):
        assert secret not in log
        assert "test-key" not in log
