"""transcripts/worker.json: what a worker under test does; the transcript is its broker.

The worker has two slots in the lane `default` and the programs of protocol/vectors/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from tests.conformance.vector_encodings import DIGEST, LIMITS, Fields
from tests.conformance.vector_forms import Form, PairMap, write
from tests.conformance.vector_steps import NO_BODY, Peer, Transcript, get, put

FAR = {"ping_ms": 10000, "dead_ms": 30000}
STORY = "Once upon a time there was a queue that never grew."
PROGRAMS = ("echo", "nap", "story", "fail", "die", "large")


class Broker(Peer):
    """Writes the steps of the broker that the worker meets."""

    epoch = ""
    leases = 0

    def welcome(self, *, limits: Fields | None = None, **times: int) -> Self:
        """hello comes, and is answered."""
        self.expect("hello", features={"$has": ["chunks"]})
        bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000, **times}
        limits = {**LIMITS, **(limits or {})}
        features = ["held", "isolate", "attach"]
        return self.send("welcome", epoch=self.epoch, session="s", features=features, **bounds, limits=limits)

    def reports(self, *held: Fields) -> Self:
        """The worker's first ready, with these leases."""
        return self.expect("ready", worker=put("worker"), held=list(held), more=False)

    def begins(self, **welcome: Any) -> Self:
        """A session of a worker that holds nothing."""
        self.welcome(**welcome)
        offers = [{"$contains": {"name": name, "revision": put(f"{name}.revision")}} for name in PROGRAMS]
        self.expect("ready", slots={"default": 2}, programs={"$all": offers}, held=[], more=False, worker=put("worker"))
        return self.synced()

    def synced(self, *labels: str) -> Self:
        """The page is answered: these leases go on."""
        return self.send("synced", keep=[self.lease(label) for label in labels])

    def lease(self, label: str) -> str:
        """The text of a lease."""
        return f"{self.epoch}-{label}"

    def dispatch(self, label: str, program: str, inputs: Any, **fields: Any) -> Self:
        """Dispatch a job."""
        body = fields.pop("body", {"inputs": inputs})
        ids = {"lease": self.lease(label), "ns": "anonymous", "job": f"job-{label}", "digest": DIGEST}
        revision = get(f"{program}.revision")
        return self.send("dispatch", body, **{**ids, "attempt": 1, "program": program, "revision": revision, "timeout_ms": 60000, **fields})

    def held(self, label: str, **fields: Any) -> Fields:
        """How the worker reports a lease."""
        ids = {"lease": self.lease(label), "ns": "anonymous", "job": f"job-{label}", "digest": DIGEST}
        return {**ids, "attempt": 1, "state": "running", **fields}

    def say(self, t: str, label: str, body: Any = None, **fields: Any) -> Self:
        """A message about a lease."""
        return self.send(t, body, lease=self.lease(label), **fields)

    def result(self, label: str, body: Any = None, *, ack: bool = True, **fields: Any) -> Self:
        """The result of a lease comes, and is acknowledged."""
        self.expect("result", body, **{"lease": self.lease(label), "attempt": 1, "code": "OK", **fields})
        return self.send("ack", leases=[self.lease(label)]) if ack else self

    def cancelled(self, label: str) -> Self:
        """Stop an attempt, and take its result."""
        self.say("cancel", label, cause="cancel", grace_ms=5000)
        return self.result(label, NO_BODY, code="CANCELLED", reason="cancelled")

    def chunk(self, label: str, **fields: Any) -> Self:
        """A chunk of a lease comes."""
        return self.expect("chunk", lease=self.lease(label), **{"attempt": 1, **fields})

    def stream(self, label: str, text: str = STORY, at_most: int | None = None, **fields: Any) -> Self:
        """Chunks come, numbered on, until the result; with those before they make this text."""
        step: Fields = {"expect_stream": {"lease": self.lease(label), "fields": {"answer": text}}}
        if at_most is not None:
            step["expect_stream"]["at_most"] = at_most
        self.add(**step)
        return self.result(label, {"outputs": {"answer": text}}, chunks=get(f"{self.lease(label)}.chunks"), **fields)


