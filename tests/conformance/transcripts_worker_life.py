"""transcripts/worker-life.json: sessions and leases of a worker under test; the transcript is its broker.

The worker has two slots in the lane `default` and the programs of protocol/vectors/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.vector_encodings import LIMITS
from tests.conformance.vector_forms import Form, PairMap, write
from tests.conformance.vector_steps import NO_BODY, Transcript, get, put
from tests.conformance.worker_steps import FAR, PROGRAMS, new


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _frames()
    yield from _life()
    yield from _held()
    yield from _attempts()
    yield from _cancels()
    yield from _results()
    yield from _crashes()


def _frames() -> Iterator[Transcript]:
    about = "Whatever arrives, the worker goes on: frames and headers that are wrong are dropped."
    t, b = new("junk-from-the-broker", "R-2.10 R-2.1", about)
    b.begins().dispatch("a", "nap", {"ms": 60000}).nothing()
    for frames in (
        [b"DJP1"],
        [b"DJP2", write({"t": "pong"})],
        [b"XXXX", write({"t": "pong"})],
        [b"DJP1", write({"t": "pong"}), b"", b""],
        [b"DJP1", b""],
        [b"DJP1", b"\xc1"],
        [b"DJP1", write({"t": 7})],
        [b"DJP1", write(PairMap([("t", "ping"), ("t", "pong")]))],
        [b"DJP1", write({"t": "drain", "grace_ms": "soon"})],
        [b"DJP1", write({"t": "cancel", "lease": b.lease("a"), "cause": "boredom", "grace_ms": 0})],
    ):
        b.frames(*frames)
    b.nothing().cancelled("a")
    yield t
    about = "Every width of number and head is read, in whatever order; unknown types and keys are ignored."
    t, b = new("legal-forms", "R-2.6 R-2.7 R-3.19 R-4.2 R-12.2 R-14.4", about)
    b.begins()
    b.send("telepathy", lease=b.lease("a"), n=1)
    b.frames(b"DJP1", write({"n": 5, "t": "ping"}, Form(integer=64, signed=True, head=32)))
    b.expect("pong", n=5)
    b.dispatch("a", "echo", {"text": "x"}, later={"a": [1, None]}, x_private=True).result(
        "a", {"outputs": {"text": "x"}}
    )
    b.send("error", code="LATER", reason="later", message="about nothing that you know").nothing()
    yield t


def _life() -> Iterator[Transcript]:
    about = "hello, welcome, then ready with all that is held; nothing else before the last synced."
    t, b = new("hello-and-ready", "R-3.6 R-3.4 R-6.13 R-6.16 R-6.20 R-11.16", about)
    b.expect("hello")
    b.add(expect_silence_ms=200)
    bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    b.send("welcome", epoch=b.epoch, session="s", features=[], **bounds, limits=LIMITS)
    offers = [{"$contains": {"name": name, "revision": put(f"{name}.revision")}} for name in PROGRAMS]
    described = {"programs": {"echo": {"inputs": {"type": "object"}}}}
    offered = {"slots": {"default": 2}, "programs": {"$all": offers}, "held": [], "more": False}
    b.expect("ready", described, worker=put("worker"), **offered)
    b.dispatch("early", "echo", {"text": "x"}).nothing("R-6.16")
    b.synced().nothing("R-6.16")
    b.dispatch("a", "echo", {"text": "x"}).result("a")
    b.lost()
    b.welcome().expect("ready", worker=get("worker"), held=[])
    b.synced()
    yield t
    about = "ping is answered at once with its number, and a worker that is told nothing pings by itself."
    t, b = new("pings", "R-3.12 R-3.13", about)
    b.begins(ping_ms=200, dead_ms=5000)
    b.send("ping", n=(1 << 53) - 1).expect("pong", n=(1 << 53) - 1)
    b.silent()
    b.expect("ping", within=2000)
    b.add(silent=False)
    yield t
    about = "A broker that is silent for dead_ms is taken for dead: a new session, that reports what is held."
    t, b = new("silence-of-the-broker", "R-3.14 R-6.13 R-6.27", about)
    b.begins(ping_ms=200, dead_ms=600).dispatch("a", "nap", {"ms": 60000}).silent()
    b.add(expect={"t": "hello"}, skipping=["ping"])
    b.add(silent=False)
    bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    b.send("welcome", epoch=b.epoch, session="s", features=[], **bounds, limits=LIMITS)
    b.reports(b.held("a", left_ms={"$from": [1, 60000]})).synced("a").cancelled("a")
    yield t
    for name, rules, about in (
        (
            "no-session",
            "R-3.9",
            "After no_session, as many as come, the worker says one hello and reports what it holds.",
        ),
        ("bye-from-the-broker", "R-3.23 R-14.4", "A broker that says bye, for whatever reason, is greeted again."),
    ):
        t, b = new(name, f"{rules} R-3.29", about)
        b.begins().dispatch("a", "nap", {"ms": 60000})
        if name == "no-session":
            for _ in range(3):
                b.send("error", code="FAILED_PRECONDITION", reason="no_session", retryable=True)
        else:
            b.send("bye", reason="a reason of a later version")
        b.welcome().reports(b.held("a")).synced("a").cancelled("a")
        yield t
    about = "A worker that was stopped for longer than dead_ms starts nothing of what waited in its socket."
    t, b = new("stopped-and-continued", "R-3.15 R-3.16", about)
    b.begins(ping_ms=300, dead_ms=900).dispatch("a", "nap", {"ms": 60000}).nothing()
    t.add(tell="stop")
    b.dispatch("b", "echo", {"text": "x"}).silent()
    t.wait(1600)
    t.add(tell="continue")
    b.add(expect={"t": "hello"}, skipping=["ping", "pong"])
    b.add(silent=False)
    b.send("welcome", epoch=b.epoch, session="s", features=[], **bounds, limits=LIMITS)
    b.reports(b.held("a")).synced("a").nothing()
    b.cancelled("a")
    yield t


def _held() -> Iterator[Transcript]:
    about = "A result is kept and reported until it is acknowledged, and sent again when the broker keeps its lease."
    t, b = new("results-are-kept", "R-6.7 R-6.13 R-8.11", about)
    b.begins().dispatch("a", "echo", {"text": "x"}).result("a", ack=False)
    for _ in range(2):
        b.lost()
        b.welcome().reports(b.held("a", state="done")).synced("a").result("a", {"outputs": {"text": "x"}}, ack=False)
    b.send("ack", leases=[b.lease("a")]).nothing()
    b.lost()
    b.welcome().reports().synced()
    yield t
    about = "What a worker runs goes on over the loss of its broker, whatever the epoch; its result waits for synced."
    t, b = new("running-over-a-restart", "R-6.13 R-6.16 R-8.11 R-2.24", about)
    b.begins().dispatch("a", "nap", {"ms": 700}, want=["started"])
    b.expect("started", lease=b.lease("a"), attempt=1).lost()
    b.expect("hello")
    t.wait(900)
    bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    b.send("welcome", epoch="another-epoch", session="s", features=[], **bounds, limits=LIMITS)
    b.reports(b.held("a", state="done", left_ms={"$from": [1, 59100]})).nothing("R-6.16")
    b.synced("a").result("a", {"outputs": {"ms": 700}})
    yield t
    about = "What keep leaves out is stopped and forgotten, and nothing is sent about it."
    t, b = new("dropped-leases", "R-6.15 R-8.5", about)
    b.begins().dispatch("done", "echo", {"text": "x"}).result("done", ack=False)
    b.dispatch("runs", "nap", {"ms": 300}, want=["started"]).expect("started").lost()
    b.welcome().expect(
        "ready", held={"$all": [{"$contains": b.held("done", state="done")}, {"$contains": b.held("runs")}]}
    )
    b.synced().nothing()
    t.wait(500)
    b.nothing().lost()
    b.welcome().reports().synced()
    yield t


def _attempts() -> Iterator[Transcript]:
    about = "An attempt ends in one result, under its lease and attempt; nothing is sent that is not wanted."
    t, b = new("an-attempt", "R-6.2 R-6.7 R-4.8 R-2.8 R-2.15 R-2.22 R-14.3", about)
    fields = {"attempt": 7, "chunks": 0, "revision": get("echo.revision"), "reason": None, "retryable": False}
    b.begins().dispatch("a", "echo", {"text": "größer"}, attempt=7)
    b.result("a", {"outputs": {"text": "größer"}}, **fields)
    b.dispatch("b", "echo", {"text": "x"}, want=["started"])
    b.expect("started", NO_BODY, lease=b.lease("b"), attempt=1, revision=get("echo.revision"))
    b.result("b").nothing()
    yield t
    about = "A dispatch for which there is no slot is given back, unstarted; the same dispatch twice is one."
    t, b = new("no-free-slot", "R-6.7 R-6.11", about)
    b.begins()
    for label in ("a", "a", "b"):
        b.dispatch(label, "nap", {"ms": 60000})
    b.dispatch("c", "echo", {"text": "x"})
    b.expect("released", NO_BODY, lease=b.lease("c"), started=False, cause="capacity", blame="none")
    b.cancelled("a").cancelled("b")
    yield t
    about = (
        "After drain what runs may end; what still runs after grace_ms is given back; the worker stays, and takes jobs."
    )
    t, b = new("drain", "R-6.30 R-6.28", about)
    b.begins().dispatch("short", "nap", {"ms": 300}).dispatch("long", "nap", {"ms": 60000}, want=["started"])
    b.expect("started", lease=b.lease("long"))
    b.send("drain", grace_ms=1000)
    b.result("short")
    b.expect("released", lease=b.lease("long"), started=True, cause="drain", blame="none", within=9000)
    b.nothing()
    b.add(expect={"t": "ready", "slots": {"default": 2}}, awaiting=True)
    b.dispatch("a", "echo", {"text": "x"}).result("a")
    yield t


def _cancels() -> Iterator[Transcript]:
    about = "A cancelled attempt ends with one result, named after the cause; a cancel for another lease is ignored."
    t, b = new("cancel", "R-7.8 R-6.7", about)
    b.begins()
    for label, cause, code, reason in (
        ("a", "cancel", "CANCELLED", "cancelled"),
        ("b", "deadline", "DEADLINE_EXCEEDED", "deadline"),
    ):
        b.dispatch(label, "nap", {"ms": 60000}, want=["started"]).expect("started")
        b.say("cancel", "nobody's", cause=cause, grace_ms=1000).nothing()
        b.say("cancel", label, cause=cause, grace_ms=5000).say("cancel", label, cause=cause, grace_ms=5000)
        b.result(label, NO_BODY, code=code, reason=reason, usage={"$not": None}).nothing()
    b.dispatch("d", "nap", {"ms": 60000}, want=["started"]).expect("started")
    b.say("cancel", "d", cause="fenced", grace_ms=0)
    b.expect("result", lease=b.lease("d"), attempt=1).send("ack", leases=[b.lease("d")]).nothing()
    yield t
    about = "A result that was finished before the cancel came is what is sent."
    t, b = new("cancel-comes-too-late", "R-7.8", about)
    b.begins().dispatch("a", "echo", {"text": "x"}).result("a", ack=False)
    b.say("cancel", "a", cause="cancel", grace_ms=1000).nothing()
    b.send("ack", leases=[b.lease("a")])
    yield t
    about = "The worker keeps time itself, from when the dispatch came."
    t, b = new("deadline", "R-7.4", about)
    b.begins().dispatch("a", "nap", {"ms": 60000}, timeout_ms=300)
    fields = {"code": "DEADLINE_EXCEEDED", "reason": "deadline", "usage": {"$not": None}}
    b.expect("result", NO_BODY, lease=b.lease("a"), attempt=1, after=250, within=5000, **fields)
    b.send("ack", leases=[b.lease("a")])
    yield t


def _results() -> Iterator[Transcript]:
    about = "Outputs over max_body_bytes of welcome become result_too_large."
    t, b = new("result-too-large", "R-2.16", about)
    b.begins(limits={"max_body_bytes": 2000}).dispatch("a", "large", {"size": 3000})
    b.result("a", NO_BODY, code="RESOURCE_EXHAUSTED", reason="result_too_large", retryable=False)
    b.dispatch("b", "large", {"size": 1000}).result("b")
    yield t
    about = "So does a result that the broker refuses: it must arrive in some form."
    t, b = new("result-refused", "R-6.12 R-12.1", about)
    b.begins().dispatch("a", "echo", {"text": "x"}).result("a", ack=False)
    b.say("error", "a", code="RESOURCE_EXHAUSTED", reason="body_too_large")
    b.result("a", NO_BODY, code="RESOURCE_EXHAUSTED", reason="result_too_large", details=None).nothing()
    yield t
    about = "A program that fails says how, without a stack trace."
    t, b = new("a-program-that-fails", "R-12.3", about)
    b.begins().dispatch("a", "fail", {"text": "sorry"})
    trace = {"$without": ["Traceback", 'File "']}
    said = {"message": trace, "details": trace}
    b.result("a", NO_BODY, code="UNKNOWN", reason="program_error", retryable=False, **said)
    yield t
    about = "What a worker does not have is said by name."
    t, b = new("what-is-not-offered", "R-6.7", about)
    b.begins().dispatch("a", "nothing", {}, revision="r1").result("a", code="NOT_FOUND", reason="unknown_program")
    b.dispatch("b", "echo", {"text": "x"}, revision="r0").result("b", code="NOT_FOUND", reason="unknown_revision")
    b.dispatch("c", "echo", {"text": "x"}, profile="nobody's").result("c", code="NOT_FOUND", reason="unknown_profile")
    yield t


def _crashes() -> Iterator[Transcript]:
    about = "A process that dies gives its job back, with the blame; what it had finished counts; the worker goes on."
    t, b = new("crash", "R-6.28 R-6.7", about)
    b.begins().dispatch("a", "echo", {"text": "x"})
    b.dispatch("b", "die", {"ms": 300}, want=["started"])
    b.any_order(
        {"t": "result", "lease": b.lease("a"), "code": "OK"},
        {"t": "started", "lease": b.lease("b")},
    )
    b.send("ack", leases=[b.lease("a")])
    b.expect("released", lease=b.lease("b"), started=True, cause="crash", blame="self", within=9000)
    b.nothing()
    b.add(expect={"t": "ready", "slots": {"default": 2}}, awaiting=True)
    b.dispatch("c", "echo", {"text": "x"}, isolate=True).result("c", {"outputs": {"text": "x"}})
    yield t
    about = "When several jobs were on the process, nobody knows which: all of them may have been it."
    t, b = new("crash-with-two-jobs", "R-6.28", about)
    b.begins().dispatch("a", "nap", {"ms": 60000}, want=["started"]).expect("started")
    b.dispatch("b", "die", {"ms": 100}, want=["started"]).expect("started")
    b.any_order(
        {"t": "released", "lease": b.lease("a"), "started": True, "cause": "crash", "blame": "shared"},
        {"t": "released", "lease": b.lease("b"), "started": True, "cause": "crash", "blame": "shared"},
    )
    b.nothing()
    b.add(expect={"t": "ready", "slots": {"default": 2}}, awaiting=True)
    b.dispatch("c", "echo", {"text": "x"}).result("c")
    yield t
