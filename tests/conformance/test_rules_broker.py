"""The rules of frames and sessions, proved on a real broker by peers that know only SPEC.md.

To prove that something is not answered, the illegal message is sent and then a legal one, and only the legal answer
is accepted. The rules of one-shot clients, jobs, queues and workers are in the other files of this name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import msgpack
import pytest

from tests.conformance.bare_peers import Broker, Client, Peer, RawZmtp, Worker, tcp
from tests.conformance.spec_rules import zmtp_octets
from tests.conformance.spec_text import read

PING = {"t": "ping", "n": 7}


@pytest.fixture
def bystander(broker: Broker) -> Iterator[Client]:
    """A client with a job at a worker, which must end as if nothing had happened."""
    worker, client = Worker(broker), Client(broker, "bystander")
    client.submit("bystander")
    dispatch = worker.dispatch("bystander")
    yield client
    worker.finish(dispatch)
    client.result("bystander")
    client.hears_nothing_else()


# -- frames and headers -----------------------------------------------------------------------------------------------


def test_r_2_1_to_2_4_what_is_no_message_is_answered_and_costs_nothing(broker: Broker, bystander: Client) -> None:
    for address in (broker.clients, broker.workers):
        peer = Peer(address)
        for frames in ([b"DJP1"], [b"DJP1", b"\x80", b"x", b"y"], [b"djp1", b"\x80"], [b"x"], [b""], [b"DJP"]):
            peer.send_frames(*frames)
            peer.refused("INVALID_ARGUMENT", "bad_frames")


def test_r_2_4_another_version_is_told_which_is_spoken(broker: Broker) -> None:
    for address in (broker.clients, broker.workers):
        peer = Peer(address)
        peer.send({"t": "hello", "name": "later"}, tag=b"DJP2")
        assert peer.refused("UNIMPLEMENTED", "unsupported_version")["details"] == {"versions": ["DJP1"]}
        peer.send({"t": "hello", "name": "later"})
        peer.expect("welcome")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc0", id="nil"),
        pytest.param(b"\x91\xa1t", id="array"),
        pytest.param(b"\x81\xa1t\xa4ping\x00", id="trailing"),
        pytest.param(b"\x81\xa1t\xa4pin", id="cut"),
        pytest.param(b"\x81\xa1t\xc4\x04ping", id="bin-value"),
        pytest.param(b"\x81\xc4\x01t\xa4ping", id="bin-key"),
        pytest.param(b"\x82\xa1t\xa4ping\x01\x02", id="integer-key"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1x\xc1", id="never-used"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1x\xd4\x01\x02", id="ext"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1x\xd6\xff\x00\x00\x00\x01", id="timestamp"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1x\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", id="nan"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1x\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", id="infinity"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1x\xa1\xff", id="bad-utf8"),
        pytest.param(b"\x83\xa1t\xa4ping\xa1n\x01\xa1n\x02", id="key-twice"),
        pytest.param(b"\x83\xa1t\xa4ping\xa1x\x01\xa1x\x02", id="unknown-key-twice"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1x" + b"\x91" * 8 + b"\x01", id="too-deep"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1x" + b"\x91" * 5_000 + b"\x01", id="very-deep"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1n\xcb\x40\x14\x00\x00\x00\x00\x00\x00", id="whole-float"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1n\xa15", id="number-as-text"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1n\xc3", id="boolean-as-number"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1n\xff", id="negative"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1n\xcf\x00\x20\x00\x00\x00\x00\x00\x00", id="2-to-the-53"),
        pytest.param(b"\x82\xa1t\xa4ping\xa1n\xc0", id="nil-for-a-number"),
        pytest.param(b"\x81\xa1t\xa5hello", id="field-missing"),
        pytest.param(b"\x82\xa1t\xa5hello\xa4name\xa2\xc3\xa9", id="name-not-ascii"),
        pytest.param(b"\x81\xa1t\x05", id="type-not-text"),
    ],
)
def test_r_2_5_to_2_10_a_header_that_breaks_the_profile_is_refused(broker: Broker, header: bytes) -> None:
    for address in (broker.clients, broker.workers):
        peer = Peer(address)
        peer.send(header)
        peer.refused("INVALID_ARGUMENT", "bad_header")


def test_r_2_5_to_2_9_every_legal_form_of_a_header_is_taken(broker: Broker) -> None:
    client = Client(broker)
    for header in (
        b"\x82\xa1n\x05\xa1t\xa4ping",
        b"\x82\xa1t\xa4ping\xa1n\xcc\x05",
        b"\x82\xa1t\xa4ping\xa1n\xd3\x00\x00\x00\x00\x00\x00\x00\x05",
        b"\xde\x00\x02\xd9\x01t\xda\x00\x04ping\xa1n\xce\x00\x00\x00\x05",
        b"\xdf\x00\x00\x00\x02\xdb\x00\x00\x00\x01t\xa4ping\xa1n\x05",
        b"\x83\xa1t\xa4ping\xa1n\x05\xa5later\x93\xc0\xc2\xca\x3f\x80\x00\x00",
        b"\x83\xa1t\xa4ping\xa1n\x05\xa1x" + b"\x91" * 7 + b"\x01",
    ):
        assert client.ask(header) == {"t": "pong", "n": 5}
    client.submit("nil", revision=None, profile=None, window=None, want=["accepted"])
    client.expect("accepted", job="nil")


def test_r_2_11_the_first_thing_that_is_wrong_is_answered_and_names_its_call(broker: Broker) -> None:
    large = bytes(17 * 1024 * 1024)
    peer = Client(broker, hello=False)
    peer.send({"t": "later", "job": "j", "rid": "r", "x": 1}, large)
    peer.refused("UNIMPLEMENTED", "unknown_type", job="j", rid="r", lease=None)
    peer.send({"t": "submit", "job": "j", "program": "qa", "timeout_ms": 0}, large)
    peer.refused("INVALID_ARGUMENT", "bad_header", job="j")
    peer.send({"t": "accepted", "job": "j", "state": "done", "attempt": 1}, large)
    peer.refused("RESOURCE_EXHAUSTED", "body_too_large", job="j")
    peer.send({"t": "accepted", "job": "j", "state": "done", "attempt": 1})
    peer.refused("FAILED_PRECONDITION", "wrong_direction", job="j")
    peer.send({"t": "request", "rid": "r", "method": "nope"})
    peer.refused("FAILED_PRECONDITION", "no_session", rid="r")
    peer.send({"t": "bye", "job": "x" * 65, "reason": 5})
    peer.refused("INVALID_ARGUMENT", "bad_header", job=None)


def test_r_2_12_ids_are_1_to_64_printable_ascii_characters(broker: Broker) -> None:
    client = Client(broker)
    for job in ("", "x" * 65, "caf\u00e9", "a\nb", "a\n"):
        client.submit(job)
        client.refused("INVALID_ARGUMENT", "bad_header")
    for job in (" ", "~" * 64):
        client.submit(job, want=["accepted"])
        client.expect("accepted", job=job)


def test_r_2_17_what_is_over_a_soft_limit_is_answered(broker: Broker, bystander: Client) -> None:
    client = Client(broker)
    limits = client.welcome["limits"]
    client.submit("big", body=bytes(limits["max_body_bytes"] + 1))
    client.refused("RESOURCE_EXHAUSTED", "body_too_large", job="big")
    client.submit("long", trace={"x": "y" * limits["max_header_bytes"]})
    client.refused("RESOURCE_EXHAUSTED", "header_too_large")
    client.submit("fits", body=bytes(limits["max_body_bytes"]), want=["accepted"])
    client.expect("accepted", job="fits", duplicate=None)


def test_r_2_18_a_frame_over_the_hard_limit_costs_its_sender_the_connection(broker: Broker, bystander: Client) -> None:
    for address in (broker.clients, broker.workers):
        peer = RawZmtp(address)
        peer.send(b"\x02" + (129 * 1024 * 1024).to_bytes(8, "big") + b"\x00")
        with pytest.raises((EOFError, ConnectionError)):
            peer.frame()
        peer.close()


def test_r_2_10_random_octets_end_nothing(broker: Broker, bystander: Client) -> None:
    for address in (broker.clients, broker.workers):
        for size in (1, 64, 700):
            connection = tcp(address)
            connection.sendall(os.urandom(size))
            connection.close()
        peer = Peer(address)
        for n in range(100):
            peer.send_frames(*(os.urandom(os.urandom(1)[0]) + b"." for _ in range(1 + n % 4)))
        for _ in range(100):
            assert peer.receive()[0]["t"] == "error"


def test_weakness_7_http_and_subscribe_junk_disturbs_nobody(broker: Broker, bystander: Client) -> None:
    for address in (broker.clients, broker.workers):
        web = tcp(address)
        web.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"A" * 4_000)
        peer = RawZmtp(address)
        peer.send(b"\x04\x0d\x09SUBSCRIBEabc")
        tag, header = peer.message()
        assert (tag, msgpack.unpackb(header)["reason"]) == (b"DJP1", "bad_frames")
        peer.close()
        web.close()


def test_appendix_a_its_octets_make_a_session(broker: Broker) -> None:
    _, _, ping = zmtp_octets(read())
    peer = RawZmtp(broker.clients)
    hello = msgpack.packb({"t": "hello", "name": "raw"})
    peer.send(b"\x01\x04DJP1" + bytes([0, len(hello)]) + hello)
    assert msgpack.unpackb(peer.message()[1])["t"] == "welcome"
    peer.send(ping)
    assert [msgpack.unpackb(frame) for frame in peer.message()[1:]] == [{"t": "pong", "n": 1}]
    peer.close()


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_r_3_6_and_3_7_hello_is_answered_by_welcome_and_again_by_the_same() -> None:
    with Broker(client_ping_ms=10_000, worker_ping_ms=1_000) as broker:
        for address, ping_ms in ((broker.clients, 10_000), (broker.workers, 1_000)):
            peer = Peer(address)
            first = peer.ask({"t": "hello", "name": "one"})
            assert (first["t"], first["ping_ms"], first["dead_ms"]) == ("welcome", ping_ms, 3 * ping_ms)
            assert first["limits"]["max_body_bytes"] == 16 * 1024 * 1024
            assert peer.ask({"t": "hello", "name": "two", "lang": "other", "features": ["x"]}) == first
            other = Peer(address).ask({"t": "hello", "name": "one"})
            assert (other["epoch"], other["session"] != first["session"]) == (first["epoch"], True)


def test_r_3_8_without_a_session_say_hello_first(broker: Broker) -> None:
    client, worker = Peer(broker.clients), Peer(broker.workers)
    client.send({"t": "submit", "job": "j", "program": "qa", "timeout_ms": 1_000})
    client.refused("FAILED_PRECONDITION", "no_session", job="j", retryable=True)
    worker.send({"t": "ready", "worker": "w", "slots": {}})
    worker.refused("FAILED_PRECONDITION", "no_session", retryable=True)
    for peer in (client, worker):
        for header in ({"t": "pong"}, {"t": "bye"}, {"t": "error", "code": "INTERNAL", "reason": "internal"}):
            peer.send(header)
        assert peer.ask({"t": "hello", "name": "x"})["t"] == "welcome"


def test_r_3_5_and_4_1_and_4_3_types_of_the_other_endpoint_of_nobody_and_of_brokers(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    assert client.ask({"t": "ready"})["reason"] == "wrong_endpoint"
    assert client.ask({"t": "dispatch", "lease": "x"})["reason"] == "wrong_endpoint"
    assert worker.ask({"t": "submit", "job": "j"})["reason"] == "wrong_endpoint"
    for peer in (client, worker):
        error = peer.ask({"t": "telepathy", "rid": "r"})
        assert (error["code"], error["reason"], error["rid"]) == ("UNIMPLEMENTED", "unknown_type", "r")
        assert peer.ask({**client.welcome})["reason"] == "wrong_direction"
    assert client.ask({"t": "result", "job": "j", "attempt": 1, "code": "OK"})["reason"] == "wrong_direction"
    assert worker.ask({"t": "synced"})["reason"] == "wrong_direction"


def test_r_3_13_a_ping_is_answered_by_its_number(broker: Broker) -> None:
    for peer in (Client(broker), Worker(broker)):
        assert peer.ask({"t": "ping", "n": (1 << 53) - 1}) == {"t": "pong", "n": (1 << 53) - 1}
        assert peer.ask({"t": "ping"}) == {"t": "pong"}


def test_r_3_12_and_3_14_silence_ends_a_session_and_any_message_keeps_it() -> None:
    with Broker(client_ping_ms=200) as broker:
        silent, talking = Client(broker, "silent"), Client(broker, "talking")
        pings = 0
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            assert talking.ask(PING) == {"t": "pong", "n": 7}
            if silent.socket.poll(20):
                assert msgpack.unpackb(silent.frames()[1])["t"] == "ping"
                pings += 1
        assert pings >= 1
        assert silent.ask(PING)["reason"] == "no_session"
        assert talking.ask(PING)["t"] == "pong"


def test_r_3_11_a_refused_message_is_a_sign_of_life() -> None:
    with Broker(worker_ping_ms=200) as broker:
        worker = Worker(broker, slots=None)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert worker.ask(b"\xc0")["reason"] == "bad_header"
            worker.socket.poll(20)
        assert worker.ask({"t": "started"})["reason"] == "bad_header"
        worker.hears_nothing_else()


def test_r_3_17_a_pong_proves_that_all_before_it_was_handled(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    for n in range(300):
        client.submit(f"j{n}")
    client.hears_nothing_else()
    client.send({"t": "request", "rid": "r", "method": "stats.get"})
    assert client.expect_with_body("reply", rid="r")[1]["result"]["jobs"]["live"] == 300
    worker.dispatch("j0")


def test_r_3_19_an_error_is_never_answered(broker: Broker) -> None:
    for peer in (Peer(broker.clients), Peer(broker.workers)):
        for _ in range(2):
            peer.send({"t": "error", "code": "INTERNAL", "reason": "internal", "job": "j", "details": {"a": 1}})
            peer.send({"t": "error", "code": "LATER", "reason": "later", "x": [1]})
            assert peer.ask({"t": "hello", "name": "x"})["t"] == "welcome"


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda peer: peer.send({"t": "error"}), id="field-missing"),
        pytest.param(lambda peer: peer.send({"t": "error", "code": "A", "reason": "b", "x": b"bin"}), id="profile"),
        pytest.param(lambda peer: peer.send({"t": "error", "code": "A", "reason": "b"}, tag=b"DJP2"), id="version"),
    ],
)
def test_r_3_19_not_even_one_that_cannot_be_taken(broker: Broker, send: Callable[[Peer], None]) -> None:
    peer = Peer(broker.clients)
    send(peer)
    assert peer.ask({"t": "hello", "name": "x"})["t"] == "welcome"


def test_r_3_20_bye_ends_a_session_at_once(broker: Broker) -> None:
    for peer in (Client(broker), Worker(broker)):
        peer.send({"t": "bye", "reason": "done"})
        assert peer.ask(PING)["reason"] == "no_session"


def test_r_3_23_a_broker_that_stops_says_bye_to_everybody() -> None:
    with Broker() as broker:
        peers = [Client(broker), Worker(broker), Worker(broker, "w2", slots=None)]
        broker.stop()
        for peer in peers:
            peer.expect("bye", reason="shutdown")


def test_r_3_10_and_3_32_a_broker_that_was_restarted_is_another_epoch_and_knows_no_session() -> None:
    with Broker() as first:
        client = Client(first)
    with Broker(clients=first.clients, workers=first.workers) as second:
        assert second.clients == first.clients
        client.expect("bye", reason="shutdown")
        assert client.ask(PING)["reason"] == "no_session"
        welcome = client.ask({"t": "hello", "name": "x"})
        assert welcome["t"] == "welcome"
        assert welcome["epoch"] > client.welcome["epoch"]


def test_r_3_34_a_client_that_does_not_read_its_stream_is_told_so_and_may_come_back(
    broker: Broker, bystander: Client
) -> None:
    slow = Client(broker, "slow", RCVHWM=1, RCVBUF=4_096)
    other = Worker(broker, "w2", programs=[{"name": "stream", "revision": "r1"}])
    slow.submit("j", "stream", want=["chunks"])
    dispatch = other.dispatch("j")
    # What the socket takes in counts messages (section 16.6): a thousand of them, before the broker's own bound.
    for seq in range(3_000):
        other.say("chunk", dispatch, {"fields": {"text": "x" * 16_000}}, seq=seq)
    other.hears_nothing_else()
    while (message := slow.receive()[0])["t"] == "chunk":
        pass
    assert (message["t"], message["reason"]) == ("bye", "slow_consumer")
    again = Client(broker, "again")
    again.send({"t": "attach", "job": "j", "want": []})
    again.expect("accepted", job="j", state="running")
    other.expect("attach", lease=dispatch["lease"])
    other.finish(dispatch)
    again.result("j")
