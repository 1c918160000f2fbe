"""transcripts/broker-jobs.json: one end, duplicates, attach, retention (SPEC sections 2, 4, 5)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.vector_steps import NO_BODY, Transcript, get, octets, question

USAGE = {"calls": 1, "models": {"m": {"input_tokens": 5, "output_tokens": 7, "cost": None}}}


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _bodies()
    yield from _order()
    yield from _ends()
    yield from _duplicates()
    yield from _attach()
    yield from _owner_gone()
    yield from _retention()


def _bodies() -> Iterator[Transcript]:
    about = "Bodies of jobs are passed on octet by octet, whatever they hold."
    t = Transcript("bodies-are-not-read", "R-2.20 R-9.5", about)
    c, w = t.client(), t.worker()
    odd = octets(b"\xc1\x00 not msgpack \xff")
    c.submit("j", body=odd, want=["chunks", "progress"])
    w.dispatch("j", body=odd)
    w.say("chunk", "j", odd, seq=0)
    c.expect("chunk", odd, job="j", attempt=1, seq=0)
    w.say("progress", "j", odd, done=1)
    c.expect("progress", odd, job="j", done=1)
    w.result("j", "OK", odd)
    c.expect("result", odd, job="j", code="OK")
    yield t
    about = "An empty body is no body: the digest is the same, and so is the job."
    t = Transcript("empty-bodies", "R-2.2 R-5.2", about)
    c, w = t.client(), t.worker()
    c.send("submit", job="j", program="qa", timeout_ms=60000, want=["accepted"])
    c.expect("accepted", NO_BODY, job="j", duplicate=False)
    w.dispatch("j", body=NO_BODY, digest="dc045db2a8b6072328d217014122b06b")
    c.send("submit", octets(b""), job="j", program="qa", timeout_ms=60000, want=["accepted"])
    c.expect("accepted", job="j", duplicate=True)
    w.expect("attach", lease=get("j.lease"))
    yield t
    about = "What a submit says reaches the worker, which may be any; the timeout is what is left."
    t = Transcript("dispatch-has-what-submit-had", "R-2.24 R-11.3", about)
    c, w = t.client(), t.peer("w", "worker")
    said = {"profile": "p", "lane": "batch", "window": 3, "trace": {"traceparent": "00-1"}, "revision": "r1"}
    c.submit("j", want=["started", "chunks"], timeout_ms=60000, **said)
    t.wait(100)
    w.hello("w", features=["chunks"])
    w.send(
        "ready", worker="w", slots={"batch": 1}, programs=[{"name": "qa", "revision": "r1"}], profiles=["p"], held=[]
    )
    w.expect("synced")
    left = {"$from": [30000, 59900]}
    w.dispatch("j", body=question("j"), timeout_ms=left, want=["started", "chunks"], isolate=False, **said)
    yield t


def _order() -> Iterator[Transcript]:
    about = "accepted, then what the worker sends in its order, then the result, then nothing."
    t = Transcript("order-of-a-job", "R-4.4 R-4.7 R-9.5", about)
    c, w = t.client(), t.worker()
    c.submit("j", want=["accepted", "started", "chunks", "progress"])
    c.expect("accepted", job="j", duplicate=False, waiting=False, missing=[])
    w.dispatch("j")
    w.say("started", "j", revision="r1", worker="w/1")
    w.say("chunk", "j", {"fields": {"a": "x"}}, seq=0)
    w.say("progress", "j", done=1, total=2, note="half")
    w.say("chunk", "j", {"fields": {"a": "y"}}, seq=1)
    w.result("j", chunks=2, usage=USAGE, revision="r1", timings={"run_ms": 5, "lm_ms": 4})
    c.expect("started", job="j", attempt=1, revision="r1", worker="w/1")
    c.expect("chunk", {"fields": {"a": "x"}}, job="j", attempt=1, seq=0, reset=False)
    c.expect("progress", job="j", attempt=1, done=1, total=2, note="half")
    c.expect("chunk", {"fields": {"a": "y"}}, job="j", attempt=1, seq=1)
    timings = {"queued_ms": {"$from": [0, 10000]}, "run_ms": 5, "lm_ms": 4}
    usage = {"calls": 1, "models": {"m": {"input_tokens": 5, "output_tokens": 7}}}
    body = {"outputs": {"answer": "j"}}
    c.expect("result", body, job="j", attempt=1, code="OK", chunks=2, revision="r1", timings=timings, usage=usage)
    yield t
    about = "Nothing is sent that is not wanted, and what is not wanted is not passed on either."
    t = Transcript("what-is-not-wanted", "R-4.7 R-9.5", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j", want=[])
    w.say("started", "j", revision="r1", worker="w/1")
    w.say("chunk", "j", {"fields": {"a": "x"}}, seq=0)
    w.say("progress", "j", done=1)
    w.result("j")
    c.done("j")
    yield t


def _ends() -> Iterator[Transcript]:
    about = "A result passes as its worker made it, in all its fields."
    t = Transcript("a-result-that-is-not-ok", "R-5.5", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j")
    said = {"reason": "lm_rate_limited", "message": "slow down", "retryable": True, "retry_after_ms": 7}
    w.result("j", "RESOURCE_EXHAUSTED", details={"status": 429}, **said)
    c.expect("result", NO_BODY, job="j", attempt=1, code="RESOURCE_EXHAUSTED", details={"status": 429}, **said)
    yield t
    about = "A second result of an attempt changes nothing, and is acknowledged."
    t = Transcript("a-result-never-changes", "R-5.5 R-6.6", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j").result("j")
    w.result("j", "INTERNAL", reason="internal")
    c.done("j")
    c.submit("j").done("j")
    yield t
    about = "A submit that is refused has made nothing: the same id is new afterwards."
    t = Transcript("refused-means-nothing-was-made", "R-5.5", about)
    c, w = t.client(), t.worker()
    c.submit("j", "unheard-of").refused("unknown_program", job="j")
    c.submit("j", fail_fast=True, profile="big").refused("no_worker", job="j")
    c.submit("j", timeout_ms=2592000001).refused("bad_header", job="j")
    c.submit("j")
    w.dispatch("j").result("j")
    c.done("j")
    yield t
    about = "A job that ends in the queue has attempt 0, no chunks and no revision."
    t = Transcript("an-end-in-the-queue", "R-5.6 R-7.6", about)
    c = t.client()
    c.submit("j").send("cancel", job="j")
    c.done("j", "CANCELLED", reason="cancelled", attempt=0, chunks=0, revision=None, usage=None)
    yield t


def _duplicates() -> Iterator[Transcript]:
    about = "The same submit again attaches to the same job, whatever else it says; the deadline stays."
    t = Transcript("submit-again", "R-5.7 R-5.13", about)
    c, w = t.client(), t.worker()
    c.submit("j", want=["accepted"], timeout_ms=60000)
    c.expect("accepted", job="j", duplicate=False)
    w.dispatch("j")
    other = {"timeout_ms": 1, "priority": 0, "lane": "batch", "affinity": "a", "redeliver": False, "fail_fast": True}
    c.submit("j", want=["accepted", "chunks"], window=4, **other)
    c.expect("accepted", job="j", duplicate=True, state="dispatched", attempt=1)
    w.expect("attach", lease=get("j.lease"), want=["accepted", "chunks"], window=4)
    t.wait(100)
    w.result("j")
    c.done("j")
    yield t
    about = "The same id with another program, revision, profile or body is a conflict, in every state of the job."
    t = Transcript("id-conflicts", "R-5.8 R-5.2 R-5.17", about)
    c, w = t.client(), t.worker("w", slots=None)
    conflicts = ({"program": "other"}, {"revision": "r1"}, {"profile": "p"}, {"body": question("other")})

    def conflict() -> None:
        for change in conflicts:
            c.submit("j", **change).refused("id_conflict", job="j")

    c.submit("j")
    conflict()
    w.ready(1, held=[]).expect("synced")
    w.dispatch("j")
    conflict()
    w.say("started", "j", revision="r1", worker="w")
    conflict()
    c.send("cancel", job="j")
    w.expect("cancel", cause="cancel")
    conflict()
    w.result("j", "CANCELLED", reason="cancelled")
    c.done("j", "CANCELLED")
    conflict()
    c.send("ack", jobs=["j"])
    conflict()
    yield t
    about = "A second session that submits the same takes over; the first is told that, and hears no more of it."
    t = Transcript("superseded", "R-5.9", about)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("j", want=["chunks"])
    w.dispatch("j")
    d.submit("j", want=["chunks"])
    w.expect("attach", lease=get("j.lease"), want=["chunks"])
    c.refused("superseded", job="j", retryable=False)
    w.say("chunk", "j", {"fields": {"a": "x"}}, seq=0)
    d.expect("chunk", job="j", seq=0)
    c.nothing()
    c.send("cancel", job="j").refused("not_attached", job="j")
    w.result("j")
    d.done("j")
    yield t


def _attach() -> Iterator[Transcript]:
    about = "attach joins a job without its inputs, and is always answered by accepted."
    t = Transcript("attach", "R-5.12 R-5.13 R-4.7", about, adopt_ms=0)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("j", want=["chunks"], window=9, on_disconnect="keep")
    w.dispatch("j")
    d.send("attach", job="j")
    d.expect("accepted", job="j", state="dispatched", attempt=1, duplicate=True)
    w.expect("attach", lease=get("j.lease"), want=[], window=None)
    c.refused("superseded", job="j")
    d.send("bye").nothing()
    w.result("j")
    c.send("attach", job="j").expect("accepted", job="j", state="done").done("j")
    c.send("ack", jobs=["j"])
    c.send("attach", job="j").refused("result_gone", job="j")
    c.send("attach", job="nobody's").refused("unknown_job", job="nobody's")
    yield t
    about = "What is wanted now, not what was, says which workers will do."
    t = Transcript("attach-changes-who-can-run-it", "R-5.7 R-11.3", about)
    c, w = t.client(), t.worker("w", features=[])
    c.submit("j", want=["accepted", "chunks"])
    c.expect("accepted", job="j", state="queued", waiting=True, missing=["features"])
    c.submit("j", want=["started"])
    w.dispatch("j", want=["started"]).result("j")
    c.done("j")
    yield t
    about = "attach to a job that waits changes what it wants."
    t = Transcript("attach-to-a-queued-job", "R-5.7 R-5.12", about)
    c, d = t.client(), t.client("d")
    c.submit("j", want=["accepted"])
    c.expect("accepted", job="j", state="queued", attempt=0, waiting=True, missing=["program"])
    d.send("attach", job="j", want=["started"])
    d.expect("accepted", job="j", state="queued", waiting=True)
    c.refused("superseded")
    w = t.worker()
    w.dispatch("j", want=["started"])
    w.say("started", "j", revision="r1", worker="w")
    d.expect("started", job="j")
    w.result("j")
    d.done("j")
    yield t


def _owner_gone() -> Iterator[Transcript]:
    about = "A job whose client was lost is cancelled after orphan_ms, unless somebody attaches or it is to be kept."
    t = Transcript("orphans", "R-5.15 R-5.14", about, orphan_ms=300, client_ping_ms=50, grace_ms=60000)
    c, w = t.client(), t.worker(slots=3)
    c.submit("dropped").submit("kept", on_disconnect="keep").submit("taken")
    w.dispatch("dropped").dispatch("kept").dispatch("taken")
    c.lost()
    t.wait(200)
    d = t.client("d")
    d.submit("taken")
    w.expect("attach", lease=get("taken.lease"))
    w.expect("cancel", lease=get("dropped.lease"), cause="cancel")
    w.result("dropped", "CANCELLED", reason="cancelled")
    w.result("kept").result("taken")
    d.done("taken")
    d.submit("dropped").done("dropped", "CANCELLED")
    d.submit("kept").done("kept")
    yield t
    about = "A queued job of a client that said bye ends as client_gone."
    t = Transcript("client-gone", "R-5.15", about)
    c = t.client()
    c.submit("j").send("bye").nothing()
    t.client("d").submit("j").done("j", "CANCELLED", reason="client_gone", attempt=0)
    yield t


def _retention() -> Iterator[Transcript]:
    about = "A result is sent again for as long as it is kept, and after its ack the job is never run again."
    t = Transcript("kept-until-acknowledged", "R-5.16 R-5.17 R-5.18", about)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("j")
    w.dispatch("j").result("j")
    c.done("j")
    c.submit("j").done("j")
    d.send("ack", jobs=["j", "nobody's"]).nothing()
    c.submit("j", want=["accepted"]).expect("accepted", job="j", state="done", duplicate=True).done("j")
    c.send("ack", jobs=["j"])
    c.submit("j").refused("result_gone", job="j", retryable=False)
    w.nothing()
    yield t
    about = "A result that nobody is attached to is acknowledged by whoever has it."
    t = Transcript("ack-in-the-next-session", "R-5.18", about, client_ping_ms=100)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j").result("j")
    c.done("j").lost()
    t.wait(500)
    d = t.client("d")
    d.send("ack", jobs=["j"])
    d.submit("j").refused("result_gone", job="j")
    yield t
    about = "An ack counts for jobs that are done only."
    t = Transcript("ack-of-a-job-that-runs", "R-5.18 R-5.4", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j")
    c.send("ack", jobs=["j"]).nothing()
    w.result("j")
    c.done("j")
    yield t
    about = "What nobody acknowledges is kept for retain_ms, then only its tombstone is."
    t = Transcript("kept-for-retain-ms", "R-5.16 R-5.17", about, retain_ms=400)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j").result("j")
    c.done("j")
    c.submit("j").done("j")
    t.wait(700)
    c.submit("j").refused("result_gone", job="j")
    yield t
    about = "Past the budget of octets the oldest results are forgotten first."
    t = Transcript("budget-of-results", "R-5.16", about, retain_bytes=3000)
    c, w = t.client(), t.worker()
    for job in ("a", "b", "c1"):
        c.submit(job)
        w.dispatch(job).result(job, "OK", {"outputs": {"a": "x" * 1300}})
        c.done(job)
    c.submit("a").refused("result_gone")
    c.submit("c1").done("c1")
    yield t
    about = "Tombstones are bounded; the oldest id is new again."
    t = Transcript("tombstones-are-bounded", "R-5.17", about, tombstones=2)
    c, w = t.client(), t.worker()
    for job in ("a", "b", "c1"):
        c.submit(job)
        w.dispatch(job).result(job)
        c.done(job)
        c.send("ack", jobs=[job])
    c.submit("b").refused("result_gone")
    c.submit("a")
    w.dispatch("a").result("a")
    c.done("a")
    yield t
