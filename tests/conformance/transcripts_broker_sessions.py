"""transcripts/broker-sessions.json: hello, life, errors, bye, one-shot clients (SPEC sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.vector_forms import write
from tests.conformance.vector_steps import Transcript, get, put

TAG = b"DJP1"
PING = write({"t": "ping", "n": 7})


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield _hello()
    yield _hello_again()
    yield _no_session()
    yield _ignored_without_session()
    yield _pong()
    yield _order_of_one_peer()
    yield _refused_is_life()
    yield from _silence()
    yield _errors_are_not_answered()
    yield from _byes()
    yield _route_is_the_session()
    yield _stop()
    yield from _one_shots()


def _hello() -> Transcript:
    t = Transcript(
        "hello", "R-3.7 R-8.1 R-2.9", "hello is answered by welcome, with an epoch that is a UUID of version 7."
    )
    for name, kind, ping_ms in (("c", "client", 10000), ("w", "worker", 1000)):
        peer = t.peer(name, kind)
        peer.send("hello", name=name)
        bounds = {"ping_ms": ping_ms, "dead_ms": 3 * ping_ms, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
        limits = {"max_header_bytes": 65536, "max_body_bytes": 16777216, "max_timeout_ms": 2592000000}
        peer.expect("welcome", epoch={"$all": [{"$uuid7": True}, put("epoch")]}, **bounds, limits=limits)
    other = t.peer("c2", "client")
    other.send("hello", name="c").expect("welcome", epoch=get("epoch"))
    return t


def _hello_again() -> Transcript:
    t = Transcript(
        "hello-again", "R-3.7", "A second hello in a session gets the same welcome; its contents are ignored."
    )
    for name, kind in (("c", "client"), ("w", "worker")):
        peer = t.peer(name, kind)
        peer.send("hello", name="one").expect("welcome", epoch=put("epoch"), session=put("session"))
        peer.send("hello", name="two", lang="other", features=["chunks"])
        peer.expect("welcome", epoch=get("epoch"), session=get("session"))
    return t


def _no_session() -> Transcript:
    t = Transcript(
        "no-session",
        "R-3.8",
        "What needs a session and has none is answered by no_session, and does nothing.",
        fresh=True,
    )
    c, w = t.peer("c", "client"), t.peer("w", "worker")
    c.submit("j").refused("no_session", job="j", retryable=True)
    c.send("attach", job="j").refused("no_session", job="j", retryable=True)
    c.send("ping").refused("no_session", retryable=True)
    c.send("request", rid="r1", method="stats.get").refused("no_session", rid="r1", retryable=True)
    w.ready(1, held=[]).refused("no_session", retryable=True)
    c.hello("c")
    c.send("attach", job="j").refused("adopting", job="j")
    return t


def _ignored_without_session() -> Transcript:
    about = "pong, bye and error without a session are ignored: only the hello after them is answered."
    t = Transcript("ignored-without-session", "R-3.8 R-3.19", about)
    for name, kind in (("c", "client"), ("w", "worker")):
        peer = t.peer(name, kind)
        peer.send("pong", n=3).send("bye").send("error", code="INTERNAL", reason="internal", job="j")
        peer.hello(name)
    return t


def _pong() -> Transcript:
    t = Transcript("pong", "R-3.13", "ping is answered by pong with the same number.")
    for peer in (t.client(), t.worker(slots=None)):
        peer.send("ping", n=(1 << 53) - 1).expect("pong", n=(1 << 53) - 1)
        peer.send("ping").expect("pong", n=0)
    return t


def _order_of_one_peer() -> Transcript:
    about = "The messages of one peer are handled in their order, so that a pong shows that all before it was."
    t = Transcript("in-order", "R-3.17", about)
    c = t.client()
    for n in range(20):
        c.submit(f"j{n}", want=["accepted"])
    c.send("ping", n=5)
    for n in range(20):
        c.expect("accepted", job=f"j{n}")
    c.expect("pong", n=5)
    return t


def _refused_is_life() -> Transcript:
    about = "A message that is refused shows that its sender lives: the session outlasts dead_ms."
    t = Transcript("refused-is-life", "R-3.11", about, client_ping_ms=200)
    c = t.client().silent()
    for _ in range(5):
        c.frames(TAG, write({"t": "ping", "n": -1})).refused("bad_header")
        t.wait(150)
    c.send("ping", n=1).expect("pong", n=1)
    return t


def _silence() -> Iterator[Transcript]:
    about = "Who is told nothing for ping_ms is sent ping; who is silent for dead_ms has no session any more."
    t = Transcript("client-silence", "R-3.12 R-3.14", about, client_ping_ms=100)
    c = t.client().silent()
    c.expect("ping", after=60, within=1000)
    t.wait(500)
    c.expect("ping")
    c.send("request", rid="r1", method="stats.get").refused("no_session", rid="r1")
    yield t
    about = "A peer that answers pings keeps its session for longer than dead_ms."
    t = Transcript("answered-pings-keep-a-session", "R-3.14", about, client_ping_ms=100, worker_ping_ms=100)
    c, w = t.client(), t.worker()
    t.wait(700)
    c.submit("j")
    w.dispatch("j").result("j")
    c.done("j")
    yield t


def _errors_are_not_answered() -> Transcript:
    about = "An error is never answered, in a session or without one."
    t = Transcript("errors-are-not-answered", "R-3.19 R-14.4", about)
    for name, kind in (("c", "client"), ("w", "worker")):
        peer = t.peer(name, kind)
        peer.send("error", code="INTERNAL", reason="internal", job="j", rid="r", details={"a": 1})
        peer.hello(name)
        peer.send("error", code="LATER", reason="later", message="a reason that nobody knows")
        peer.nothing()
    return t


def _byes() -> Iterator[Transcript]:
    t = Transcript("bye", "R-3.20", "bye ends the session at once, and is not answered.")
    for peer in (t.client(), t.worker()):
        peer.send("bye", reason="done")
        peer.send("request", rid="r1", method="stats.get").refused("no_session", rid="r1")
        peer.hello(peer.name)
    yield t
    about = "The bye of a client cancels its jobs at once, except those that are to be kept."
    t = Transcript("bye-of-a-client", "R-3.21 R-5.15 R-5.14", about)
    c, w = t.client(), t.worker(slots=2)
    c.submit("dropped").submit("kept", on_disconnect="keep")
    w.dispatch("dropped").dispatch("kept")
    w.say("started", "dropped", revision="r1", worker="w").nothing()
    c.send("bye")
    w.expect("cancel", lease=get("dropped.lease"), cause="cancel")
    w.result("dropped", "CANCELLED", reason="cancelled")
    w.result("kept")
    c.hello("c")
    c.submit("kept").done("kept")
    c.submit("dropped").done("dropped", "CANCELLED", reason="client_gone")
    yield t
    about = "The bye of a worker loses its leases at once, and nobody is blamed."
    t = Transcript("bye-of-a-worker", "R-3.22 R-6.23", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j").send("bye").nothing()
    other = t.worker("w2")
    other.dispatch("j", attempt=2, isolate=False).result("j", attempt=2)
    c.done("j", attempt=2)
    yield t


def _route_is_the_session() -> Transcript:
    about = "A session is bound to its connection: another one has none, even with the same name."
    t = Transcript("a-session-is-a-route", "R-3.10", about)
    t.peer("c", "client").send("hello", name="same").expect("welcome", session=put("session"))
    c2 = t.peer("c2", "client")
    c2.send("ping").refused("no_session")
    c2.send("hello", name="same").expect("welcome", session={"$not": get("session")})
    return t


def _stop() -> Transcript:
    t = Transcript("stop", "R-3.23", "A broker that stops says so to everybody.")
    peers = [t.client(), t.worker(), t.worker("w2", slots=None)]
    t.add(stop_broker=True)
    for peer in peers:
        peer.expect("bye", reason="shutdown").lost()
    return t


def _one_shots() -> Iterator[Transcript]:
    about = "A one-shot client asks without a session, and gets exactly one answer to each message."
    t = Transcript("one-shot", "R-3.24 R-3.25 R-3.26", about)
    o, w = t.one_shot(), t.worker()
    o.send("ping", n=7).expect("pong", n=7)
    o.send("request", rid="r1", method="stats.get").expect("reply", rid="r1")
    o.send("request", rid="r1", method="nope").refused("unknown_method", rid="r1")
    o.submit("j")
    w.dispatch("j", want=[]).result("j")
    o.done("j")
    o.submit("j").done("j")
    o.submit("k", "unheard-of").refused("unknown_program", job="k")
    yield t
    about = "What else a one-shot client sends is refused."
    t = Transcript("one-shot-only", "R-3.25", about)
    o = t.one_shot()
    for header in (
        {"t": "hello", "name": "o"},
        {"t": "attach", "job": "j"},
        {"t": "cancel", "job": "j"},
        {"t": "ack", "jobs": ["j"]},
        {"t": "credit", "job": "j", "attempt": 1, "upto": 1},
        {"t": "pong"},
        {"t": "bye"},
    ):
        o.add(send=header).refused("one_shot_only")
    o.submit("j", want=["accepted"]).refused("one_shot_only", job="j")
    o.frames(b"XXXX", b"x").refused("bad_frames")
    yield t
    about = (
        "A job of a one-shot client outlives its socket; its result is kept for the next that sends the same submit."
    )
    t = Transcript("one-shot-is-never-gone", "R-3.26 R-3.27 R-3.28", about, orphan_ms=100, client_ping_ms=50)
    o, w = t.one_shot(), t.worker()
    o.submit("j")
    w.dispatch("j")
    o.lost()
    t.wait(600)
    w.result("j")
    t.one_shot("o2").submit("j", known_epoch="unknown").done("j")
    t.one_shot("o3").submit("j", known_epoch="unknown").done("j")
    yield t
    about = "The envelope is everything through the empty frame, at most one frame before it; it comes back."
    t = Transcript("one-shot-envelope", "R-3.24", about)
    c = t.peer("c", "client")
    answer = write({"t": "pong", "n": 7})
    for envelope in ([b""], [b"\x00\x00\x00\x01", b""]):
        c.frames(*envelope, TAG, PING)
        c.add(expect_frames=[*(each.hex() for each in envelope), TAG.hex(), answer.hex()])
    c.frames(b"one", b"two", b"", TAG, PING).refused("bad_frames")
    c.frames(b"x" * 65, b"", TAG, PING).refused("bad_frames")
    c.frames(TAG, b"", b"body").refused("bad_header")
    c.hello("c")
    yield t
