"""transcripts/broker-stops.json: deadlines, cancels, fenced attempts (SPEC section 7)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.vector_encodings import LEASE
from tests.conformance.vector_steps import NO_BODY, Transcript, get, put

USAGE = {"calls": 1, "models": {"m": {"input_tokens": 5, "output_tokens": 7, "cost": None}}}


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _deadlines()
    yield from _cancels()


def _deadlines() -> Iterator[Transcript]:
    about = "A job whose time is over in the queue ends at once."
    t = Transcript("deadline-in-the-queue", "R-7.2 R-5.6", about)
    c = t.client()
    c.submit("j", timeout_ms=200)
    said = {"reason": "deadline", "attempt": 0, "retryable": True}
    c.expect("result", job="j", code="DEADLINE_EXCEEDED", after=150, within=2000, **said)
    yield t
    about = "In flight the worker is told, and its result has the last word about everything but the code."
    t = Transcript("deadline-in-flight", "R-7.3", about)
    c, w = t.client(), t.worker(slots=2)
    c.submit("a", timeout_ms=200).submit("b", timeout_ms=200)
    w.dispatch("a").dispatch("b")
    for job in ("a", "b"):
        w.expect("cancel", lease=get(f"{job}.lease"), cause="deadline", grace_ms=5000, within=2000)
        w.say("chunk", job, {"fields": {}}, seq=0)
    for job, code in (("a", "OK"), ("b", "CANCELLED")):
        w.result(job, code, usage=USAGE, timings={"run_ms": 9})
        usage = {"calls": 1}
        c.expect("result", NO_BODY, job=job, code="DEADLINE_EXCEEDED", reason="deadline", usage=usage, attempt=1)
    yield t
    about = "A timeout over the announced limit is refused."
    t = Transcript("timeout-over-the-limit", "R-7.1", about, limits={"max_timeout_ms": 1000})
    c = t.client()
    c.submit("j", timeout_ms=1001).refused("bad_header", job="j")
    c.submit("k", timeout_ms=1000, want=["accepted"]).expect("accepted", job="k")
    yield t


def _cancels() -> Iterator[Transcript]:
    about = "cancel reaches the worker, as often as it is sent; the one result answers it, also afterwards."
    t = Transcript("cancel", "R-7.5 R-7.6", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j")
    for _ in range(2):
        c.send("cancel", job="j")
        w.expect("cancel", lease=get("j.lease"), cause="cancel", grace_ms=5000)
    w.result("j", "CANCELLED", reason="cancelled", usage=USAGE)
    c.done("j", "CANCELLED", reason="cancelled", usage={"calls": 1})
    c.send("cancel", job="j").done("j", "CANCELLED")
    yield t
    about = "A result that was earlier than the cancel wins, also with OK."
    t = Transcript("cancel-comes-too-late", "R-7.5", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j")
    c.send("cancel", job="j")
    w.expect("cancel", cause="cancel")
    w.result("j")
    c.expect("result", {"outputs": {"answer": "j"}}, job="j", code="OK")
    yield t
    about = "Only the attached client may cancel; an unknown job is not found, a forgotten one neither."
    t = Transcript("who-may-cancel", "R-7.6", about)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("j")
    w.dispatch("j")
    d.send("cancel", job="j").refused("not_attached", job="j")
    d.send("cancel", job="k").refused("unknown_job", job="k")
    w.nothing()
    w.result("j")
    c.done("j")
    c.send("ack", jobs=["j"])
    c.send("cancel", job="j").refused("unknown_job", job="j")
    yield t
    about = "A worker that does not answer is fenced: the job ends without it, its slot stays taken until it settles."
    t = Transcript("an-ignored-cancel", "R-7.7 R-7.10 R-6.6", about, grace_ms=200)
    c, w = t.client(), t.worker()
    c.submit("j").submit("next")
    w.dispatch("j")
    c.send("cancel", job="j")
    w.expect("cancel", cause="cancel", grace_ms=200)
    c.expect("result", job="j", code="CANCELLED", reason="cancelled", usage=None, after=1000, within=4000)
    w.expect("cancel", lease=get("j.lease"), cause="fenced")
    w.nothing()
    w.say("result", "j", {"outputs": {}}, code="OK", usage={"calls": 3, "models": {}})
    ack = {"t": "ack", "leases": [get("j.lease")]}
    w.any_order(ack, {"t": "dispatch", "job": "next", "lease": put("next.lease")})
    w.result("next")
    c.done("next")
    yield t
    about = "While a job is being stopped, what its worker sends but the result is dropped; a release ends it."
    t = Transcript("released-while-cancelling", "R-5.4", about)
    c, w = t.client(), t.worker()
    c.submit("j", want=["chunks", "started"])
    w.dispatch("j")
    c.send("cancel", job="j")
    w.expect("cancel", cause="cancel")
    w.say("started", "j", revision="r1", worker="w")
    w.say("chunk", "j", {"fields": {"a": "x"}}, seq=0)
    w.nothing()
    c.nothing()
    w.released("j", started=True)
    c.done("j", "CANCELLED", reason="cancelled")
    yield t
    about = "While it is being stopped a job can be joined; the end goes to whoever is attached then."
    t = Transcript("joined-while-cancelling", "R-5.4 R-5.7 R-5.9", about)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("j")
    w.dispatch("j")
    c.send("cancel", job="j")
    w.expect("cancel", cause="cancel")
    d.submit("j", want=["accepted"]).expect("accepted", job="j", state="cancelling", duplicate=True)
    c.refused("superseded", job="j")
    w.nothing()
    w.result("j", "CANCELLED", reason="cancelled")
    d.done("j", "CANCELLED")
    yield t
    about = "If its worker is lost, or no longer has it, while it is being stopped, it has ended; it is not run again."
    t = Transcript("lost-while-cancelling", "R-5.4 R-6.18 R-6.23", about)
    c, w = t.client(), t.worker(slots=3)
    for job in ("kept", "absent", "late"):
        c.submit(job, **({"timeout_ms": 200} if job == "late" else {}))
        w.dispatch(job)
    for job in ("kept", "absent"):
        c.send("cancel", job=job)
        w.expect("cancel", lease=get(f"{job}.lease"), cause="cancel")
    w.expect("cancel", lease=get("late.lease"), cause="deadline", within=3000)
    w.resync(3, [w.held("kept"), w.held("late")], ["kept", "late"])
    w.any_order(
        {"t": "cancel", "lease": get("kept.lease"), "cause": "cancel"},
        {"t": "cancel", "lease": get("late.lease"), "cause": "deadline"},
    )
    c.done("absent", "CANCELLED", reason="cancelled")
    w.send("bye").nothing()
    ended = {"t": "result", "attempt": 1}
    c.any_order(
        {**ended, "job": "kept", "code": "CANCELLED", "reason": "cancelled"},
        {**ended, "job": "late", "code": "DEADLINE_EXCEEDED", "reason": "deadline"},
    )
    t.worker("w2", slots=3).nothing()
    yield t
    about = "Messages under a lease that nobody has are dropped; only a result is acknowledged."
    t = Transcript("unknown-leases", "R-6.6 R-6.4", about)
    w = t.worker()
    w.send("chunk", {"fields": {}}, lease=LEASE, attempt=1, seq=0)
    w.send("released", lease=LEASE, started=True, cause="crash")
    w.nothing()
    w.send("result", {"outputs": {}}, lease=LEASE, attempt=1, code="OK").expect("ack", leases=[LEASE])
    yield t