class WorkerTranscript(Transcript):
    """A transcript with a worker under test."""

    def broker(self) -> Broker:
        """The broker."""
        self.peers["b"] = "broker"
        made = Broker(self, "b")
        made.epoch = self.name
        return made


def _new(name: str, rules: str, about: str) -> tuple[WorkerTranscript, Broker]:
    t = WorkerTranscript(name, rules, about)
    return t, t.broker()


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _frames()
    yield from _life()
    yield from _held()
    yield from _attempts()
    yield from _cancels()
    yield from _results()
    yield from _crashes()
    yield from _streams()
    yield from _inputs()


def _frames() -> Iterator[Transcript]:
    about = "Whatever arrives, the worker goes on: frames and headers that are wrong are dropped."
    t, b = _new("junk-from-the-broker", "R-2.1 R-2.10", about)
    b.begins().dispatch("a", "nap", {"ms": 60000})
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
    t, b = _new("legal-forms", "R-2.6 R-2.7 R-4.2 R-14.4", about)
    b.begins()
    b.send("telepathy", lease=b.lease("a"), n=1)
    b.frames(b"DJP1", write({"n": 5, "t": "ping"}, Form(integer=64, signed=True, head=32)))
    b.expect("pong", n=5)
    b.dispatch("a", "echo", {"text": "x"}, later={"a": [1, None]}, x_private=True).result("a", {"outputs": {"text": "x"}})
    b.send("error", code="LATER", reason="later", message="about nothing that you know").nothing()
    yield t


def _life() -> Iterator[Transcript]:
    about = "hello, welcome, then ready with all that is held; nothing else before the last synced."
    t, b = _new("hello-and-ready", "R-3.6 R-6.13 R-6.16 R-6.20", about)
    b.expect("hello")
    b.add(expect_silence_ms=200)
    bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    b.send("welcome", epoch=b.epoch, session="s", features=[], **bounds, limits=LIMITS)
    offers = [{"$contains": {"name": name, "revision": put(f"{name}.revision")}} for name in PROGRAMS]
    b.expect("ready", slots={"default": 2}, programs={"$all": offers}, held=[], more=False, worker=put("worker"))
    b.dispatch("early", "echo", {"text": "x"}).nothing()
    b.synced().nothing()
    b.dispatch("a", "echo", {"text": "x"}).result("a")
    b.lost()
    b.welcome().expect("ready", worker=get("worker"), held=[])
    b.synced()
    yield t
    about = "ping is answered at once with its number, and a worker that is told nothing pings by itself."
    t, b = _new("pings", "R-3.12 R-3.13", about)
    b.begins(ping_ms=200, dead_ms=5000)
    b.send("ping", n=(1 << 53) - 1).expect("pong", n=(1 << 53) - 1)
    b.silent()
    b.expect("ping", within=2000)
    b.add(silent=False)
    yield t
    about = "A broker that is silent for dead_ms is taken for dead: a new session, that reports what is held."
    t, b = _new("silence-of-the-broker", "R-3.14 R-6.13", about)
    b.begins(ping_ms=200, dead_ms=600).dispatch("a", "nap", {"ms": 60000}).silent()
    b.add(expect={"t": "hello"}, skipping=["ping"])
    b.add(silent=False)
    bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    b.send("welcome", epoch=b.epoch, session="s", features=[], **bounds, limits=LIMITS)
    b.reports(b.held("a", left_ms={"$from": [1, 60000]})).synced("a").cancelled("a")
    yield t
    for name, rules, about in (
        ("no-session", "R-3.9", "After no_session, as many as come, the worker says one hello and reports what it holds."),
        ("bye-from-the-broker", "R-3.23 R-14.4", "A broker that says bye, for whatever reason, is greeted again."),
    ):
        t, b = _new(name, f"{rules} R-3.29", about)
        b.begins().dispatch("a", "nap", {"ms": 60000})
        if name == "no-session":
            for _ in range(3):
                b.send("error", code="FAILED_PRECONDITION", reason="no_session", retryable=True)
        else:
            b.send("bye", reason="a reason of a later version")
        b.welcome().reports(b.held("a")).synced("a").cancelled("a")
        yield t
    about = "A worker that was stopped for longer than dead_ms starts nothing of what waited in its socket."
    t, b = _new("stopped-and-continued", "R-3.15 R-3.16", about)
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
    t, b = _new("results-are-kept", "R-6.7 R-6.13 R-8.11", about)
    b.begins().dispatch("a", "echo", {"text": "x"}).result("a", ack=False)
    for _ in range(2):
        b.lost()
        b.welcome().reports(b.held("a", state="done")).synced("a").result("a", {"outputs": {"text": "x"}}, ack=False)
    b.send("ack", leases=[b.lease("a")]).nothing()
    b.lost()
    b.welcome().reports().synced()
    yield t
    about = "What a worker runs goes on over the loss of its broker, whatever the epoch; its result waits for synced."
    t, b = _new("running-over-a-restart", "R-6.13 R-6.16 R-8.11", about)
    b.begins().dispatch("a", "nap", {"ms": 700}, want=["started"])
    b.expect("started", lease=b.lease("a"), attempt=1).lost()
    b.expect("hello")
    t.wait(900)
    bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    b.send("welcome", epoch="another-epoch", session="s", features=[], **bounds, limits=LIMITS)
    b.reports(b.held("a", state="done")).nothing()
    b.synced("a").result("a", {"outputs": {"ms": 700}})
    yield t
    about = "What keep leaves out is stopped and forgotten, and nothing is sent about it."
    t, b = _new("dropped-leases", "R-6.15 R-8.5", about)
    b.begins().dispatch("done", "echo", {"text": "x"}).result("done", ack=False)
    b.dispatch("runs", "nap", {"ms": 300}, want=["started"]).expect("started").lost()
    b.welcome().expect("ready", held={"$all": [{"$contains": b.held("done", state="done")}, {"$contains": b.held("runs")}]})
    b.synced().nothing()
    t.wait(500)
    b.nothing().lost()
    b.welcome().reports().synced()
    yield t


def _attempts() -> Iterator[Transcript]:
    about = "An attempt ends in one result, under its lease and attempt; nothing is sent that is not wanted."
    t, b = _new("an-attempt", "R-6.2 R-6.7 R-4.8 R-2.22", about)
    fields = {"attempt": 7, "chunks": 0, "revision": get("echo.revision"), "reason": None, "retryable": False}
    b.begins().dispatch("a", "echo", {"text": "größer"}, attempt=7)
    b.result("a", {"outputs": {"text": "größer"}}, timings={"run_ms": {"$from": [0, 60000]}}, **fields)
    b.dispatch("b", "echo", {"text": "x"}, want=["started"])
    b.expect("started", NO_BODY, lease=b.lease("b"), attempt=1, revision=get("echo.revision"))
    b.result("b").nothing()
    yield t
    about = "A dispatch for which there is no slot is given back, unstarted; the same dispatch twice is one."
    t, b = _new("no-free-slot", "R-6.7 R-6.11", about)
    b.begins()
    for label in ("a", "a", "b"):
        b.dispatch(label, "nap", {"ms": 60000})
    b.dispatch("c", "echo", {"text": "x"})
    b.expect("released", NO_BODY, lease=b.lease("c"), started=False, cause="capacity", blame="none")
    b.cancelled("a").cancelled("b")
    yield t
    about = "After drain what runs may end; what still runs after grace_ms is given back; the worker stays, and takes jobs."
    t, b = _new("drain", "R-6.30 R-6.28", about)
    b.begins().dispatch("short", "nap", {"ms": 300}).dispatch("long", "nap", {"ms": 60000}, want=["started"])
    b.expect("started", lease=b.lease("long"))
    b.send("drain", grace_ms=1000)
    b.result("short")
    b.expect("released", lease=b.lease("long"), started=True, cause="drain", blame="none", within=9000)
    b.add(expect={"t": "ready", "slots": {"default": 2}}, awaiting=True)
    b.dispatch("a", "echo", {"text": "x"}).result("a")
    yield t


def _cancels() -> Iterator[Transcript]:
    about = "A cancelled attempt ends with one result, named after the cause; a cancel for another lease is ignored."
    t, b = _new("cancel", "R-7.8 R-6.7", about)
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
    t, b = _new("cancel-comes-too-late", "R-7.8", about)
    b.begins().dispatch("a", "echo", {"text": "x"}).result("a", ack=False)
    b.say("cancel", "a", cause="cancel", grace_ms=1000).nothing()
    b.send("ack", leases=[b.lease("a")])
    yield t
    about = "The worker keeps time itself, from when the dispatch came."
    t, b = _new("deadline", "R-7.4", about)
    b.begins().dispatch("a", "nap", {"ms": 60000}, timeout_ms=300)
    fields = {"code": "DEADLINE_EXCEEDED", "reason": "deadline", "usage": {"$not": None}}
    b.expect("result", NO_BODY, lease=b.lease("a"), attempt=1, after=250, within=5000, **fields)
    b.send("ack", leases=[b.lease("a")])
    yield t


def _results() -> Iterator[Transcript]:
    about = "Outputs over max_body_bytes of welcome become result_too_large."
    t, b = _new("result-too-large", "R-2.16", about)
    b.begins(limits={"max_body_bytes": 2000}).dispatch("a", "large", {"size": 3000})
    b.result("a", NO_BODY, code="RESOURCE_EXHAUSTED", reason="result_too_large", retryable=False)
    b.dispatch("b", "large", {"size": 1000}).result("b")
    yield t
    about = "So does a result that the broker refuses: it must arrive in some form."
    t, b = _new("result-refused", "R-6.12", about)
    b.begins().dispatch("a", "echo", {"text": "x"}).result("a", ack=False)
    b.say("error", "a", code="RESOURCE_EXHAUSTED", reason="body_too_large")
    b.result("a", NO_BODY, code="RESOURCE_EXHAUSTED", reason="result_too_large", details=None).nothing()
    yield t
    about = "A program that fails says how, without a stack trace."
    t, b = _new("a-program-that-fails", "R-12.3", about)
    b.begins().dispatch("a", "fail", {"text": "sorry"})
    said = {"message": {"$without": ["Traceback", "File \""]}, "details": {"traceback": None}}
    b.result("a", NO_BODY, code="UNKNOWN", reason="program_error", retryable=False, **said)
    yield t
    about = "What a worker does not have is said by name."
    t, b = _new("what-is-not-offered", "R-6.7", about)
    b.begins().dispatch("a", "nothing", {}, revision="r1").result("a", code="NOT_FOUND", reason="unknown_program")
    b.dispatch("b", "echo", {"text": "x"}, revision="r0").result("b", code="NOT_FOUND", reason="unknown_revision")
    b.dispatch("c", "echo", {"text": "x"}, profile="nobody's").result("c", code="NOT_FOUND", reason="unknown_profile")
    yield t


def _crashes() -> Iterator[Transcript]:
    about = "A process that dies gives its job back, with the blame; what it had finished counts; the worker goes on."
    t, b = _new("crash", "R-6.28 R-6.7", about)
    b.begins().dispatch("a", "echo", {"text": "x"})
    b.dispatch("b", "die", {"ms": 300}, want=["started"])
    b.any_order(
        {"t": "result", "lease": b.lease("a"), "code": "OK"},
        {"t": "started", "lease": b.lease("b")},
    )
    b.send("ack", leases=[b.lease("a")])
    b.expect("released", lease=b.lease("b"), started=True, cause="crash", blame="self", within=9000)
    b.add(expect={"t": "ready", "slots": {"default": 2}}, awaiting=True)
    b.dispatch("c", "echo", {"text": "x"}, isolate=True).result("c", {"outputs": {"text": "x"}})
    yield t
    about = "When several jobs were on the process, nobody knows which: all of them may have been it."
    t, b = _new("crash-with-two-jobs", "R-6.28", about)
    b.begins().dispatch("a", "nap", {"ms": 60000}, want=["started"]).expect("started")
    b.dispatch("b", "die", {"ms": 100}, want=["started"]).expect("started")
    b.any_order(
        {"t": "released", "lease": b.lease("a"), "started": True, "cause": "crash", "blame": "shared"},
        {"t": "released", "lease": b.lease("b"), "started": True, "cause": "crash", "blame": "shared"},
    )
    b.add(expect={"t": "ready", "slots": {"default": 2}}, awaiting=True)
    b.dispatch("c", "echo", {"text": "x"}).result("c")
    yield t


def _streams() -> Iterator[Transcript]:
    story = {"text": STORY}
    about = "Text comes in chunks numbered from 0, that together are the output; result counts them."
    t, b = _new("stream", "R-9.1 R-9.2 R-9.3 R-9.4", about)
    b.begins().dispatch("a", "story", story, want=["chunks"])
    b.chunk("a", seq=0, reset=False).chunk("a", seq=1, reset=False).stream("a")
    yield t
    about = "An attempt above 1 begins with a reset."
    t, b = _new("stream-of-a-later-attempt", "R-9.6", about)
    b.begins().dispatch("a", "story", story, want=["chunks"], attempt=2)
    b.chunk("a", seq=0, reset=True, attempt=2).stream("a", attempt=2)
    yield t
    about = "Without credit the text waits and is not lost: what is left goes out as one chunk before the result."
    t, b = _new("window", "R-9.9 R-9.3 R-9.11", about)
    b.begins().dispatch("a", "story", story, want=["chunks"], window=1)
    b.chunk("a", seq=0).nothing()
    t.wait(150)
    b.nothing().say("credit", "a", attempt=1, upto=2)
    b.chunk("a", seq=1).say("credit", "a", attempt=1, upto=1).say("credit", "a", attempt=2, upto=99)
    b.stream("a", at_most=1)
    yield t
    about = "attach: what is wanted is replaced, started comes again, then all text so far as one reset."
    t, b = _new("attach", "R-9.6 R-9.13 R-9.2", about)
    b.begins().dispatch("a", "story", story, want=["chunks"]).chunk("a", seq=0)
    b.say("attach", "a", want=["started", "chunks"], window=2)
    b.add(expect={"t": "started", "lease": b.lease("a"), "attempt": 1}, skipping=["chunk"])
    b.chunk("a", reset=True).stream("a", at_most=2)
    yield t
    about = "An attach that wants nothing ends the chunks; later ones begin with a reset, and numbers go on."
    t, b = _new("attach-that-wants-nothing", "R-9.13", about)
    b.begins().dispatch("a", "story", story, want=["chunks"]).chunk("a", seq=0)
    b.say("attach", "a", want=[])
    b.add(expect={"t": "result", "lease": b.lease("a"), "code": "OK"}, body={"outputs": {"answer": STORY}}, skipping=["chunk"])
    b.send("ack", leases=[b.lease("a")])
    yield t


def _inputs() -> Iterator[Transcript]:
    about = "Inputs are checked before anything else, and each that is wrong is named."
    t, b = _new("invalid-inputs", "R-11.17", about)
    b.begins()
    wrong = {"code": "INVALID_ARGUMENT", "reason": "invalid_inputs", "retryable": False}
    for label, inputs, field, problem in (
        ("a", {}, "text", "missing"),
        ("b", {"text": "x", "size": 1}, "size", "unknown"),
        ("c", {"text": 7}, "text", "type"),
    ):
        details = {"fields": [{"field": field, "problem": problem}]}
        b.dispatch(label, "echo", inputs).result(label, NO_BODY, usage={"calls": 0}, details=details, **wrong)
    two = {"fields": {"$all": [{"$contains": {"field": "text"}}, {"$contains": {"field": "size"}}]}}
    b.dispatch("d", "echo", {"size": 1}).result("d", details=two, **wrong)
    yield t
    about = "In bodies an empty array is an empty map; what is no map is refused."
    t, b = _new("bodies", "R-2.21", about)
    b.begins()
    b.dispatch("a", "echo", None, body={"inputs": []}).result("a", code="INVALID_ARGUMENT", reason="invalid_inputs")
    b.dispatch("b", "nap", None, body={"inputs": {"ms": 3.0}, "later": 1}).result("b", {"outputs": {"ms": 3}})
    b.dispatch("c", "echo", None, body={"$hex": "c1"}).result("c", code="INVALID_ARGUMENT", reason="invalid_body")
    b.dispatch("d", "echo", None, body={"inputs": "x"}).result("d", code="INVALID_ARGUMENT", reason="invalid_body")
    yield t
